"""Sentences of running text with a piece left out: what can be asked of any document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from askesis.envs.research.corpus.entries import MOST_TEXT, Fact, V, X, normal, plain, rank

BLANK = "____"
_MOST = 4  # of one document
_SHORTEST, _LONGEST = 40, 240  # characters of a sentence
_PARAGRAPH = re.compile(r"(?:^[^\s#|>.:=+*\-<{\[].*(?:\n|\Z))+", re.MULTILINE)
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'])")
_PIECES = {
    "code": re.compile(r"(?<![`:])(`{1,2})(?![`\s])([^`\n]{2,40})(?<!\s)\1(?!`)"),
    "number": re.compile(r"(?<![\w.,`-])()(\d[\d.,]*\d|\d{2,})(?![\w`-])"),
}


def blanks(text: str, package: str) -> list[Fact]:
    """Facts of a document's running text: a sentence in which a piece of code or a number is left out."""
    found = [fact for paragraph in _PARAGRAPH.finditer(text) for fact in _of(paragraph.group(), package)]
    return sorted(found, key=lambda fact: rank(fact.text))[:_MOST]


def _of(paragraph: str, package: str) -> Iterator[Fact]:
    if ">>>" in paragraph or "::" in paragraph:
        return
    for sentence in _END.split(paragraph.strip()):
        said = normal(sentence)
        if not (_SHORTEST <= len(said) <= min(_LONGEST, MOST_TEXT)) or said[-1] not in ".!?" or said.count(" ") < 6:
            continue
        for kind, value, mark in _pieces(said):
            asked = said.replace(f"{mark}{value}{mark}", f"{mark}{BLANK}{mark}")
            yield Fact(
                kind=kind,
                question=f'What stands for {BLANK} where {X} says: "{asked}"?',
                claim=f'{X} says: "{said.replace(f"{mark}{value}{mark}", f"{mark}{V}{mark}")}"',
                value=value,
                text=said,
                pool=f"{package}/{kind}/{_shape(value)}",
                also=(f"{mark}{value}{mark}",) if mark else (),
            )
            break


def _shape(value: str) -> str:
    """Values of one shape could be taken for each other: names, other code, numbers with as many parts."""
    return "name" if re.fullmatch(r"[A-Za-z_][\w.]*", value) else re.sub(r"\d+", "9", re.sub(r"[^\d.,]+", "", value))


def _pieces(sentence: str) -> Iterable[tuple[str, str, str]]:
    """(kind, value, marks around it) of what could be left out: it stands there once, and says something."""
    for kind, pattern in _PIECES.items():
        for match in pattern.finditer(sentence):
            mark, value = match.groups()
            if len(plain(value)) > 1 and sentence.casefold().count(plain(value)) == 1:
                yield kind, value, mark
