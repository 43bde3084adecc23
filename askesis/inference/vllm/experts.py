"""A mixture of experts in plain torch, from matrices as vLLM lays them out before it packs them: on CPUs.

vLLM 0.32 packs experts once, for a kernel of its own; packed, nobody can look at them, and an update would write plain
ones over them. Each expert is two products over the tokens that were sent to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda gate: F.gelu(gate, approximate="tanh"),
}
"""Of the gate, by vLLM's names."""


def plainly(
    hidden: Tensor,
    gates_ups: Tensor,
    downs: Tensor,
    weights: Tensor,
    chosen: Tensor,
    *,
    activation: str = "silu",
    weighted: bool = True,
) -> Tensor:
    """What the chosen experts make of `hidden` [tokens, width], summed: [tokens, width].

    gates_ups: [experts, 2 x inner, width], gates first. downs: [experts, width, inner]. weights and chosen: of each
    token's experts, [tokens, choices]. weighted: multiply by `weights`, which else has been done. Raises
    `NotImplementedError` for an activation that is not known.
    """
    if activation not in ACTIVATIONS:
        raise NotImplementedError(f"experts with the activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
    out = hidden.new_zeros(hidden.shape, dtype=weights.dtype)  # sums are as precise as the weights
    for expert in torch.unique(chosen).tolist():
        tokens, choices = (chosen == expert).nonzero(as_tuple=True)
        gate, up = F.linear(hidden[tokens], gates_ups[expert]).chunk(2, -1)
        made = F.linear(ACTIVATIONS[activation](gate) * up, downs[expert]).to(out.dtype)
        out.index_add_(0, tokens, made * weights[tokens, choices, None] if weighted else made)
    return out.to(hidden.dtype)
