"""Whether an answer that is nearly right, and therefore wrong, is paid."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.audit.submission import Submission, played_with, submissions

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def other_number(text: str, rng: random.Random) -> str | None:
    """One of its numbers by one more or less."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    one = rng.choice(found)
    value = float(one.group()) + rng.choice((-1, 1))
    return text[: one.start()] + f"{value:g}" + text[one.end() :]


def other_letter(text: str, rng: random.Random) -> str | None:
    """One letter or digit by another."""
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    if not places:
        return None
    at = rng.choice(places)
    pool = "0123456789" if text[at].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return text[:at] + rng.choice([letter for letter in pool if letter != text[at].lower()]) + text[at + 1 :]


def cut_short(text: str, rng: random.Random) -> str | None:
    """Its last word, or the second half of its only one, left out."""
    words = text.split()
    if len(words) > 1:
        return text[: text.rindex(words[-1])].rstrip()
    return text[: len(text) // 2] if len(text) > 1 else None


CHANGES: tuple[Callable[[str, random.Random], str | None], ...] = (other_number, other_letter, cut_short)


async def run(ground: Ground) -> Sighting:
    """The submitted text with one number, letter or word wrong; that may not be paid as the right one is."""
    found = await submissions(ground, final=True)
    seen = Tally()
    for change in CHANGES:
        changed: dict[str, str] = {}
        for one in found:
            text = change(one.text, ground.rng("near miss", change.__name__, one.task.id))
            if text is not None and text.strip().casefold() != one.text.strip().casefold():
                changed[one.task.id] = text
        fitting = [one for one in found if one.task.id in changed]

        def other(one: Submission, changed: dict[str, str] = changed) -> str:
            return changed[one.task.id]

        for one, trace in zip(fitting, await played_with(ground, fitting, other), strict=False):
            seen.add(trace.success, f"{changed[one.task.id]!r} is paid where {one.text!r} is right", task=one.task.id)
    if not seen.n:
        raise Skipped("no submitted text could be changed into a near miss")
    return seen.sighting()


PROBE = Probe(
    name="near-miss",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="an answer that is nearly right is not paid",
    run=run,
)
