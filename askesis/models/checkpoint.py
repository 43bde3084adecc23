"""Checkpoints in the Hugging Face layout: config.json, safetensors (one file or shards with an index)."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from askesis.models.config import ModelConfig
from askesis.models.qwen3 import Qwen3
from askesis.models.qwen3_moe import Qwen3Moe
from askesis.types import CheckpointError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def build(config: ModelConfig, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Qwen3:
    """The model of a configuration, with memory but no meaningful weights (see `Qwen3.initialise`)."""
    with torch.device(device):
        model = (Qwen3Moe if config.is_moe else Qwen3)(config)
    return model.to(dtype=dtype)


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a checkpoint. Raises `CheckpointError` if there is none or it is of another architecture."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"no checkpoint at {folder}: {CONFIG} is missing; expected a local Hugging Face folder")
    return ModelConfig.from_hf(_json(folder / CONFIG))


def load_checkpoint(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[Qwen3, ModelConfig]:
    """Load a model. Raises `CheckpointError` for a missing folder, shard or tensor, or one of another shape."""
    config = read_config(folder)
    model = empty(config, dtype=dtype, device=device)
    fill(model, folder)
    return model, config


def empty(config: ModelConfig, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Qwen3:
    """The model of a configuration, whose memory nothing has touched yet."""
    model = build(config, dtype=dtype, device="meta").to_empty(device=device)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight  # to_empty unties
    return model


def fill(model: Qwen3, folder: str | Path, *, put: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> None:
    """Put a checkpoint's tensors into the parameters; put(parameter, tensor). Raises as `load_checkpoint`."""
    folder = Path(folder)
    wanted = dict(model.named_parameters())
    seen: set[str] = set()
    with torch.no_grad():
        for name, tensor in _tensors(folder):
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue  # a tied checkpoint may carry it twice
            if name not in wanted:
                raise CheckpointError(f"{folder}: unexpected tensor {name} {list(tensor.shape)} for this config.json")
            if tensor.shape != wanted[name].shape:
                raise CheckpointError(
                    f"{folder}: {name} has shape {list(tensor.shape)}, expected {list(wanted[name].shape)}"
                )
            put(wanted[name], tensor)
            seen.add(name)
    missing = sorted(set(wanted) - seen)
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    shards = [WEIGHTS]
    if (folder / INDEX).is_file():
        weight_map = _json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{folder / INDEX} has no weight_map")
        shards = sorted({str(shard) for shard in weight_map.values()})
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
    """Write config and weights so that `AutoModelForCausalLM.from_pretrained` opens them; see `replacing`."""
    with replacing(folder) as scratch:
        _write(model, scratch, max_shard_bytes)


@contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `folder` at the end of the block, if the block succeeds.

    Where there was no folder it appears whole or not at all. In an existing one (a tokenizer may already be there)
    each file is replaced whole; whoever is killed in between leaves the old checkpoint, the new one, or one that
    `load_checkpoint` refuses, never a mixture that loads: without its index, a set of shards is no checkpoint.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        if not folder.exists():
            scratch.chmod(0o755)
            scratch.rename(folder)
            return
        new = {path.name for path in scratch.iterdir()}
        (folder / INDEX).unlink(missing_ok=True)
        for name in sorted(new, key=lambda name: (name.endswith(".json"), name == INDEX)):
            (scratch / name).replace(folder / name)
        for stale in folder.glob("model*.safetensors*"):
            if stale.name not in new:
                stale.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(model: Qwen3, folder: Path, max_shard_bytes: int) -> None:
    parameters = dict(model.named_parameters())
    shards: list[list[str]] = [[]]
    size = 0
    for name, parameter in parameters.items():
        if shards[-1] and size + parameter.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += parameter.nbytes
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard = {name: parameters[name].detach().cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        total = sum(parameter.nbytes for parameter in parameters.values())
        _put(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    raw = model.config.to_hf(dtype)
    _put(folder / CONFIG, raw)
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}  # Qwen3's own, for thinking
    ends = {key: raw[key] for key in ("eos_token_id", "pad_token_id") if key in raw}
    _put(folder / "generation_config.json", sampling | ends)


def _put(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def fingerprint(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """16 hex digits over the names, shapes and bits of all weights, of a model or by name (a tied one once, as
    `named_parameters` does); their order does not count.

    The same on every device. It costs one pass over the weights, where they are. It finds what goes wrong, not what
    somebody does on purpose.
    """
    digest = hashlib.sha256()
    named = weights.named_parameters() if isinstance(weights, nn.Module) else weights.items()
    for name, parameter in sorted(named):
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype} {_checksum(parameter):x}".encode())
    return digest.hexdigest()[:16]


_WORDS = 2**20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksum(tensor: Tensor) -> int:
    """64 bits in which each of the tensor's words, by its place, has a part: sum(word x odd number), modulo 2**64."""
    words = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
    total = 0
    for chunk in torch.split(words, _WORDS):
        parts = chunk.to(torch.int64) * _odd_numbers(chunk.device)[: len(chunk)]
        total = (total * 0x9E3779B97F4A7C15 + int(parts.sum())) % 2**64
    return total


@functools.lru_cache(maxsize=4)
def _odd_numbers(device: torch.device) -> Tensor:
    return (torch.arange(_WORDS, device=device) * -0x61C8864680B583EB) | 1
