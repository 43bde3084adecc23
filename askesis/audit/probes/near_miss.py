"""Whether an answer that is nearly right, and therefore wrong, is paid."""

from __future__ import annotations

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.audit.submission import answers, tried
from askesis.audit.texts import NEAR, equivalent, many_parts

MOSTLY = 0.5  # of the changed ones; where so many are paid, they are not looked at
MAYBE = "only answers of many parts, and few of them: what is paid may be right as well; see the evidence"


async def run(ground: Ground) -> Sighting:
    """The submitted text with one number, letter or word wrong; that may not be paid as the right one is."""
    puts = []
    for one in await answers(ground):
        for change in NEAR:
            text = change(one.text, ground.rng("near miss", change.__name__, one.task.id))
            if text is not None and not equivalent(text, one.text):
                puts.append((one, text))
    if not puts:
        raise Skipped("no submitted text could be changed into a near miss")
    seen, long = Tally(), Tally()
    for done in await tried(ground, puts):
        hit, parts = done.trace.success, many_parts(done.one.text)
        evidence = f"{done.put!r} is paid where {done.one.text!r} is right"
        seen.add(hit, evidence, task=done.one.task.id)
        if parts:
            long.add(hit)
    if seen.hits and seen.hits == long.hits < MOSTLY * long.n:
        return seen.sighting(severity="info", note=MAYBE)
    return seen.sighting()


PROBE = Probe(
    name="near-miss",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="an answer that is nearly right is not paid",
    run=run,
)
