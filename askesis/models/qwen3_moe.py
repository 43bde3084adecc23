"""Qwen3, mixture of experts: the dense model with another feed-forward layer.

Source: arXiv 2505.09388: softmax router, top-k of 128 experts, weights renormalised over the chosen
(`norm_topk_prob`), no shared expert. For the load-balancing loss a trainer runs the model inside `router_logits` and
gives what that collected to `load_balancing_loss`; the model itself keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askesis.models.config import ModelConfig
from askesis.models.qwen3 import MLP, Body, Layer, Qwen3

_collecting: ContextVar[list[Tensor] | None] = ContextVar("askesis_router_logits", default=None)


class Experts(nn.Module):
    """A router (`gate`) and its experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        self.every = False  # whether experts that no token chose run too, over none: then all have a gradient
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]; each chosen expert runs once, over the tokens that chose it."""
        flat = x.reshape(-1, x.shape[-1])
        scores = self.gate(flat)
        if (collected := _collecting.get()) is not None:
            collected.append(scores)
        weights, chosen = F.softmax(scores, dim=-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        choices = chosen.flatten()
        order = choices.argsort(stable=True)  # every (token, choice), expert by expert
        counts = torch.bincount(choices, minlength=len(self.experts)).tolist()
        rows = torch.split(flat[order // self.top_k], counts)
        taken = [(expert, part) for expert, part in zip(self.experts, rows, strict=True) if len(part) or self.every]
        outputs = torch.cat([expert(part) for expert, part in taken])
        per_choice = outputs[order.argsort()].view(*chosen.shape, -1)
        return torch.einsum("nkd,nk->nd", per_choice, weights.to(x.dtype)).view_as(x)


@contextmanager
def router_logits() -> Iterator[list[Tensor]]:
    """Collect the routers' scores of this thread's forwards inside the block: [tokens, experts], one a layer.

    With gradient, and padding too. Of a dense model the list stays empty.
    """
    collected: list[Tensor] = []
    token = _collecting.set(collected)
    try:
        yield collected
    finally:
        _collecting.reset(token)


def expert_counts(logits: Sequence[Tensor], top_k: int, weights: Tensor | None = None) -> Tensor:
    """How often each expert is chosen, by layer: [layers, experts]. logits: [tokens, experts] each.

    weights [tokens]: for how many each token counts; one each, if not given.
    """
    chosen = [scores.detach().topk(top_k, dim=-1).indices.flatten() for scores in logits]
    often = None if weights is None else weights.double().repeat_interleave(top_k)
    return torch.stack([torch.bincount(c, often, minlength=logits[0].shape[-1]) for c in chosen])


def load_balancing_loss(
    logits: Sequence[Tensor], counts: Tensor, *, tokens: int, weights: Tensor | None = None
) -> Tensor:
    """experts x sum(share of the choices x mean probability), averaged over layers: 1 where all experts share evenly.

    logits: router scores [n, experts] of each layer, of all tokens of a batch or of a part of it; the parts' losses add
    up to the batch's. counts: `expert_counts` over the whole batch, `tokens` of them: a share over a micro-batch would
    force every expert to serve every kind of text. weights [n]: for how many each token counts.
    Source: arXiv 2501.11873, equations 1 and 4.
    """
    shares = (counts / counts.sum(dim=-1, keepdim=True)).float()
    probabilities = [F.softmax(scores, dim=-1, dtype=torch.float32) for scores in logits]
    if weights is not None:
        probabilities = [p * weights.to(p.dtype)[:, None] for p in probabilities]
    sums = torch.stack([p.sum(0) for p in probabilities])
    return counts.shape[-1] * (shares * sums / tokens).sum(-1).mean()


class MoeLayer(Layer):
    """A block whose feed-forward layer is a mixture of experts."""

    def feed_forward(self, config: ModelConfig) -> nn.Module:
        """The mixture."""
        return Experts(config)


class MoeBody(Body):
    """The body with such blocks."""

    layer_class = MoeLayer


class Qwen3Moe(Qwen3):
    """The mixture-of-experts language model; the same door as `Qwen3`."""

    body_class = MoeBody
