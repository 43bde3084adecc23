"""A run's trainer where its work is shared by several processes (`train.processes` in a recipe)."""

from __future__ import annotations

import atexit
import copy
import logging
import os
import string
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from askesis.models import Qwen3, save_checkpoint
from askesis.train import Loss
from askesis.train.processes import ADDRESS, KEY, TrainerProcesses, TrainerSpec
from askesis.types import ConfigError, Floats, Sample

_log = logging.getLogger("askesis.loop")
_COMES_S = 1800.0


class SharedTrainer:
    """`Trainer`'s door. `model` is what the run samples with; it gets the processes' weights after every step.

    They begin with its weights at the first call, so that a run that is only planned starts none. teacher: whether a
    copy of these is the loss's teacher. compute, settings, optimisers: as in `TrainerSpec`. begin: starts the group,
    where that is not on this machine; scratch: where its processes find the first weights then. Its processes may be
    in other folders than this one: they are told whole paths.
    ordered: how many steps they were told to make, whatever came of them; none of these may be told once more.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        count: int,
        loss: Loss,
        optimisers: Mapping[str, Any],
        settings: Mapping[str, Any],
        teacher: bool = False,
        compute: str = "float32",
        begin: Callable[[TrainerSpec, int], TrainerProcesses] | None = None,
        scratch: str | None = None,
    ) -> None:
        self._model, self._count, self._teacher = model, count, teacher
        self._begin = begin or _begin_here
        self._scratch = scratch
        self._made = {"loss": loss, "optimisers": optimisers, "trainer": settings, "compute": compute}
        self._group: TrainerProcesses | None = None
        self.ordered = 0

    def _begun(self) -> TrainerProcesses:
        if self._group is None:
            with tempfile.TemporaryDirectory(prefix="askesis-weights-", dir=self._scratch) as scratch:
                folder = Path(scratch).resolve() / "model"
                save_checkpoint(self._model, folder)
                made: dict[str, Any] = copy.copy(self._made)
                spec = TrainerSpec(checkpoint=folder, teacher=folder if self._teacher else None, **made)
                self._group = self._begin(spec, self._count)
            atexit.register(self._group.close)
        return self._group

    def step(self, samples: Sequence[Sample], *, progress: float, version: int | None = None) -> dict[str, float]:
        """As `Trainer.step`."""
        group = self._begun()
        self.ordered += 1
        figures = group.step(samples, progress=progress, version=version)
        if figures:
            group.refresh(self._model)
        return figures

    def logprobs(self, samples: Sequence[Sample]) -> list[Floats]:
        """As `Trainer.logprobs`."""
        return self._begun().logprobs(samples)

    def save(self, folder: Path) -> None:
        """As `Trainer.save`."""
        self._begun().save(folder.resolve())

    def load(self, folder: Path) -> None:
        """As `Trainer.load`."""
        self._begun().load(folder.resolve())

    def close(self) -> None:
        """End the processes."""
        if self._group is not None:
            atexit.unregister(self._group.close)
            self._group.close()
            self._group = None


def awaited(address: str) -> Callable[[TrainerSpec, int], TrainerProcesses]:
    """What waits at `address` for a group that somebody starts. Raises `ConfigError` without the key they share."""
    key = os.environ.get(KEY, "")
    if len(key) < 32 or not all(digit in string.hexdigits for digit in key) or len(key) % 2:
        raise ConfigError(
            f"train.address: expected {KEY} in the environment of the run and of all its trainers: a secret, at least "
            f"32 hexadecimal digits; make one: export {KEY}=$(openssl rand -hex 32)"
        )

    def begin(spec: TrainerSpec, count: int) -> TrainerProcesses:
        group = TrainerProcesses(spec, address=address, key=key, timeout_s=_COMES_S)
        _log.warning(
            "waits at %s for %d trainers, up to %g s; start them with %s=%s and %s set: torchrun ... "
            "-m askesis.train.worker (docs/training-efficiency.md)",
            address,
            count,
            _COMES_S,
            ADDRESS,
            address,
            KEY,
        )
        group.wait()
        if group.size != count:
            group.close()
            raise ConfigError(
                f"train.processes is {count}, but the group that came to {address} has {group.size}: start as many "
                f"(torchrun: --nnodes times --nproc-per-node), or go on with --set train.processes={group.size}"
            )
        return group

    return begin


def _begin_here(spec: TrainerSpec, count: int) -> TrainerProcesses:
    return TrainerProcesses(spec, count=count)
