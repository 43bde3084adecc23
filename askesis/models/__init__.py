"""Qwen3 dense and mixture-of-experts models in torch, their sizes, and checkpoints in the Hugging Face layout."""

from askesis.models.checkpoint import build, fingerprint, load_checkpoint, read_config, save_checkpoint
from askesis.models.config import ModelConfig
from askesis.models.qwen3 import Attention, Qwen3, causal
from askesis.models.qwen3_moe import Qwen3Moe, load_balancing_loss
from askesis.models.sizes import CONTEXT, LONG_CONTEXT, SIZES, Counts, count_parameters

__all__ = [
    "CONTEXT",
    "LONG_CONTEXT",
    "SIZES",
    "Attention",
    "Counts",
    "ModelConfig",
    "Qwen3",
    "Qwen3Moe",
    "build",
    "causal",
    "count_parameters",
    "fingerprint",
    "load_balancing_loss",
    "load_checkpoint",
    "read_config",
    "save_checkpoint",
]
