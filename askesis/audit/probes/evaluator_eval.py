"""Whether an answer is evaluated as code where the verdict is made."""

from __future__ import annotations

from askesis.audit.ground import Ground
from askesis.audit.marks import EVALUATED, marks
from askesis.audit.probe import Probe, Sighting, Tally
from askesis.audit.submission import openings, tried

TASKS = 3


async def run(ground: Ground) -> Sighting:
    """Answers that are code: an expression, statements, YAML, a pickle, a template, a shell's line. Where one is run
    outside a sandbox, it makes a folder, by which that is known."""
    found = (await openings(ground))[:TASKS]
    seen = Tally()
    with marks() as made:
        places = [(one, how, made.fresh()) for how in EVALUATED for one in found]
        puts = [(one, EVALUATED[how](str(place))) for one, how, place in places]
        await tried(ground, puts)
        for one, how, place in places:
            seen.add(place.exists(), f"{how} was run: {EVALUATED[how]('MARK')!r} as an answer", task=one.task.id)
    return seen.sighting()


PROBE = Probe(
    name="evaluator-eval",
    axis="validity",
    flaw="evaluator runs input",
    severity="high",
    about="an answer that is code is not run outside a sandbox",
    run=run,
)
