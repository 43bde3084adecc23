"""Optimisers: AdamW, and Muon for matrices with AdamW for the rest; how the rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from askesis.train import shards

Schedule = Literal["constant", "linear", "cosine"]


def rate_factor(progress: float, schedule: Schedule, warmup: float) -> float:
    """What the learning rate is multiplied by at `progress` (0 to 1): up from 0 over `warmup`, then as scheduled."""
    if progress < warmup:
        return progress / warmup
    done = (progress - warmup) / max(1.0 - warmup, 1e-9)
    if schedule == "linear":
        return max(0.0, 1.0 - done)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return 1.0


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end between about 0.7 and 1.2.

    update [..., m, n] -> the same shape. Source: K. Jordan et al., "Muon" (2024): a quintic Newton-Schulz iteration.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.mT if update.shape[-2] > update.shape[-1] else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    direction: Tensor = x.mT if update.shape[-2] > update.shape[-1] else x
    return direction


class Muon(Optimizer):
    """Momentum, orthogonalised, for matrices (ndim 2). Source: K. Jordan et al., "Muon" (2024).

    Matrices of one shape are orthogonalised together, in their own type: a small model has dozens of each, and one
    batched product of 30 costs hardly more than three single ones. A step of an m x n matrix is `lr` x
    sqrt(max(1, m / n)) x the orthogonalised Nesterov momentum. Where matrices are spread over processes, each of them
    gets its share of the matrices whole, orthogonalises these, and sends the rows back; momentum stays spread.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault((*parameter.shape, parameter.dtype), []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum, updates = group["momentum"], []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            shards.local(state["momentum"]).lerp_(shards.local(gradient), 1.0 - momentum)
            updates.append(gradient.lerp(state["momentum"], momentum))
        directions = shards.mapped_whole(updates, orthogonalise)
        rows, columns = parameters[0].shape
        for parameter, direction in zip(parameters, directions, strict=True):
            mine = shards.local(parameter)
            mine.mul_(1.0 - group["lr"] * group["weight_decay"])
            mine.add_(direction, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


class Named(Protocol):
    """A model, or what is learned beside one."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...


class Optimisers:
    """The optimiser of a model: AdamW alone, or Muon for the layers' matrices and AdamW for all else.

    lr: AdamW's; muon_lr: Muon's. Both follow one schedule. betas: AdamW's, the shares that its running means of the
    gradient and of its square keep at each step, each below 1. Weight decay is decoupled and spares vectors (norms).
    """

    def __init__(
        self,
        model: Named,
        *,
        kind: Literal["adamw", "muon"],
        lr: float,
        muon_lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
        warmup: float = 0.0,
    ) -> None:
        self._schedule, self._warmup = schedule, warmup
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [p for name, p in named if kind == "muon" and p.ndim == 2 and ".layers." in f".{name}"]
        taken = {id(parameter) for parameter in matrices}
        rest = [parameter for _, parameter in named if id(parameter) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._all: list[tuple[Optimizer, float]] = []
        if groups:
            self._all.append((AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True), lr))
        if matrices:
            self._all.append((Muon(matrices, lr=muon_lr, weight_decay=weight_decay), muon_lr))
        numbers = sum(p.numel() for p in matrices) + 2 * sum(p.numel() for p in rest)
        self.floats = numbers / max(sum(p.numel() for _, p in named), 1)
        """Numbers kept for each parameter, on average."""

    def step(self, progress: float) -> float:
        """Update the parameters from their gradients, and clear these. Returns the schedule's factor."""
        factor = rate_factor(progress, self._schedule, self._warmup)
        for optimiser, rate in self._all:
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            for group in optimiser.param_groups:  # the fused AdamW leaves no sign that parameters have changed
                torch.autograd.graph.increment_version(group["params"])
        self.clear()
        return factor

    def parameters(self) -> list[list[Tensor]]:
        """Of each optimiser, in the order in which its state has them."""
        return [[p for group in optimiser.param_groups for p in group["params"]] for optimiser, _ in self._all]

    def clear(self) -> None:
        """Forget the gradients."""
        for optimiser, _ in self._all:
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """What a run that goes on needs."""
        return [optimiser.state_dict() for optimiser, _ in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse. Raises `ValueError` for the state of other parameters or another optimiser."""
        for (optimiser, _), state in zip(self._all, states, strict=True):
            optimiser.load_state_dict(state)
