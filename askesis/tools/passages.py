"""A text cut into passages: at paragraphs where it can be, at lines, sentences or words where it must."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE = re.compile(r"[^\n]*\n?")


def spans(text: str, most: int, *, join: bool = True) -> list[tuple[int, int]]:
    """(start, stop) of each passage, in order, none of more than `most` characters, none with blank ends.

    What is between them is white space alone. join: consecutive paragraphs share a passage while they fit into it.
    """
    found: list[tuple[int, int]] = []
    for start, stop in _paragraphs(text):
        if join and found and stop - found[-1][0] <= most:
            found[-1] = found[-1][0], stop
            continue
        found += _pieces(text, start, stop, most)
    return found


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Runs of lines that are not blank, without blank ends."""
    start = stop = -1
    for match in _LINE.finditer(text):
        line = match.group()
        if line.strip():
            if start < 0:
                start = match.start() + len(line) - len(line.lstrip())
            stop = match.start() + len(line.rstrip())
        elif start >= 0:
            yield start, stop
            start = -1
    if start >= 0:
        yield start, stop


def _pieces(text: str, start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """A paragraph in pieces of at most `most` characters."""
    while stop - start > most:
        end = _break(text, start, start + most)
        piece = text[start:end]
        yield start, start + len(piece.rstrip())
        start = end + len(text[end:stop]) - len(text[end:stop].lstrip())
    if start < stop:
        yield start, stop


def _break(text: str, start: int, end: int) -> int:
    """The best place to cut before `end`: behind a line, else a sentence, else a word; not in the first third."""
    least = start + (end - start) // 3
    for mark in ("\n", ". ", " "):
        at = text.rfind(mark, least, end)
        if at > start:
            return at + len(mark)
    return end
