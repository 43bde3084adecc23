"""Whether tasks repeat a text that the user names: a benchmark's, or what a model was trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.likeness import shown
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped, Tally
from askesis.types import Task

TASKS = 100
LENGTH = 8  # words in a row


async def run(ground: Ground) -> Sighting:
    """Look for eight words of the reference in a row in prompts and data; what most have is their common form."""
    if not ground.reference:
        raise Skipped("no reference texts were given (--reference FILE)")
    try:
        known = set(_grams(Path(ground.reference).read_text(encoding="utf-8", errors="replace")))
    except OSError as error:
        raise Inconclusive(f"the reference {ground.reference} cannot be read: {error}") from error
    if not known:
        raise Inconclusive(f"the reference {ground.reference} has fewer than {LENGTH} words")
    tasks = ground.many("heldout", TASKS) or ground.many("train", TASKS)
    grams = [{gram for text in _texts(task) for gram in _grams(text)} for task in tasks]
    counts = Counter(gram for own in grams for gram in own)
    seen = Tally()
    for task, own in zip(tasks, grams, strict=True):
        found = sorted(gram for gram in own & known if counts[gram] <= max(1, len(tasks) // 2))
        seen.add(
            bool(found), f"{found[0] if found else ''!r} stands in the reference and in {shown(task)}", task=task.id
        )
    return seen.sighting(severity="high" if seen.hits >= seen.n / 2 else None)


def _grams(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text.casefold())
    for start in range(len(words) - LENGTH + 1):
        yield " ".join(words[start : start + LENGTH])


def _texts(task: Task) -> Iterator[str]:
    yield task.prompt
    yield from _within(task.data)


def _within(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _within(inner)
    elif isinstance(value, list | tuple):
        if all(isinstance(inner, str) for inner in value):
            yield " ".join(value)
        else:
            for inner in value:
                yield from _within(inner)


PROBE = Probe(
    name="reference-overlap",
    axis="realism",
    flaw="contaminated tasks",
    severity="medium",
    about="tasks do not repeat texts of the reference that was given",
    run=run,
    seconds=0.5,
)
