"""Whether one and the same answer is right too often."""

from __future__ import annotations

import contextlib
from collections import Counter

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Severity, Sighting, Skipped, Tally
from askesis.audit.submission import Submission, submissions, tried

LEAST = 0.1  # what the rate must surely exceed
ENOUGH = 8  # tasks
STOCK = ("yes", "no", "0", "1", "A")


def severity(rate: float) -> Severity:
    """Of the share that the best constant is paid; a fair choice of two is medium."""
    return "high" if rate >= 0.65 else "medium" if rate >= 0.4 else "low"


def usual(found: list[Submission], one: Submission) -> str:
    """The most frequent right answer of the other tasks."""
    counts = Counter(other.text.strip() for other in found if other.task.id != one.task.id)
    return max(counts, key=lambda text: (counts[text], text)) if counts else one.text


async def run(ground: Ground) -> Sighting:
    """On each task what is most often right on the others, and some stock answers on all; the best of them counts."""
    found = await submissions(ground, final=True)
    if len(found) < ENOUGH:
        raise Inconclusive(f"only {len(found)} tasks have a text as their answer; {ENOUGH} are needed to tell")
    best, said = Tally(), ""
    for constant in ("", *STOCK):
        seen = Tally()
        with contextlib.suppress(Skipped):  # what the schema does not take
            for done in await tried(ground, [(one, constant or usual(found, one)) for one in found]):
                seen.add(done.trace.success, f"{done.put!r} is paid", task=done.one.task.id)
        if (seen.n and seen.hits / seen.n > best.hits / max(1, best.n)) or not best.n:
            best, said = seen, constant or usual(found, found[0])
        if ground.left_s <= 0:
            break
    seen_best = best.sighting(severity=severity(best.hits / max(1, best.n)))
    note = f"the best constant found, {said[:80]!r}, is paid in {best.hits} of {best.n} episodes"
    if seen_best.interval[0] < LEAST:
        return Sighting(hits=0, n=best.n, note=note)
    return best.sighting(note=note, severity=seen_best.severity)


PROBE = Probe(
    name="constant-answer",
    axis="validity",
    flaw="paid without knowing",
    severity="medium",
    about="no one answer is right on many tasks",
    run=run,
    seconds=3.0,
)
