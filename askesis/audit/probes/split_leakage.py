"""Whether held-out tasks, or nearly the same ones, are among those to train on."""

from __future__ import annotations

import asyncio

from askesis.audit.ground import Ground
from askesis.audit.likeness import alike, shown
from askesis.audit.probe import Probe, Severity, Sighting, Skipped

TASKS = 200  # of each split


async def run(ground: Ground) -> Sighting:
    """Compare two hundred of each."""
    heldout, train = ground.many("heldout", TASKS), ground.many("train", TASKS)
    if not heldout or not train:
        raise Skipped("it has one split alone")
    ids = {task.id: task for task in train}
    same = [task for task in heldout if task.id in ids]
    others = [task for task in heldout if task.id not in ids]
    near = await asyncio.to_thread(alike, others, train)
    evidence = ""
    if same:
        evidence = f"{len(same)} held-out tasks are also in train: {shown(same[0])}"
    elif near.alike:
        place, (at, share) = next(iter(near.alike.items()))
        evidence = f"held out {shown(others[place])} is {share:.0%} the same as {shown(train[at])} of train"
    n = len(heldout)
    return Sighting(
        hits=len(same) + len(near.alike),
        n=n,
        evidence=evidence,
        tasks=tuple(task.id for task in (*same, *(others[place] for place in near.alike))),
        severity=_severity(len(same) / n, len(near.alike) / n),
        note=f"{n} held-out tasks beside {len(train)} to train on: {len(same)} the same, {len(near.alike)} nearly",
    )


def _severity(same: float, near: float) -> Severity:
    if same >= 0.05 or near >= 0.2:
        return "high"
    return "medium" if same or near >= 0.02 else "low"


PROBE = Probe(
    name="split-leakage",
    axis="stability",
    flaw="splits overlap",
    severity="high",
    about="held-out tasks, and nearly the same ones, are not among those to train on",
    run=run,
    seconds=2.0,
)
