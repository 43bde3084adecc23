"""One trainer for supervised learning, reinforcement and distillation: samples in, a better model out.

It does not know where samples come from. The log-probabilities that it computes are those of the temperature-scaled,
untruncated distribution, as the engine's are.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from askesis.models import CausalLM, Qwen3, router_logits
from askesis.models.native_code import no_compiler
from askesis.train.batches import Minibatch, Part, Planted, deal, grove, minibatch
from askesis.train.forest import LEAST
from askesis.train.losses import Loss, LossInputs, LossOutput
from askesis.train.native import NativeModel, why_not
from askesis.train.optimisers import Optimisers
from askesis.train.routers import Balance
from askesis.train.scores import token_logprobs
from askesis.types import AskesisError, CheckpointError, Floats, Sample

T = TypeVar("T")
P = TypeVar("P", bound=Part)
Backend = Literal["auto", "native", "torch"]
Type = Literal["float32", "bfloat16"]
_STATE = "trainer.pt"
_Found = tuple[list[Tensor], LossOutput, Tensor, Part, Tensor | None]
"""Of a part: gradients, the loss, log-probabilities, the part, and how even a mixture's experts are."""
_REPLICAS = 2**28  # bytes of gradients that threads of their own may hold together
_FEW = 2  # threads that torch makes less of, sharing products, than C++ of one


class Trainer:
    """Changes `model` in place, a call of `step` at a time.

    loss: see `train.losses`. minibatches: optimiser steps that a step's samples are split into. batch_tokens: most
    places (tokens and padding) in one forward pass. grad_clip: largest norm of a minibatch's gradient, 0 for no bound.
    horizon: most tokens an output may have. router_aux: weight of a mixture of experts' load-balancing loss. teacher: a
    frozen model whose log-probabilities the loss gets.
    threads: on a CPU, parts of a minibatch go through the model side by side on as many threads, each on one core:
    small matrices leave two cores idle half the time when they share every product. The result does not depend on it.
    backend: `auto` takes the C++ one where it can (dense, float32, on a CPU, a compiler), else torch. The C++ one
    shares out parts, not products: where the model is so large that more than two threads cannot have a gradient each
    (256 MiB together), `auto` takes torch. Both compute what sequences of a part begin with in common once, from
    `least` tokens on (None: never); only a model of transformers' gets padded rows of whole sequences.
    dtype: of the factors of products in the C++ one; bfloat16 needs a processor that multiplies it. Sums, norms,
    attention, weights and optimiser stay float32.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        loss: Loss,
        optimisers: Optimisers,
        minibatches: int = 1,
        batch_tokens: int = 2048,
        grad_clip: float = 1.0,
        horizon: int = 1024,
        router_aux: float = 0.0,
        teacher: CausalLM | None = None,
        threads: int = 1,
        backend: Backend = "auto",
        dtype: Type = "float32",
        least: int | None = LEAST,
        seed: int = 0,
    ) -> None:
        self.model, self.loss, self.optimisers, self.teacher = model, loss, optimisers, teacher
        self._minibatches, self._batch_tokens, self._grad_clip = minibatches, batch_tokens, grad_clip
        self._horizon, self._seed, self._steps, self._least = horizon, seed, 0, least
        self._planted = all(isinstance(one, Qwen3) for one in (model, teacher) if one is not None)
        self._balance = Balance(model, router_aux)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._device = self._parameters[0].device
        size = sum(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        side_by_side = self._device.type == "cpu" and threads > 1 and size * threads <= _REPLICAS
        self._threads = threads if side_by_side else 1
        self._pool = ThreadPoolExecutor(threads, "trainer", _one_core) if side_by_side else None
        if backend == "auto" and dtype == "float32" and threads > _FEW and not side_by_side:
            backend = "torch"  # one of many cores would compute in C++, and the others look on
        self._native = _native(model, teacher, backend, dtype)
        self._native_teacher: NativeModel | None = None
        if self._native is not None and teacher is not None:
            self._native_teacher = NativeModel(cast(Qwen3, teacher), getattr(torch, dtype))

    @property
    def backend(self) -> str:
        """What computes gradients: "native" or "torch"."""
        return "torch" if self._native is None else "native"

    # -- learning ----------------------------------------------------------------------------------------------------

    def step(self, samples: Sequence[Sample], *, progress: float = 0.0) -> dict[str, float]:
        """Learn from `samples` once. progress: of the run, 0 to 1, for the rate's schedule. Returns figures.

        loss; grad_norm (before clipping, mean over minibatches); rate (the schedule's factor); logprob_gap (largest
        |trainer - sampler| of a token before the first update, nats); entropy (mean -log p of sampled tokens); updates;
        skipped (updates left out because the gradient was not finite); router_balance (of a mixture of experts: 1 where
        all are used evenly, more where not); and the loss's own, a mean over tokens each.
        """
        figures: defaultdict[str, float] = defaultdict(float)
        gaps: list[float] = []
        learned = tokens = 0
        for hand in deal(samples, self._minibatches, self._seed * 1_000_003 + self._steps):
            batch = self._parts(hand)
            if not batch.tokens:
                continue
            for name, value in self._gradient(batch, None if learned else gaps).items():
                figures[name] += value
            learned, tokens = learned + 1, tokens + batch.tokens
            norm = self._clip()
            figures["grad_norm"] += norm
            if math.isfinite(norm):
                figures["rate"] += self.optimisers.step(progress)
            else:
                figures["skipped"] += 1
                self.optimisers.clear()
        self._steps += 1
        if not learned:
            return {}
        counts = {"updates": float(learned), "skipped": float(figures.pop("skipped", 0.0))}
        means = {name: figures.pop(name, 0.0) / learned for name in ("loss", "grad_norm", "rate")}
        if "router_balance" in figures:
            means["router_balance"] = figures.pop("router_balance") / learned
        return means | {name: value / tokens for name, value in figures.items()} | {"logprob_gap": max(gaps)} | counts

    def _parts(self, samples: Sequence[Sample]) -> Minibatch[Part]:
        if not self._planted:
            return minibatch(samples, self._batch_tokens, self._device, threads=self._threads)
        batch = grove(samples, self._batch_tokens, threads=self._threads, device=self._device, least=self._least)
        length = max((int(part.forest.positions.max()) + 1 for part in batch.parts), default=0)
        for model in (self._native, self._native_teacher):
            if model is not None:
                model.refresh(length)
        return batch

    def _gradient(self, batch: Minibatch[Part], gaps: list[float] | None) -> Mapping[str, float]:
        """Put the minibatch's gradient into the parameters; sums over its tokens come back."""
        sums: defaultdict[str, float] = defaultdict(float)
        total: list[Tensor] = []
        if self._native is None:
            counts = self._balance.counts(batch, self._side_by_side)
            found = self._side_by_side(functools.partial(self._part_gradient, batch, counts), batch.parts)
        else:
            planted = cast(Minibatch[Planted], batch)
            work = functools.partial(self._native_gradient, self._native, planted)
            found = self._side_by_side(work, planted.parts)
        for gradients, output, current, part, balance in found:
            if total:  # in the order of the parts, whoever was done first: the same bits every time
                torch._foreach_add_(total, gradients)
            else:
                total = gradients
            sums["loss"] += float(output.loss.detach())
            sums["entropy"] -= float(current.sum())
            for name, value in output.sums.items():
                sums[name] += float(value)
            if balance is not None:
                sums["router_balance"] += float(balance)
            if gaps is not None:
                gaps.append(float((current - part.sampler).abs().max()))
        if self._native is not None:
            total = self._native.unpack(total[0], self._parameters)
        for parameter, gradient in zip(self._parameters, total, strict=True):
            parameter.grad = gradient
        return sums

    def _part_gradient(self, batch: Minibatch[Part], counts: Tensor | None, part: Part) -> _Found:
        with router_logits() as scores:
            current = token_logprobs(self.model, part)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = token_logprobs(self.teacher, part)
        output = self._loss(batch, part, current, teacher)
        loss, balance = output.loss, None
        if self._balance.wanted:
            auxiliary, balance = self._balance.loss(scores, part, batch, counts)
            loss = loss + auxiliary
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        return list(gradients), output, current.detach(), part, balance

    def _native_gradient(self, native: NativeModel, batch: Minibatch[Planted], part: Planted) -> _Found:
        teacher = None if self._native_teacher is None else self._native_teacher.logprobs(part)
        with native.taped(part) as taped:
            current = taped.logprobs.clone().requires_grad_()
            output = self._loss(batch, part, current, teacher)
            (slopes,) = torch.autograd.grad(output.loss, [current], materialize_grads=True)
            return [taped.gradient(slopes)], output, current.detach(), part, None

    def _loss(self, batch: Minibatch[Any], part: Part, current: Tensor, teacher: Tensor | None) -> LossOutput:
        return self.loss(
            LossInputs(
                current=current,
                proximal=part.sampler,
                sampler=part.sampler,
                teacher=teacher,
                advantages=part.advantages,
                lengths=part.lengths,
                tokens=batch.tokens,
                outputs=batch.outputs,
                horizon=self._horizon,
            )
        )

    def _clip(self) -> float:
        """Scale the gradient down to the bound if it is longer; its norm before."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if 0.0 < self._grad_clip < norm < math.inf:
            torch._foreach_mul_(gradients, self._grad_clip / norm)
        return norm

    def _side_by_side(self, work: Callable[[P], T], parts: Sequence[P]) -> Iterable[T]:
        return map(work, parts) if self._pool is None else self._pool.map(work, parts)

    # -- looking -----------------------------------------------------------------------------------------------------

    def logprobs(self, samples: Sequence[Sample]) -> list[Floats]:
        """What the weights say now of each sample's tokens [n]; 0 where a token carries no loss."""

        def look(part: Part) -> tuple[Part, Tensor]:
            if self._native is not None:
                return part, self._native.logprobs(cast(Planted, part))
            with torch.no_grad():
                return part, token_logprobs(self.model, part)

        found = [np.zeros(len(sample), dtype=np.float32) for sample in samples]
        for part, values in self._side_by_side(look, self._parts(samples).parts):
            numbers = values.float().cpu().numpy()
            for place in np.unique(part.samples):
                here = part.samples == place
                found[place][part.positions[here]] = numbers[here]
        return found

    # -- going on ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write what a trainer that goes on needs beside the model's weights."""
        folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {"optimisers": self.optimisers.state_dict(), "steps": self._steps}
        if self.teacher is not None:
            state["teacher"] = self.teacher.state_dict()
        torch.save(state, folder / _STATE)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote. Raises `CheckpointError` if it is missing, damaged or another trainer's."""
        try:
            state = torch.load(folder / _STATE, map_location=self._device, weights_only=True)
            self.optimisers.load_state_dict(state["optimisers"])
            if self.teacher is not None:
                self.teacher.load_state_dict(state["teacher"])
            self._steps = int(state["steps"])
        except Exception as error:
            raise CheckpointError(
                f"cannot take over the trainer's state from {folder / _STATE}: {type(error).__name__}: {error}"
            ) from error


def _native(model: CausalLM, teacher: CausalLM | None, wanted: Backend, dtype: Type) -> NativeModel | None:
    """The C++ gradients of `model`, if they are wanted and can be had; says so once where they fail."""
    if wanted not in get_args(Backend):
        raise AskesisError(f"trainer: backend={wanted!r}, expected one of {', '.join(get_args(Backend))}")
    if dtype not in get_args(Type):
        raise AskesisError(f"trainer: dtype={dtype!r}, expected one of {', '.join(get_args(Type))}")
    reason = "torch was asked for" if wanted == "torch" else why_not(model)
    if reason is None and teacher is not None and (other := why_not(teacher)):
        reason = f"of the teacher: {other}"
    if dtype != "float32" and reason is not None:
        raise AskesisError(f"trainer: dtype={dtype!r} needs the backend 'native', but {reason}")
    if wanted == "native" and reason is not None:
        raise AskesisError(f"trainer: backend 'native' cannot be used: {reason}")
    if reason is not None:
        if reason == no_compiler():
            logging.getLogger(__name__).warning("trainer: several times slower than it could be: %s", reason)
        return None
    try:
        return NativeModel(cast(Qwen3, model), getattr(torch, dtype))
    except AskesisError as error:
        if wanted == "native" or dtype != "float32":
            raise
        logging.getLogger(__name__).warning("trainer: falls back to torch, which is slower: %s", error)
        return None


def _one_core() -> None:
    torch.set_num_threads(1)
