"""The architecture of a Qwen3 model as a value, to and from Hugging Face's `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from askesis.types import CheckpointError, nearest

ARCHITECTURES = {"Qwen3ForCausalLM": "qwen3", "Qwen3MoeForCausalLM": "qwen3_moe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Dimensions of a dense (num_experts 0) or mixture-of-experts Qwen3. Names are those of Hugging Face.

    yarn_factor: context extension by YaRN (arXiv 2309.00071), None for plain rotary embeddings; the original context
    is `yarn_original`. max_position_embeddings: tokens; how far positions are meant to go.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    head_dim: int = 128
    max_position_embeddings: int = 40960
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True
    yarn_factor: float | None = None
    yarn_original: int = 32768
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"model configuration: {name}={getattr(self, name)}, expected at least 1")
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"model configuration: {self.num_attention_heads} query heads do not divide into "
                f"num_key_value_heads={self.num_key_value_heads} groups"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"model configuration: head_dim={self.head_dim}, expected an even number")
        if self.num_experts and not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise CheckpointError(
                f"model configuration: num_experts_per_tok={self.num_experts_per_tok} of {self.num_experts} experts"
            )

    @property
    def is_moe(self) -> bool:
        """Whether the feed-forward layers are mixtures of experts."""
        return self.num_experts > 0

    @property
    def context_length(self) -> int:
        """Tokens for which positions are meant: the native ones, or as many as YaRN stretches them to."""
        stretched = 0 if self.yarn_factor is None else int(self.yarn_factor * self.yarn_original)
        return max(self.max_position_embeddings, stretched)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """From the content of `config.json`, old (`rope_theta`) or new (`rope_parameters`). Raises CheckpointError."""
        architecture = _architecture(raw)
        moe = ARCHITECTURES[architecture] == "qwen3_moe"
        if "num_local_experts" in raw:  # what transformers 5 writes for the hub's `num_experts`
            raw = {"num_experts": raw["num_local_experts"], **raw}
        required = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
        required += ["num_experts", "moe_intermediate_size"] if moe else ["intermediate_size"]
        missing = [key for key in required if key not in raw]
        if missing:
            raise CheckpointError(f"config.json of a {architecture} lacks {', '.join(missing)}")
        _refuse_what_qwen3_has_not(raw)
        eos = raw.get("eos_token_id")
        raw = {"max_position_embeddings": 32768, **raw}
        try:
            sizes: dict[str, Any] = {key: _whole(raw, key) for key in (*required, "max_position_embeddings")}
            head_dim = 128 if not moe else sizes["hidden_size"] // max(sizes["num_attention_heads"], 1)
            return cls(
                **(_moe_fields(raw) if moe else {}),
                **sizes,
                **_rope_fields(raw),
                head_dim=raw.get("head_dim") or head_dim,  # missing: as transformers fills it
                rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
                eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
                pad_token_id=raw.get("pad_token_id"),
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"config.json of a {architecture}: a value has the wrong type: {error}") from error

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The content of a `config.json` that transformers 5 reads."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.yarn_factor is not None:
            rope |= {
                "rope_type": "yarn",
                "factor": self.yarn_factor,
                "original_max_position_embeddings": self.yarn_original,
            }
        raw: dict[str, Any] = {
            "architectures": ["Qwen3MoeForCausalLM" if self.is_moe else "Qwen3ForCausalLM"],
            "model_type": "qwen3_moe" if self.is_moe else "qwen3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_parameters": rope,
            "rope_theta": self.rope_theta,  # transformers 4 and its contemporaries look here
            "rope_scaling": None if self.yarn_factor is None else rope,  # and here
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_cache": True,
            "dtype": dtype,
        }
        if self.is_moe:
            raw |= {
                "num_experts": self.num_experts,
                "num_experts_per_tok": self.num_experts_per_tok,
                "moe_intermediate_size": self.moe_intermediate_size,
                "norm_topk_prob": self.norm_topk_prob,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            }
        if self.eos_token_id is not None:
            raw["eos_token_id"] = list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id
        if self.pad_token_id is not None:
            raw["pad_token_id"] = self.pad_token_id
        return raw


def _architecture(raw: Mapping[str, Any]) -> str:
    named = raw.get("architectures") or [
        name for name, model_type in ARCHITECTURES.items() if model_type == raw.get("model_type")
    ]
    architecture = str(named[0]) if named else ""
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"config.json: architecture {architecture!r} is not one that Askesis runs itself "
            f"(those are {', '.join(ARCHITECTURES)}){nearest(architecture, ARCHITECTURES)}; "
            "askesis.models.TransformersLM.load opens others, for full forward passes"
        )
    return architecture


def _refuse_what_qwen3_has_not(raw: Mapping[str, Any]) -> None:
    """Keys that would change the mathematics: better no model than a subtly different one."""
    ours = {"attention_bias": False, "use_sliding_window": False, "hidden_act": "silu", "quantization_config": None}
    ours |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    for key, value in ours.items():
        if (got := raw.get(key) or value) != value:
            raise CheckpointError(f"config.json: {key}={got!r} is not supported; Qwen3 as published has {value!r}")


def _whole(raw: Mapping[str, Any], key: str) -> int:
    value = raw[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"config.json: {key}={value!r}, expected a whole number")
    return value


def _rope_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Theta and YaRN from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = {"rope_theta": float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0)))}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError("config.json: partial_rotary_factor is not supported; Qwen3 rotates whole heads")
    if kind == "default":
        return theta
    if kind != "yarn" or "factor" not in rope:
        raise CheckpointError(f"config.json: rope {rope!r} is not supported (known: default, and yarn with a factor)")
    factor = float(rope["factor"])
    usual: dict[str, Any] = {
        "attention_factor": 0.1 * math.log(factor) + 1.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "truncate": True,
    }
    usual |= {"mscale": None, "mscale_all_dim": None}
    for key, value in usual.items():
        if rope.get(key) not in (None, value):
            raise CheckpointError(f"config.json: yarn with {key}={rope[key]!r} is not supported (only {value!r})")
    original = rope.get("original_max_position_embeddings") or raw.get("max_position_embeddings", 32768)
    return theta | {"yarn_factor": factor, "yarn_original": int(original)}


def _moe_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "intermediate_size": raw.get("intermediate_size", raw["moe_intermediate_size"]),
        "num_experts_per_tok": raw.get("num_experts_per_tok", 8),
        "norm_topk_prob": bool(raw.get("norm_topk_prob", False)),
    }
