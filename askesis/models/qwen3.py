"""Qwen3, dense: one readable file, shared by the embedded engine and the trainer.

Source: Qwen3 Technical Report, arXiv 2505.09388: grouped-query attention with RMSNorm on each head's query and key
before the rotary embedding, SwiGLU, pre-norm, no biases. Parameter names are Hugging Face's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from askesis.models.causal_lm import Attention, CausalLM
from askesis.models.config import ModelConfig


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The default: every row is one sequence, and attends to its past."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


class RMSNorm(nn.Module):
    """Root mean square norm (arXiv 1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> the same shape."""
        x = x.to(self.weight.dtype)  # under autocast products come rounded, and norms are not
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864), with YaRN's stretching where the configuration asks for it.

    The table of angles is not a parameter and never saved. It is made at the first use, for every position that the
    configuration allows, and grows beyond only when asked to.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cos", torch.empty(0, config.head_dim), persistent=False)
        self.register_buffer("sin", torch.empty(0, config.head_dim), persistent=False)

    def reserve(self, length: int, like: Tensor) -> None:
        """Make sure that positions 0..length-1 have their angles, on the device and in the type of `like`."""
        if self.cos.shape[0] >= length and self.cos.device == like.device and self.cos.dtype == like.dtype:
            return
        size = max(length, self.config.context_length)
        inverse, scale = _frequencies(self.config)
        angles = torch.outer(torch.arange(size, dtype=torch.float64), inverse)
        angles = torch.cat((angles, angles), dim=-1)
        sin = (angles.sin() * scale).to(device=like.device, dtype=like.dtype)
        cos = (angles.cos() * scale).to(device=like.device, dtype=like.dtype)
        self.sin = sin
        self.cos = cos  # last: threads that ask at the same time look at it


def _frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Inverse frequencies [hd / 2], and YaRN's scale of the angles' sines and cosines."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    inverse = 1.0 / config.rope_theta**half
    if config.yarn_factor is None:
        return inverse, 1.0

    def dimension(rotations: float) -> float:
        return (
            config.head_dim
            * math.log(config.yarn_original / (rotations * 2 * math.pi))
            / (2 * math.log(config.rope_theta))
        )

    low, high = max(math.floor(dimension(32.0)), 0), min(math.ceil(dimension(1.0)), config.head_dim - 1)
    ramp = ((torch.arange(config.head_dim // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    stretched = inverse / config.yarn_factor * ramp + inverse * (1 - ramp)
    return stretched, 0.1 * math.log(config.yarn_factor) + 1.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, heads, T, hd] by the angles [T, hd] or [B, 1, T, hd]."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, torch.cat((-x[..., half:], x[..., :half]), dim=-1), sin)


class SelfAttention(nn.Module):
    """Grouped-query attention with normed queries and keys."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        hidden, head = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(hidden, config.num_attention_heads * head, bias=False)
        self.k_proj = nn.Linear(hidden, config.num_key_value_heads * head, bias=False)
        self.v_proj = nn.Linear(hidden, config.num_key_value_heads * head, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * head, hidden, bias=False)
        self.q_norm = RMSNorm(head, config.rms_norm_eps)
        self.k_norm = RMSNorm(head, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        shape = (*x.shape[:2], -1, self.head_dim)
        q = rotate(self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast norms are not rounded, and attention is
        mixed: Tensor = self.o_proj(attention(self.layer, q, k, v).transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One transformer block."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, index)
        self.mlp = self.feed_forward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def feed_forward(self, config: ModelConfig) -> nn.Module:
        """What stands where the mixture of experts stands in the other architecture."""
        return MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attention)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Embedding, layers and the last norm: what Hugging Face calls `model`."""

    layer_class: type[Layer] = Layer

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(self.layer_class(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Qwen3(CausalLM):
    """The causal language model. `forward` gives hidden states; `logits` turns those one wants into scores."""

    body_class: type[Body] = Body

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = self.body_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.rotary = Rotary(config)

    def initialise(self, seed: int, std: float = 0.02) -> None:
        """Fresh weights: normal with deviation `std`, norms at one; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:  # drawn on the CPU in float32, so that device and type do not change the draw
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
                else:
                    parameter.fill_(1.0)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, attention: Attention | None = None) -> Tensor:
        """tokens [B, T] int64, positions [B, T] (default 0..T-1 in each row) -> normed hidden states [B, T, D].

        A caller with positions past `config.context_length` calls `rotary.reserve` for the longest first:
        to look at them here would make the device wait.
        """
        x = self.model.embed_tokens(tokens)
        length = tokens.shape[1]
        self.rotary.reserve(length, x)
        if positions is None:
            cos, sin = self.rotary.cos[:length], self.rotary.sin[:length]
        else:
            cos, sin = self.rotary.cos[positions][:, None], self.rotary.sin[positions][:, None]
        again = self.recomputes and torch.is_grad_enabled()
        for layer in self.model.layers:
            inputs = (x, cos, sin, attention or causal)
            x = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
        out: Tensor = self.model.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scores [..., V]."""
        return F.linear(hidden, self.lm_head.weight)

    def vocabulary(self) -> int:
        """How many scores `logits` gives."""
        return self.config.vocab_size
