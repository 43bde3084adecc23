"""Any other causal language model, through transformers, behind the same door as our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from askesis.models.causal_lm import Attention, CausalLM
from askesis.models.checkpoint import replacing
from askesis.types import CheckpointError


class TransformersLM(CausalLM):
    """Wraps a model of `AutoModelForCausalLM`: full forward passes over whole rows, with the model's own attention.

    What it cannot do: take an attention from outside. So there is no cache of the embedded engine and no packing of
    several sequences in a row; batches are right-padded rows (a row's past never sees its padding).
    """

    def __init__(self, inner: Any) -> None:
        """inner: the transformers model. Raises `CheckpointError` if its scores are more than its output matrix."""
        super().__init__()
        self.inner = inner
        self.architecture = type(inner).__name__
        self._check_halves()

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> TransformersLM:
        """From a checkpoint's folder; nothing is downloaded. Raises `CheckpointError` if it is not whole."""
        if not (Path(folder) / "config.json").is_file():
            raise CheckpointError(f"no checkpoint at {folder}: config.json is missing; expected a Hugging Face folder")
        from transformers import AutoModelForCausalLM

        opened: Any  # with output_loading_info a pair, which its annotation does not say
        try:
            opened = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"transformers cannot open {folder}: {error}") from error
        inner, report = opened
        for kind in ("missing_keys", "mismatched_keys"):  # transformers fills these with noise and goes on
            if report[kind]:
                first = min(map(str, report[kind]))
                raise CheckpointError(f"{folder}: {len(report[kind])} {kind.replace('_', ' ')}, the first is {first}")
        return cls(inner.to(device))

    def save(self, folder: str | Path, *, max_shard_bytes: int = 5 * 10**9) -> None:
        """Write the folder that `load` reads, whole or not at all."""
        with replacing(folder) as scratch:
            self.inner.save_pretrained(scratch, max_shard_size=max_shard_bytes)

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, attention: Attention | None = None) -> Tensor:
        """tokens [B, T] -> normed hidden states [B, T, D]. Raises `CheckpointError` if given an attention."""
        if attention is not None:
            raise CheckpointError(
                f"a {self.architecture} runs through transformers and cannot take an attention from outside, which "
                "the embedded engine and packed training need; use a Qwen3 checkpoint, or unpacked rows without a cache"
            )
        options = {} if positions is None else {"position_ids": positions}
        hidden: Tensor = self.inner.base_model(input_ids=tokens, use_cache=False, **options).last_hidden_state
        return hidden

    def recompute(self, on: bool = True) -> None:
        """As `CausalLM.recompute`, by the model's own means."""
        super().recompute(on)
        inner, how = self.inner, {"use_reentrant": False}
        named = "activation" if hasattr(inner, "activation_checkpointing_enable") else "gradient"  # the older name
        if not on:
            getattr(inner, f"{named}_checkpointing_disable")()
            return
        getattr(inner, f"{named}_checkpointing_enable")(**{f"{named}_checkpointing_kwargs": how})
        inner.train()  # transformers recomputes only then; what is trained here has no dropout

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scores [..., V]."""
        scores: Tensor = self.inner.get_output_embeddings()(hidden)
        return scores

    def vocabulary(self) -> int:
        """How many scores `logits` gives."""
        return int(self.inner.get_output_embeddings().weight.shape[0])

    def _check_halves(self) -> None:
        """Some models scale or cap their scores after the output matrix; splitting those in two would be wrong."""
        probe = torch.arange(4, device=next(self.inner.parameters()).device)[None]
        training = self.inner.training
        self.inner.eval()
        with torch.no_grad():
            whole, halves = self.inner(input_ids=probe, use_cache=False).logits, self.logits(self(probe))
        self.inner.train(training)
        if not torch.allclose(whole, halves, atol=1e-3, rtol=1e-3):
            raise CheckpointError(
                f"the scores of a {self.architecture} are not its output matrix applied to its last hidden states "
                f"(they differ by up to {(whole - halves).abs().max().item():.3g}); Askesis cannot train or run it"
            )
