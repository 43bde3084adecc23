"""What learns and what keeps, with faults put in: trainer, checkpoints, trace store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from askesis.loop.faults.acting import FaultyEnv
from askesis.loop.faults.plan import FaultPlan, failed, full_disk, stall
from askesis.loop.learner import Learner
from askesis.loop.prepared import Prepared
from askesis.types import Sample

_WEIGHTS = "model.safetensors"


class FaultyLearner(Learner):
    """A learner whose steps and whose part of a checkpoint meet faults.

    A step's failure comes before anything has changed, or, at every second failure, after the
    weights have: the one can be repeated, the other cannot. Its lie: weights that are no numbers. A checkpoint's lie is
    a bit of its weights that is another on disk.
    """

    def __init__(self, prepared: Prepared, plan: FaultPlan) -> None:
        super().__init__(prepared)
        self._plan, self._model, self._failures = plan, prepared.model, 0

    def _once(self, samples: Sequence[Sample], **how: Any) -> Mapping[str, float]:
        met = self._plan.draw("trainer", f"{len(samples)} samples")
        kind = None if met is None else met.kind
        late = False
        if kind == "fail":
            self._failures += 1
            late = self._failures % 2 == 0
            if not late:
                raise RuntimeError(failed("trainer", "before anything changed"))
        stall(met)
        figures = super()._once(samples, **how)
        if late:
            raise RuntimeError(failed("trainer", "after the weights changed"))
        if kind == "lie":
            with torch.no_grad():
                next(iter(self._model.parameters())).view(-1)[0] = float("nan")
        return figures

    def save(self, folder: Path) -> None:
        """As `Learner.save`; the weights lie beside `folder` by then."""
        lie = self._plan.meet_here("checkpoint", folder.parent.name, full_disk(str(folder)))
        super().save(folder)
        weights = folder.parent / _WEIGHTS
        if lie is not None and weights.is_file():
            with weights.open("r+b") as file:
                file.seek(-1, 2)
                last = file.read(1)
                file.seek(-1, 2)
                file.write(bytes([last[0] ^ 1]))


def learner_of(prepared: Prepared, plan: FaultPlan | None) -> Learner:
    """What learns."""
    return Learner(prepared) if plan is None else FaultyLearner(prepared, plan)


def inject(prepared: Prepared, plan: FaultPlan | None, record: Path) -> None:
    """Put the plan's faults into environment and engine. record: where they are written down."""
    if plan is not None:
        plan.record_to(record)
        prepared.env, prepared.faults = FaultyEnv(prepared.env, plan), plan
        if prepared.cluster is not None:
            prepared.cluster.faults = plan


def faulty_writes(plan: FaultPlan | None) -> Callable[[str], None] | None:
    """What a trace store asks before each of its writes; None where the plan has no fault for it."""
    if plan is None or "store" not in plan:
        return None

    def before(what: str) -> None:
        plan.meet_here("store", what, sqlite3.OperationalError("database or disk is full (injected fault)"))

    return before
