"""The eight sizes of Qwen3 (arXiv 2505.09388, tables 1 and 2) as data, and what they weigh."""

from __future__ import annotations

from dataclasses import dataclass

from askesis.models.config import ModelConfig

VOCABULARY = 151_936


def _dense(layers: int, heads: int, hidden: int, ffn: int, *, tied: bool) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        intermediate_size=ffn,
        tie_word_embeddings=tied,
    )


def _moe(layers: int, heads: int, hidden: int, expert: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        intermediate_size=hidden * 3,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=expert,
    )


SIZES: dict[str, ModelConfig] = {
    "0.6B": _dense(28, 16, 1024, 3072, tied=True),
    "1.7B": _dense(28, 16, 2048, 6144, tied=True),
    "4B": _dense(36, 32, 2560, 9728, tied=True),
    "8B": _dense(36, 32, 4096, 12288, tied=False),
    "14B": _dense(40, 40, 5120, 17408, tied=False),
    "32B": _dense(64, 64, 5120, 25600, tied=False),
    "30B-A3B": _moe(48, 32, 2048, 768),
    "235B-A22B": _moe(94, 64, 4096, 1536),
}

# Tokens: what the native 32,768 are stretched to by YaRN (factor 4), where the size was trained for that.
CONTEXT: dict[str, int] = {size: 32_768 if size in ("0.6B", "1.7B") else 131_072 for size in SIZES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Parameters. active: those that one token passes through; tied embeddings count once."""

    total: int
    non_embedding: int
    active: int


def count_parameters(config: ModelConfig) -> Counts:
    """Count from the dimensions alone, without building the model."""
    hidden, head = config.hidden_size, config.head_dim
    attention = hidden * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    norms = 2 * hidden + 2 * head
    if config.is_moe:
        expert = 3 * hidden * config.moe_intermediate_size
        router = hidden * config.num_experts
        feed, feed_active = config.num_experts * expert + router, config.num_experts_per_tok * expert + router
    else:
        feed = feed_active = 3 * hidden * config.intermediate_size
    layers = config.num_hidden_layers
    embedding = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    body = layers * (attention + norms + feed) + hidden
    active = layers * (attention + norms + feed_active) + hidden
    return Counts(total=body + embedding, non_embedding=body, active=active + embedding)
