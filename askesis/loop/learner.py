"""The trainer as a recipe asks for it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from askesis.loop.prepared import Prepared
from askesis.loop.stream import derived_seed
from askesis.train import ADVANTAGES, POLICY_LOSSES, Loss, Optimisers, Trainer, supervised
from askesis.types import Sample


class Learner:
    """Advantages, loss, optimiser and trainer of one run. optimiser_floats: numbers kept for each parameter."""

    def __init__(self, prepared: Prepared) -> None:
        recipe, model = prepared.recipe, prepared.model
        settings = recipe.train
        optimisers = Optimisers(
            model,
            kind=settings.optimizer,
            lr=settings.lr,
            muon_lr=settings.muon_lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            schedule=settings.schedule,
            warmup=settings.warmup,
        )
        self._reinforced = recipe.run.kind == "rl"
        loss: Loss = supervised
        if self._reinforced:
            clip_high = settings.clip_high
            if clip_high is None:
                clip_high = 0.28 if settings.algorithm == "dapo" else settings.clip_low
            policy_loss = POLICY_LOSSES[settings.algorithm]
            loss = functools.partial(policy_loss, low=settings.clip_low, high=clip_high, kl=settings.kl)
        teacher = copy.deepcopy(model).requires_grad_(False) if self._reinforced and settings.kl else None
        self.advantages = ADVANTAGES[settings.advantage]
        self.optimiser_floats = optimisers.floats + (teacher is not None)
        self._trainer = Trainer(
            model,
            loss=loss,
            optimisers=optimisers,
            minibatches=settings.minibatches,
            batch_tokens=settings.batch_tokens,
            grad_clip=settings.grad_clip,
            horizon=recipe.rollout.context_length,
            router_aux=settings.router_aux,
            teacher=teacher,
            threads=prepared.threads,
            dtype=settings.dtype,
            seed=derived_seed(recipe.run.seed, "minibatches"),
        )

    def step(self, samples: Sequence[Sample], *, progress: float) -> Mapping[str, float]:
        """Learn from a step's samples; as `Trainer.step`. Nothing sampled demonstrations, so nothing can be apart."""
        figures = self._trainer.step(samples, progress=progress)
        return figures if self._reinforced else {key: figures[key] for key in figures if key != "logprob_gap"}

    def save(self, folder: Path) -> None:
        """As `Trainer.save`."""
        self._trainer.save(folder)

    def load(self, folder: Path) -> None:
        """As `Trainer.load`."""
        self._trainer.load(folder)
