"""Qwen3, mixture of experts: the dense model with another feed-forward layer.

Source: arXiv 2505.09388: softmax router, top-k of 128 experts, weights renormalised over the chosen
(`norm_topk_prob`), no shared expert. The load-balancing loss is over the global batch (arXiv 2501.11873); the router's
last scores are kept on each layer for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askesis.models.config import ModelConfig
from askesis.models.qwen3 import MLP, Body, Layer, Qwen3


class Experts(nn.Module):
    """A router and its experts. `router_logits` [tokens, experts] are those of the last forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )
        self.router_logits: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]; each expert runs once, over the tokens that chose it."""
        flat = x.reshape(-1, x.shape[-1])
        self.router_logits = self.gate(flat)
        weights, chosen = F.softmax(self.router_logits.float(), dim=-1).topk(self.top_k, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = weights.to(x.dtype)
        out = torch.zeros_like(flat)
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        for expert, slots in zip(self.experts, torch.split(order, counts), strict=True):
            if len(slots):
                picked = slots // self.top_k
                out = out.index_add(0, picked, expert(flat[picked]) * weights.flatten()[slots, None])
        return out.view_as(x)


def load_balancing_loss(model: Qwen3Moe) -> Tensor:
    """The auxiliary loss over the last forward: experts x sum(share of tokens x mean probability); 1 when balanced."""
    terms = []
    for layer in model.model.layers:
        mlp = layer.mlp
        if not isinstance(mlp, Experts) or mlp.router_logits is None:
            continue
        probabilities = F.softmax(mlp.router_logits.float(), dim=-1)
        experts = probabilities.shape[-1]
        chosen = F.one_hot(probabilities.topk(mlp.top_k, dim=-1).indices, experts).float().sum(1)
        terms.append(experts * (chosen.mean(0) / mlp.top_k * probabilities.mean(0)).sum())
    return torch.stack(terms).mean()


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
