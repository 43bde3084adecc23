"""The load-balancing loss of a mixture of experts over a whole minibatch that goes through the model in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from askesis.models import CausalLM, Experts, expert_counts, load_balancing_loss, router_logits
from askesis.train.batches import Minibatch, Part, Planted
from askesis.train.scores import hidden_states

T = TypeVar("T")
Spread = Callable[[Callable[[Part], T], Sequence[Part]], Iterable[T]]
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

    def counts(self, batch: Minibatch[Part], spread: Spread[Tensor]) -> Tensor | None:
        """How often the minibatch chooses each expert [layers, experts]; None where a part will see for itself."""
        if not self.wanted or len(batch.parts) == 1:
            return None
        return torch.stack([*spread(self._count, batch.parts)]).sum(0)

    def _count(self, part: Part) -> Tensor:
        with torch.no_grad(), router_logits() as scores:
            hidden_states(self._model, part)
        return expert_counts(_real(scores, part), self._top_k, _visits(part))

    def loss(
        self, scores: Sequence[Tensor], part: Part, batch: Minibatch[Part], counts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The part's share of the minibatch's loss, weighed, and as a figure: over all parts, 1 where all is even."""
        real, visits = _real(scores, part), _visits(part)
        tokens = sum(int(_planted(one).visits.sum()) for one in batch.parts)
        counts = expert_counts(real, self._top_k, visits) if counts is None else counts
        balance = load_balancing_loss(real, counts, tokens=tokens, weights=visits)
        return self._weight * balance, balance.detach()


def _planted(part: Part) -> Planted:
    """Only our own models have experts that we see, and their parts are planted."""
    assert isinstance(part, Planted)
    return part


def _real(scores: Sequence[Tensor], part: Part) -> list[Tensor]:
    """Without padding."""
    return [layer[: len(_planted(part).forest.tokens)] for layer in scores]


def _visits(part: Part) -> Tensor:
    """A token that several sequences share counts for each of them, as it would if they were apart."""
    return torch.from_numpy(_planted(part).visits).to(part.targets.device)
