"""Qwen3, mixture of experts: the dense model with another feed-forward layer.

Source: arXiv 2505.09388: softmax router, top-k of 128 experts, weights renormalised over the chosen
(`norm_topk_prob`), no shared expert. For the load-balancing loss a trainer runs the model inside `router_logits` and
gives what that collected to `load_balancing_loss`; the model itself keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askesis.models.config import ModelConfig
from askesis.models.qwen3 import MLP, Body, Layer, Qwen3


class Experts(nn.Module):
    """A router (`gate`) and its experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]; each chosen expert runs once, over the tokens that chose it."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = F.softmax(self.gate(flat), dim=-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        choices = chosen.flatten()
        order = choices.argsort(stable=True)  # every (token, choice), expert by expert
        counts = torch.bincount(choices, minlength=len(self.experts)).tolist()
        rows = torch.split(flat[order // self.top_k], counts)
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, rows, strict=True) if len(part)])
        per_choice = outputs[order.argsort()].view(*chosen.shape, -1)
        return torch.einsum("nkd,nk->nd", per_choice, weights.to(x.dtype)).view_as(x)


@contextmanager
def router_logits(model: Qwen3) -> Iterator[list[Tensor]]:
    """Collect the routers' scores of the forwards inside the block: [tokens, experts], one a layer, with gradient.

    Of a dense model the list stays empty.
    """
    collected: list[Tensor] = []
    routers = [module.gate for module in model.modules() if isinstance(module, Experts)]
    handles = [router.register_forward_hook(lambda _, __, scores: collected.append(scores)) for router in routers]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def load_balancing_loss(logits: Sequence[Tensor], top_k: int) -> Tensor:
    """experts x sum(share of the choices x mean probability), averaged over layers: 1 where all experts share evenly.

    logits: a layer's router scores [tokens, experts] each, over the whole batch: a share over a micro-batch forces
    every expert to serve every kind of text. Source: arXiv 2501.11873, equation 1.
    """
    terms = []
    for scores in logits:
        probabilities = F.softmax(scores, dim=-1, dtype=torch.float32)
        experts = probabilities.shape[-1]
        choices = probabilities.topk(top_k, dim=-1).indices.flatten()
        share = torch.bincount(choices, minlength=experts) / choices.numel()
        terms.append(experts * (share * probabilities.mean(0)).sum())
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
