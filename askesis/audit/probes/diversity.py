"""How many different tasks there are in effect."""

from __future__ import annotations

import asyncio

from askesis.audit.ground import Ground
from askesis.audit.likeness import vendi
from askesis.audit.probe import Inconclusive, Probe, Sighting

TASKS = 100
_LEAST, _LOW, _VARYING = 20, 0.1, 0.08


async def run(ground: Ground) -> Sighting:
    """The Vendi score of a hundred tasks, and what share of their words is not in all of them."""
    tasks = ground.many("train", TASKS) or ground.many("heldout", TASKS)
    if len(tasks) < _LEAST:
        raise Inconclusive(f"{len(tasks)} tasks; {_LEAST} are needed to tell")
    score, share = await asyncio.to_thread(vendi, tasks)
    if not share:
        raise Inconclusive("tasks differ in numbers alone: how much these matter cannot be seen")
    same = 1.0 - score / len(tasks)
    few = score / len(tasks) < _LOW
    note = f"{len(tasks)} tasks are as different as {score:.1f} that have nothing in common; {share:.0%} of a task's "
    if not few and share >= _VARYING:
        return Sighting(hits=0, n=len(tasks), note=f"{note}words is its own")
    return Sighting(
        hits=round(same * len(tasks)),
        n=len(tasks),
        evidence=f"{note}words is its own; for example {tasks[0].prompt[:160]!r} and {tasks[1].prompt[:160]!r}",
        note=f"{note}words is its own",
    )


PROBE = Probe(
    name="diversity",
    axis="coverage",
    flaw="little variety",
    severity="low",
    about="tasks are about different things",
    run=run,
    seconds=1.0,
)
