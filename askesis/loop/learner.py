"""The trainer as a recipe asks for it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from askesis.loop.prepared import Prepared
from askesis.loop.recipe import Recipe
from askesis.loop.shared import SharedTrainer, awaited
from askesis.loop.stream import derived_seed
from askesis.train import (
    ADVANTAGES,
    OF_SAMPLER,
    Correction,
    Lora,
    Loss,
    Optimisers,
    Trainer,
    correction,
    policy_loss,
    supervised,
)
from askesis.types import AskesisError, Sample, StallError, TrainerError

_log = logging.getLogger("askesis.loop")


class Learner:
    """Advantages, loss, optimiser and trainer of one run. optimiser_floats: numbers kept for each parameter."""

    def __init__(self, prepared: Prepared) -> None:
        recipe, model = prepared.recipe, prepared.model
        self._parameters = list(model.parameters())
        settings = recipe.train
        teacher = None
        if recipe.run.kind == "rl" and settings.kl:
            teacher = copy.deepcopy(model).requires_grad_(False)  # before there are adapters
        lora = _lora(prepared)
        rates: dict[str, Any] = {
            "kind": settings.optimizer,
            "lr": settings.lr,
            "muon_lr": settings.muon_lr,
            "betas": settings.betas,
            "weight_decay": settings.weight_decay,
            "schedule": settings.schedule,
            "warmup": settings.warmup,
        }
        optimisers = Optimisers(model if lora is None else lora, **rates)
        self._reinforced = recipe.run.kind == "rl"
        loss: Loss = supervised
        if self._reinforced:
            loss = policy_loss(settings.algorithm, low=settings.clip_low, high=settings.clip_high, kl=settings.kl)
        self.advantages = ADVANTAGES[settings.advantage]
        self.optimiser_floats = optimisers.floats + (teacher is not None)
        if lora is not None:
            self._parameters += lora.parameters()  # they change first, and a step that changed them is not repeated
            # of each weight no gradient, but another copy; of adapters themselves too
            share = sum(one.numel() for one in lora.parameters()) / sum(one.numel() for one in model.parameters())
            self.optimiser_floats = share * (2 + optimisers.floats) + (teacher is not None)
        given: dict[str, Any] = {
            "minibatches": settings.minibatches,
            "batch_tokens": settings.batch_tokens,
            "grad_clip": settings.grad_clip,
            "horizon": recipe.rollout.context_length,
            "router_aux": settings.router_aux,
            "corrections": _corrections(recipe),
            "proximal": settings.proximal,
            "recompute": settings.checkpoint_activations,
            "seed": derived_seed(recipe.run.seed, "minibatches"),
        }
        if settings.processes > 1:
            shared: dict[str, Any] = {"settings": given, "teacher": teacher is not None, "compute": settings.dtype}
            if prepared.cluster is not None and recipe.cluster.scratch:
                shared |= {"begin": prepared.cluster.trainers, "scratch": recipe.cluster.scratch}
            elif settings.address:
                shared |= {"begin": awaited(settings.address), "scratch": recipe.run.out}
            self._trainer: Trainer | SharedTrainer = SharedTrainer(
                model, count=settings.processes, loss=loss, optimisers=rates, **shared
            )
            return
        self._trainer = Trainer(
            model,
            loss=loss,
            optimisers=optimisers,
            teacher=teacher,
            threads=prepared.trainer_threads,
            backend=settings.backend,
            dtype=settings.dtype,
            lora=lora,
            **given,
        )

    def step(self, samples: Sequence[Sample], *, progress: float, version: int | None = None) -> Mapping[str, float]:
        """Learn from a step's samples; as `Trainer.step`. Nothing sampled demonstrations, so nothing can be apart.

        A step that fails before it has changed a weight is done once more. Raises `TrainerError` where it fails again,
        fails after that, or makes weights that are no numbers: none of it is committed.
        """
        before = self._mutations()
        try:
            figures = self._once(samples, progress=progress, version=version)
        except Exception as error:
            if isinstance(error, AskesisError) and not isinstance(error, StallError):
                raise
            self._demand_unchanged(before, error)
            _log.warning("a step of the trainer failed before it had changed anything, and is repeated: %r", error)
            try:
                figures = self._once(samples, progress=progress, version=version)
            except Exception as again:
                raise TrainerError(f"a step of the trainer failed, and failed again: {_told(again)}") from again
        self._demand_numbers()
        return figures if self._reinforced else {key: figures[key] for key in figures if key not in OF_SAMPLER}

    def _once(self, samples: Sequence[Sample], *, progress: float, version: int | None) -> Mapping[str, float]:
        return self._trainer.step(samples, progress=progress, version=version if self._reinforced else None)

    def _mutations(self) -> int:
        """Grows with every change of the weights, and where others hold them, with all that may change them."""
        ordered = self._trainer.ordered if isinstance(self._trainer, SharedTrainer) else 0
        return ordered + sum(parameter._version for parameter in self._parameters)

    def _demand_unchanged(self, before: int, error: Exception) -> None:
        if self._mutations() != before:
            may = "may have" if isinstance(self._trainer, SharedTrainer) else "had"
            raise TrainerError(
                f"a step of the trainer failed when it {may} changed the weights already: {_told(error)}. It cannot be "
                "repeated; go on from the last checkpoint with `askesis train --resume`"
            ) from error

    def _demand_numbers(self) -> None:
        norms = torch._foreach_norm([parameter.detach() for parameter in self._parameters])
        if not bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all()):
            raise TrainerError(
                "a step of the trainer made weights that are not finite numbers. The step is not committed; go on from "
                "the last checkpoint with `askesis train --resume`, perhaps with a lower rate"
            )

    def save(self, folder: Path) -> None:
        """As `Trainer.save`."""
        self._trainer.save(folder)

    def load(self, folder: Path) -> None:
        """As `Trainer.load`."""
        self._trainer.load(folder)

    def close(self) -> None:
        """End the processes that share the work, where there are some."""
        if isinstance(self._trainer, SharedTrainer):
            self._trainer.close()


def _corrections(recipe: Recipe) -> list[Correction]:
    settings = recipe.train
    if settings.corrections is not None:
        return [correction(one.name, low=one.low, high=one.high) for one in settings.corrections]
    stale = recipe.rollout.staleness > 0 and settings.proximal != "sampler"
    return [correction("tis")] if stale else []


def _lora(prepared: Prepared) -> Lora | None:
    settings = prepared.recipe.train.lora
    if settings is None:
        return None
    seed = derived_seed(prepared.recipe.run.seed, "adapters")
    return Lora(prepared.model, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=seed)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
