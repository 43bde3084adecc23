"""Whether tasks are nearly the same as other tasks of their split."""

from __future__ import annotations

import asyncio

from askesis.audit.ground import Ground
from askesis.audit.likeness import alike, shown
from askesis.audit.probe import Inconclusive, Probe, Sighting

TASKS = 200
_LEAST = 10


async def run(ground: Ground) -> Sighting:
    """Compare two hundred with each other."""
    tasks = ground.many("train", TASKS) or ground.many("heldout", TASKS)
    if len(tasks) < _LEAST:
        raise Inconclusive(f"{len(tasks)} tasks; {_LEAST} are needed to tell")
    found = await asyncio.to_thread(alike, tasks)
    evidence = ""
    if found.alike:
        place, (at, share) = next(iter(found.alike.items()))
        evidence = f"{shown(tasks[place])} is {share:.0%} the same as {shown(tasks[at])}"
    return Sighting(
        hits=len(found.alike),
        n=len(tasks),
        evidence=evidence,
        tasks=tuple(tasks[place].id for place in found.alike),
        severity="medium" if found.share >= 0.5 else "low" if found.share >= 0.05 else "info",
        note=f"of {len(tasks)} tasks {len(found.alike)} have one nearly the same",
    )


PROBE = Probe(
    name="near-duplicates",
    axis="coverage",
    flaw="few tasks",
    severity="low",
    about="tasks are not copies of each other with another number or order",
    run=run,
    seconds=1.5,
)
