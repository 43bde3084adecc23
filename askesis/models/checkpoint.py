"""Checkpoints in the Hugging Face layout: config.json, safetensors (one file or shards with an index)."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from askesis.models.config import ModelConfig
from askesis.models.qwen3 import Qwen3
from askesis.models.qwen3_moe import Qwen3Moe
from askesis.types import CheckpointError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def build(config: ModelConfig, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Qwen3:
    """The model of a configuration, with memory but no meaningful weights (see `Qwen3.initialise`)."""
    with torch.device(device):
        model = (Qwen3Moe if config.is_moe else Qwen3)(config)
    return model.to(dtype=dtype)


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a checkpoint. Raises `CheckpointError` if there is none or it is of another architecture."""
    path = Path(folder) / CONFIG
    try:
        return ModelConfig.from_hf(json.loads(path.read_text()))
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {folder}: {CONFIG} is missing; expected a Hugging Face folder"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def load_checkpoint(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Qwen3, ModelConfig]:
    """Load a model. Raises `CheckpointError` for a missing folder, shard or tensor, or one of another shape."""
    folder = Path(folder)
    config = read_config(folder)
    model = build(config, dtype=dtype, device="meta").to_empty(device=device)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight  # to_empty unties
    wanted = dict(model.named_parameters())
    seen: set[str] = set()
    with torch.no_grad():
        for name, tensor in _tensors(folder):
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue  # a tied checkpoint may carry it twice
            if name not in wanted:
                raise CheckpointError(f"{folder}: unexpected tensor {name} {list(tensor.shape)} for this config.json")
            if tensor.shape != wanted[name].shape:
                raise CheckpointError(
                    f"{folder}: {name} has shape {list(tensor.shape)}, expected {list(wanted[name].shape)}"
                )
            wanted[name].copy_(tensor)
            seen.add(name)
    missing = sorted(set(wanted) - seen)
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}")
    return model, config


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text())
        shards = sorted(set(index["weight_map"].values()))
    else:
        shards = [WEIGHTS]
    for shard in shards:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise CheckpointError(f"{folder}: weights file {shard} is missing")
        try:
            with safe_open(folder / shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / shard} is no readable safetensors file: {error}") from error


def save_checkpoint(model: Qwen3, folder: str | Path, *, max_shard_bytes: int = 5 * 10**9) -> None:
    """Write config and weights so that `AutoModelForCausalLM.from_pretrained` opens them.

    The folder appears whole or not at all where it did not exist before; in an existing one (a tokenizer may already
    be there) each file is replaced whole, weights before the config that names them.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(model, scratch, max_shard_bytes)
        if not folder.exists():
            scratch.chmod(0o755)
            scratch.rename(folder)
            return
        for stale in folder.glob("model*.safetensors*"):
            if not (scratch / stale.name).exists():
                stale.unlink()
        for path in sorted(scratch.iterdir(), key=lambda path: path.suffix == ".json"):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(model: Qwen3, folder: Path, max_shard_bytes: int) -> None:
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / WEIGHTS, metadata={"format": "pt"})
    else:
        weight_map = {}
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(shard, file))
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    (folder / CONFIG).write_text(json.dumps(model.config.to_hf(dtype), indent=2) + "\n")
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    generation |= {k: v for k in ("eos_token_id", "pad_token_id") if (v := getattr(model.config, k)) is not None}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def fingerprint(model: Qwen3) -> str:
    """16 hex digits over all weights, whatever the order of the parameters: equal weights, equal fingerprint."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
