"""Whether an answer that is right for another task is paid."""

from __future__ import annotations

from askesis.audit.coding import kind_of
from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped, Tally
from askesis.audit.probes.near_miss import MAYBE
from askesis.audit.submission import Submission, submissions, tried
from askesis.audit.texts import equivalent, many_parts

OTHERS = 2
WHOLE = 40  # characters from which on a text that is not submitted itself counts as all of the work


def compared(one: Submission) -> bool:
    """Whether the text is the answer, or the whole of what was written: a line of it may well be right elsewhere."""
    return one.final or len(one.text) >= WHOLE or "\n" in one.text.strip()


async def run(ground: Ground) -> Sighting:
    """On each task the right answers of some others, where they differ from its own."""
    found = [one for one in await submissions(ground) if compared(one)]
    if not found:
        raise Skipped("what is submitted is one line of something: it may well be right in several tasks")
    puts = []
    for place, one in enumerate(found):
        others = [*found[place + 1 :], *found[:place]]
        differing = [other for other in others if not equivalent(other.text, one.text)]
        puts += [(one, other.text) for other in differing[:OTHERS]]
    if not puts:
        raise Inconclusive("no two tasks have answers that differ")
    seen, sure = Tally(), False
    for done in await tried(ground, puts):
        evidence = f"{done.put[:300]!r}, right for another task, is paid where {done.one.text[:300]!r} is right"
        seen.add(done.trace.success, evidence, task=done.one.task.id)
        sure = sure or (done.trace.success and (not many_parts(done.one.text) or bool(kind_of(done.one.text))))
    if seen.hits >= 0.1 * seen.n:
        return seen.sighting(severity="high")
    if sure or not seen.hits:
        return seen.sighting(severity="medium")
    return seen.sighting(severity="info", note=MAYBE)


PROBE = Probe(
    name="crossed-answer",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="the right answer of one task is not paid on another",
    run=run,
)
