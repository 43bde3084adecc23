"""The load-balancing loss of a mixture of experts over a whole minibatch that goes through the model in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from askesis.models import CausalLM, Experts, expert_counts, load_balancing_loss, router_logits
from askesis.train.batches import Minibatch, Padded

T = TypeVar("T")
Spread = Callable[[Callable[[Padded], T], Sequence[Padded]], Iterable[T]]
"""How the parts are worked on: `map`, or as many at a time as there are threads; results in the order of the parts."""


class Balance:
    """Keeps a model's experts evenly used. weight: of the loss; without it, or without experts, all of it is nothing.

    Which experts a minibatch as a whole chooses must be known before the gradient of its first part, so a minibatch of
    several parts goes through the model once more beforehand, without gradient. One that is a single part does not.
    """

    def __init__(self, model: CausalLM, weight: float) -> None:
        experts = next((module for module in model.modules() if isinstance(module, Experts)), None)
        self._model, self._weight = model, weight
        self._top_k = experts.top_k if experts is not None and weight else 0

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return self._top_k > 0

    def counts(self, batch: Minibatch[Padded], spread: Spread[Tensor]) -> Tensor | None:
        """How often the minibatch chooses each expert [layers, experts]; None where a part will see for itself."""
        if not self.wanted or len(batch.parts) == 1:
            return None
        return torch.stack([*spread(self._count, batch.parts)]).sum(0)

    def _count(self, part: Padded) -> Tensor:
        with torch.no_grad(), router_logits() as scores:
            self._model(part.tokens)
        return expert_counts([layer[part.real] for layer in scores], self._top_k)

    def loss(
        self, scores: Sequence[Tensor], part: Padded, batch: Minibatch[Padded], counts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The part's share of the minibatch's loss, weighed, and as a figure: over all parts, 1 where all is even."""
        real = [layer[part.real] for layer in scores]
        tokens = sum(len(one.real) for one in batch.parts)
        counts = expert_counts(real, self._top_k) if counts is None else counts
        balance = load_balancing_loss(real, counts, tokens=tokens)
        return self._weight * balance, balance.detach()
