"""Whether a right answer is paid however it is written."""

from __future__ import annotations

import re

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Severity, Sighting, Skipped, Tally
from askesis.audit.submission import submissions, tried
from askesis.audit.texts import is_number


def blanks(right: str) -> dict[str, str]:
    """With white space around it, which nobody sees."""
    return {"blanks around it": f"  {right} ", "a new line after it": f"{right}\n"}


def spellings(right: str) -> dict[str, str]:
    """As people also write it: with a full stop; a number with a zero; a word with other capitals."""
    words = re.fullmatch(r"[\w ,'-]+|-?\d+", right)
    found = {"a full stop after it": f"{right}."} if words else {}
    if is_number(right):
        found["a decimal zero"] = f"{right}0" if "." in right else f"{right}.0"
    elif right.isascii() and right.replace(" ", "").isalpha() and len(right) > 1:
        found["capitals"] = right.upper() if right != right.upper() else right.lower()
    return {how: text for how, text in found.items() if text != right}


async def run(ground: Ground) -> Sighting:
    """The submitted text written in some other ways; a hit is one that is refused."""
    puts = []
    for one in await submissions(ground, final=True):
        right = one.text.strip()
        puts += [(one, text) for text in (blanks(right) | spellings(right)).values()]
    if not puts:
        raise Skipped("no submitted text can be written in another way")
    seen = Tally()
    ways: dict[str, int] = {}
    severity: Severity = "low"
    for done in await tried(ground, puts):
        right = done.one.text.strip()
        how = next(how for how, text in (blanks(right) | spellings(right)).items() if text == done.put)
        hit = not done.trace.success
        if hit:
            ways[how] = ways.get(how, 0) + 1
            severity = "medium" if how in blanks("") else severity
        seen.add(hit, f"{done.put!r} ({how}) is refused where {right!r} is paid", task=done.one.task.id)
    note = ", ".join(f"{how}: {count} refused" for how, count in sorted(ways.items()))
    return seen.sighting(severity=severity, note=note)


PROBE = Probe(
    name="format",
    axis="validity",
    flaw="too strict",
    severity="medium",
    about="a right answer is paid with blanks around it, other capitals, a full stop, 7.0 for 7",
    run=run,
)
