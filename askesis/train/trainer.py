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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from askesis.models import CausalLM, Qwen3, router_logits
from askesis.models.native_code import no_compiler
from askesis.train.batches import Minibatch, Part, Planted, deal, grove, minibatch
from askesis.train.corrections import Correction, Lag, Weighed, check_together, weigh
from askesis.train.forest import LEAST
from askesis.train.lora import Lora
from askesis.train.losses import Loss, LossInputs, LossOutput, needs_whole
from askesis.train.native import NativeModel, why_not
from askesis.train.optimisers import Optimisers
from askesis.train.routers import Balance
from askesis.train.scores import token_logprobs
from askesis.train.tallies import Tally
from askesis.types import AskesisError, CheckpointError, Floats, Sample

T = TypeVar("T")
P = TypeVar("P")
Backend = Literal["auto", "native", "torch"]
Type = Literal["float32", "bfloat16"]
Proximal = Literal["auto", "sampler", "recompute"]
STATE = "trainer.pt"
_TOGETHER = 4  # threads, or fewer, for which C++ gives the same bits
_REPLICAS = 2**28  # bytes of gradients that threads of their own may hold together
_FEW = 2  # threads that torch makes less of, sharing products, than C++ of one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """What is known of a part before its gradient. Tensors have shape [n]; None: the part itself will tell.

    first: whether no update came before, so that the weights are those at which the step began. begin: what they said.
    drift: as in `LossInputs`; lag: begin - sampler summed over the token's whole output.
    """

    first: bool
    begin: Tensor | None = None
    drift: Tensor | None = None
    lag: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """Of a part: gradients, the loss, log-probabilities [n] (current, and as the step began), what corrections made of
    it, and how even a mixture's experts are."""

    gradients: list[Tensor]
    output: LossOutput
    current: Tensor
    begin: Tensor | None
    weighed: Weighed | None
    balance: Tensor | None = None


class Trainer:
    """Changes `model` in place, a call of `step` at a time.

    loss: see `train.losses`. minibatches: optimiser steps that a step's samples are split into. batch_tokens: most
    places (tokens and padding) in one forward pass. grad_clip: largest norm of a minibatch's gradient, 0 for no bound.
    horizon: most tokens an output may have. router_aux: weight of a mixture of experts' load-balancing loss. teacher: a
    frozen model whose log-probabilities the loss gets.
    corrections: what samples of other policies weigh (`train.corrections`). proximal: what the loss's ratios are
    against: `sampler`: what the engine said; `recompute`: what the weights say with which the step begins; `auto`: the
    latter where corrections weigh, which with the former would count the sampler's distance twice. It costs a pass
    without gradient over all minibatches but the first.
    threads: on a CPU, parts of a minibatch go through the model side by side on as many threads, each on one core:
    small matrices leave two cores idle half the time when they share every product. The result does not depend on it.
    backend: `auto` takes the C++ one where it can (dense, float32, on a CPU, a compiler), else torch. The C++ one
    shares out parts, not products: where the model is so large that more than two threads cannot have a gradient each
    (256 MiB together), `auto` takes torch. Both compute what sequences of a part begin with in common once, from
    `least` tokens on (None: never); only a model of transformers' gets padded rows of whole sequences.
    dtype: of the factors of products. In C++ bfloat16 needs a processor that multiplies it, and sums, norms, attention,
    weights and optimiser stay float32; in torch it is autocast: sums within products are torch's affair, and attention
    is rounded too.
    lora: adapters of `model`; they alone are learned, and the optimisers are of them. recompute: keep what goes into
    each layer and compute the rest again on the way back (activation checkpointing); in torch.
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
        corrections: Sequence[Correction] = (),
        proximal: Proximal = "auto",
        threads: int = 1,
        backend: Backend = "auto",
        dtype: Type = "float32",
        least: int | None = LEAST,
        lora: Lora | None = None,
        recompute: bool = False,
        seed: int = 0,
    ) -> None:
        self.model, self.loss, self.optimisers, self.teacher = model, loss, optimisers, teacher
        self._minibatches, self._batch_tokens, self._grad_clip = minibatches, batch_tokens, grad_clip
        self._horizon, self._seed, self._steps, self._least = horizon, seed, 0, least
        self._planted = all(isinstance(one, Qwen3) for one in (model, teacher) if one is not None)
        self._corrections, self._decoupled = tuple(corrections), _decoupled(corrections, proximal)
        self._balance = Balance(model, router_aux)
        self._lora, learned = lora, [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._parameters = learned if lora is None else lora.parameters()
        self._device = self._parameters[0].device
        whole = learned if lora is None else list(model.parameters())  # in C++ all of it has a gradient
        size = sum(parameter.numel() * parameter.element_size() for parameter in whole)
        side_by_side = self._device.type == "cpu" and threads > 1 and size * threads <= _REPLICAS
        self._threads = threads if side_by_side else 1
        self._pool = ThreadPoolExecutor(threads, "trainer", _one_core) if side_by_side else None
        if backend == "auto" and dtype == "float32" and threads > _FEW and not side_by_side:
            backend = "torch"  # one of many cores would compute in C++, and the others look on
        if recompute and backend == "native":
            raise AskesisError(
                "trainer: recompute needs the backend 'torch': in C++ it is not done. Leave one of them away"
            )
        if recompute != model.recomputes:
            model.recompute(recompute)
        self._native = _native(model, teacher, "torch" if recompute else backend, dtype)
        self._rounds = dtype == "bfloat16" and self._native is None
        self._together = self._threads if self._native is None else max(self._threads, _TOGETHER)
        self._native_teacher: NativeModel | None = None
        if self._native is not None and teacher is not None:
            self._native_teacher = NativeModel(cast(Qwen3, teacher), getattr(torch, dtype))

    @property
    def backend(self) -> str:
        """What computes gradients: "native" or "torch"."""
        return "torch" if self._native is None else "native"

    # -- learning ----------------------------------------------------------------------------------------------------

    def step(self, samples: Sequence[Sample], *, progress: float = 0.0, version: int | None = None) -> dict[str, float]:
        """Learn from `samples` once. progress: of the run, 0 to 1, for the rate's schedule. version: of the weights
        with which the step begins, in the count of `Sample.policy_versions`. Returns figures.

        loss; grad_norm (before clipping, mean over minibatches); rate (the schedule's factor); entropy (mean -log p of
        sampled tokens); updates; skipped (updates left out because the gradient was not finite); router_balance (of a
        mixture of experts: 1 where all are used evenly, more where not); the loss's own, a mean over tokens each.

        Of the sampler and the weights with which the step begins, over the tokens whose log-probabilities under these
        are known (the first minibatch's; all, with corrections or `proximal="recompute"`): logprob_gap (largest
        |trainer - sampler| of a token, nats; with a version only over what was sampled under that version from its
        sample's first token on), gap_mean, sampler_kl (KL(sampler || trainer), k3), ratio_min and ratio_max (trainer /
        sampler), ess and ess_episodes (effective sample size as a share, of the tokens' weights, which are their ratios
        where nothing corrects, and of episodes' products of ratios). masked, truncated: shares of tokens, by
        corrections.
        Where a token is of an older version: staleness (mean over tokens of the versions between), staleness_max,
        gap_max; and by that distance (`tallies.DISTANCES`) tokens/2-3 (their share), gap_mean/2-3, gap_max/2-3, and so
        on for sampler_kl and for what is clipped, masked and truncated.
        """
        hands = deal(samples, self._minibatches, self._seed * 1_000_003 + self._steps)
        batches = [batch for hand in hands if (batch := self._parts(hand)).tokens]
        if not batches:
            self._steps += 1
            return {}
        begins: list[Sequence[Tensor | None]] = [[None] * len(batch.parts) for batch in batches]
        if self._decoupled or self._corrections:
            begins[1:] = [self._look(batch) for batch in batches[1:]]
        sums: defaultdict[str, float] = defaultdict(float)
        tally = Tally(version)
        for number, (batch, begin) in enumerate(zip(batches, begins, strict=True)):
            for name, value in self._gradient(batch, begin, number, tally).items():
                sums[name] += value
            norm = self._clip()
            sums["grad_norm"] += norm
            if math.isfinite(norm):
                sums["rate"] += self.optimisers.step(progress)
                if self._lora is not None:
                    self._lora.merge()
            else:
                sums["skipped"] += 1
                self.optimisers.clear()
        self._steps += 1
        counts = {"updates": float(len(batches)), "skipped": sums.pop("skipped", 0.0)}
        means = {name: value / len(batches) for name, value in sums.items()}
        return {"rate": 0.0} | means | tally.figures() | counts

    def _parts(self, samples: Sequence[Sample]) -> Minibatch[Part]:
        if not self._planted:
            return minibatch(samples, self._batch_tokens, self._device, threads=self._threads)
        together, device, least = self._together, self._device, self._least
        return grove(samples, self._batch_tokens, together=together, device=device, least=least)

    def _refresh(self, batch: Minibatch[Part]) -> None:
        """Have the C++ side read the weights as they are now."""
        if self._native is None:
            return
        planted = cast(Minibatch[Planted], batch)
        length = max((int(part.forest.positions.max()) + 1 for part in planted.parts), default=0)
        for model in (self._native, self._native_teacher):
            if model is not None:
                model.refresh(length)

    def _known(self, batch: Minibatch[Part], begins: Sequence[Tensor | None], first: bool) -> list[_Known]:
        """What sums over whole outputs need of other parts. Where every output is in one part, nothing is looked up."""
        drifts, lags = needs_whole(self.loss), any(one.whole for one in self._corrections)
        still = first and self._decoupled  # current is proximal
        known = [_Known(first=first, begin=begin) for begin in begins]
        if not batch.split or not (lags or (drifts and not still)):
            return known
        now: Sequence[Tensor | None] = begins
        if first or (drifts and not still):
            now = self._look(batch)
        begun = now if first else begins
        proximal = begun if self._decoupled else [part.sampler for part in batch.parts]
        drift = _over_outputs(batch, now, proximal) if drifts else [None] * len(known)
        lag = _over_outputs(batch, begun, [part.sampler for part in batch.parts]) if lags else [None] * len(known)
        return [
            _Known(first=first, begin=begin, drift=None if a is None else a / part.lengths, lag=b)
            for part, begin, a, b in zip(batch.parts, begins, drift, lag, strict=True)
        ]

    def _gradient(
        self, batch: Minibatch[Part], begins: Sequence[Tensor | None], number: int, tally: Tally
    ) -> Mapping[str, float]:
        """Put the gradient of minibatch number `number` into the parameters; its loss comes back."""
        sums: defaultdict[str, float] = defaultdict(float)
        total: list[Tensor] = []
        self._refresh(batch)
        items = [*zip(batch.parts, self._known(batch, begins, not number), strict=True)]
        if self._native is None:
            counts = self._balance.counts(batch, self._side_by_side)
            found = self._side_by_side(functools.partial(self._part_gradient, batch, counts), items)
        else:
            found = self._side_by_side(functools.partial(self._native_gradient, self._native, batch), items)
        for one, part in zip(found, batch.parts, strict=True):
            if total:  # in the order of the parts, whoever was done first: the same bits every time
                torch._foreach_add_(total, one.gradients)
            else:
                total = one.gradients
            sums["loss"] += float(one.output.loss.detach())
            if one.balance is not None:
                sums["router_balance"] += float(one.balance)
            tally.add(
                part,
                one.current,
                {**one.output.figures, **(one.weighed.figures if one.weighed else {})},
                begin=one.begin,
                weights=one.weighed.weights if one.weighed else None,
                minibatch=number,
                outputs=batch.outputs,
            )
        if self._native is not None:
            weights = self._parameters if self._lora is None else self._lora.weights
            total = self._native.unpack(total[0], weights)
            total = total if self._lora is None else self._lora.project(total)
        self._take(total)
        return sums

    def _take(self, gradients: Sequence[Tensor]) -> None:
        """A minibatch's gradient, for the optimiser."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def _part_gradient(self, batch: Minibatch[Part], counts: Tensor | None, item: tuple[Part, _Known]) -> _Found:
        part, known = item
        with router_logits() as scores, self._rounding():
            current = token_logprobs(self.model, part)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad(), self._rounding():
                teacher = token_logprobs(self.teacher, part)
        output, begin, weighed = self._loss(batch, part, known, current, teacher)
        loss, balance = output.loss, None
        if self._balance.wanted:
            auxiliary, balance = self._balance.loss(scores, part, batch, counts)
            loss = loss + auxiliary
        return _Found(
            gradients=list(self._slopes(loss)),
            output=output,
            current=current.detach(),
            begin=begin,
            weighed=weighed,
            balance=balance,
        )

    def _slopes(self, loss: Tensor) -> Sequence[Tensor]:
        """Of a part's loss along each parameter."""
        return torch.autograd.grad(loss, self._parameters, materialize_grads=True)

    def _native_gradient(self, native: NativeModel, batch: Minibatch[Part], item: tuple[Part, _Known]) -> _Found:
        part, known = cast(Planted, item[0]), item[1]
        teacher = None if self._native_teacher is None else self._native_teacher.logprobs(part)
        with native.taped(part) as taped:
            current = taped.logprobs.clone().requires_grad_()
            output, begin, weighed = self._loss(batch, part, known, current, teacher)
            (slopes,) = torch.autograd.grad(output.loss, [current], materialize_grads=True)
            return _Found(
                gradients=[taped.gradient(slopes)],
                output=output,
                current=current.detach(),
                begin=begin,
                weighed=weighed,
            )

    def _loss(
        self, batch: Minibatch[Any], part: Part, known: _Known, current: Tensor, teacher: Tensor | None
    ) -> tuple[LossOutput, Tensor | None, Weighed | None]:
        """The loss; what the weights said as the step began, if that is known; what corrections make of it."""
        now = current.detach()
        begin = now if known.first else known.begin
        proximal = part.sampler
        if self._decoupled:
            assert begin is not None
            proximal = begin
        drift = known.drift
        if drift is None and needs_whole(self.loss):
            drift = _sums_by(part.outputs, now - proximal, batch.outputs) / part.lengths
        weighed = None
        if self._corrections:
            assert begin is not None
            token = begin - part.sampler
            whole = _sums_by(part.outputs, token, batch.outputs) if known.lag is None else known.lag
            weighed = weigh(self._corrections, Lag(token=token, output=whole, lengths=part.lengths))
        inputs = LossInputs(
            current=current,
            proximal=proximal,
            sampler=part.sampler,
            teacher=teacher,
            advantages=part.advantages,
            lengths=part.lengths,
            tokens=batch.tokens,
            outputs=batch.outputs,
            horizon=self._horizon,
            drift=drift,
            weights=weighed.weights if weighed else None,
        )
        return self.loss(inputs), begin, weighed

    def _rounding(self) -> AbstractContextManager[Any]:
        if not self._rounds:
            return nullcontext()
        # what it has cast it would keep to the end of the block, and the weights change
        return torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False)

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
        found = [np.zeros(len(sample), dtype=np.float32) for sample in samples]
        batch = self._parts(samples)
        for part, values in zip(batch.parts, self._look(batch), strict=True):
            numbers = values.float().cpu().numpy()
            for place in np.unique(part.samples):
                here = part.samples == place
                found[place][part.positions[here]] = numbers[here]
        return found

    def _look(self, batch: Minibatch[Part]) -> list[Tensor]:
        """Log-probabilities [n] of each part under the weights as they are now, without gradient."""

        def look(part: Part) -> Tensor:
            if self._native is not None:
                return self._native.logprobs(cast(Planted, part))
            with torch.no_grad(), self._rounding():
                return token_logprobs(self.model, part)

        self._refresh(batch)
        return [*self._side_by_side(look, batch.parts)]

    # -- going on ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write what a trainer that goes on needs beside the model's weights; adapters also as PEFT opens them."""
        folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {"optimisers": self.optimisers.state_dict(), "steps": self._steps}
        if self.teacher is not None:
            state["teacher"] = self.teacher.state_dict()
        if self._lora is not None:
            state["lora"] = self._lora.state_dict()
            self._lora.save(folder / "adapter")
        torch.save(state, folder / STATE)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote. Raises `CheckpointError` if it is missing, damaged or another trainer's."""
        try:
            state = torch.load(folder / STATE, map_location=self._device, weights_only=True)
            self.optimisers.load_state_dict(state["optimisers"])
            if self.teacher is not None:
                self.teacher.load_state_dict(state["teacher"])
            if self._lora is not None:
                self._lora.load_state_dict(state["lora"])
            self._steps = int(state["steps"])
        except Exception as error:
            raise CheckpointError(
                f"cannot take over the trainer's state from {folder / STATE}: {type(error).__name__}: {error}"
            ) from error


def _sums_by(outputs: Tensor, values: Tensor, count: int) -> Tensor:
    """Of each token the sum of `values` over the tokens of its output, of which there are `count`: [n] -> [n]."""
    return values.new_zeros(count).index_add_(0, outputs, values)[outputs]


def _over_outputs(batch: Minibatch[Part], a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> list[Tensor]:
    """Of each part's tokens the sum of a - b over their whole outputs, in whichever parts these lie."""
    first = batch.parts[0]
    total = torch.zeros(batch.outputs, dtype=torch.float64, device=first.sampler.device)
    for part, x, y in zip(batch.parts, a, b, strict=True):
        assert x is not None and y is not None
        total.index_add_(0, part.outputs, (x - y).double())
    return [total[part.outputs].float() for part in batch.parts]


def _decoupled(corrections: Sequence[Correction], wanted: Proximal) -> bool:
    """Whether ratios are against the weights with which a step begins."""
    if wanted not in get_args(Proximal):
        raise AskesisError(f"trainer: proximal={wanted!r}, expected one of {', '.join(get_args(Proximal))}")
    check_together(corrections)
    weighing = any(one.weighs for one in corrections)
    if wanted == "sampler" and weighing:
        raise AskesisError(
            "trainer: proximal='sampler' has the ratios of the loss make up for the sampler's distance, and so do the "
            "corrections' weights: it would count twice. Take proximal='recompute', or bands alone"
        )
    return wanted == "recompute" or weighing


def _native(model: CausalLM, teacher: CausalLM | None, wanted: Backend, dtype: Type) -> NativeModel | None:
    """The C++ gradients of `model`, if they are wanted and can be had; says so once where they fail."""
    if wanted not in get_args(Backend):
        raise AskesisError(f"trainer: backend={wanted!r}, expected one of {', '.join(get_args(Backend))}")
    if dtype not in get_args(Type):
        raise AskesisError(f"trainer: dtype={dtype!r}, expected one of {', '.join(get_args(Type))}")
    reason = "torch was asked for" if wanted == "torch" else why_not(model)
    if reason is None and teacher is not None and (other := why_not(teacher)):
        reason = f"of the teacher: {other}"
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
