"""Qwen3 dense and mixture-of-experts models in torch, their sizes, and checkpoints in the Hugging Face layout."""

from askesis.models.causal_lm import Attention, CausalLM
from askesis.models.checkpoint import build, empty, fill, fingerprint, load_checkpoint, read_config, save_checkpoint
from askesis.models.config import ModelConfig
from askesis.models.qwen3 import Qwen3, causal
from askesis.models.qwen3_moe import Experts, Qwen3Moe, expert_counts, load_balancing_loss, router_logits
from askesis.models.sizes import CONTEXT, SIZES, Counts, count_parameters
from askesis.models.transformers_lm import TransformersLM

__all__ = [
    "CONTEXT",
    "SIZES",
    "Attention",
    "CausalLM",
    "Counts",
    "Experts",
    "ModelConfig",
    "Qwen3",
    "Qwen3Moe",
    "TransformersLM",
    "build",
    "causal",
    "count_parameters",
    "empty",
    "expert_counts",
    "fill",
    "fingerprint",
    "load_balancing_loss",
    "load_checkpoint",
    "read_config",
    "router_logits",
    "save_checkpoint",
]
