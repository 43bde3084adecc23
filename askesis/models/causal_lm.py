"""What the engine and the trainer may rely on, whatever the architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn


class Attention(Protocol):
    """How a layer's queries meet keys and values; the engine brings its cache, the trainer its packing.

    q [B, H, T, hd], k and v [B, KV, T, hd], after norm and rotation -> [B, H, T, hd].
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class CausalLM(nn.Module, ABC):
    """A causal language model in two halves, so that only the wanted hidden states become scores."""

    def recompute(self, on: bool = True) -> None:
        """Keep of each layer only what goes into it, and compute the rest again on the way back."""
        self.recomputes = on

    recomputes = False

    @abstractmethod
    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, attention: Attention | None = None) -> Tensor:
        """tokens [B, T] int64, positions [B, T] (default 0..T-1 in each row) -> normed hidden states [B, T, D].

        attention: called once a layer; the default takes each row for one sequence that attends to its past.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scores [..., V]."""

    @abstractmethod
    def vocabulary(self) -> int:
        """How many scores `logits` gives."""
