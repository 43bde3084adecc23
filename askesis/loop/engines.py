"""The engine that a recipe asks for."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from askesis.inference import EmbeddedEngine
from askesis.loop.recipe import Rollout
from askesis.models import Qwen3
from askesis.types import ConfigError, Engine


def make_engine(rollout: Rollout, model: Qwen3, source: Path | None, *, threads: int) -> Engine:
    """An engine on a trainer's model: on its own weights, on a copy where these are trained meanwhile, or in vLLM.

    source: the folder that the model came from. threads: that sample, on a CPU. Nothing is started yet: an engine with
    a `start` takes its time there.
    """
    if rollout.engine != "embedded":
        return _vllm(rollout, model, source, threads)
    own = copy.deepcopy(model).requires_grad_(False) if rollout.staleness else model
    return EmbeddedEngine(own, **embedded_options(rollout, threads=threads))


def embedded_options(rollout: Rollout, *, threads: int) -> dict[str, Any]:
    """What an `EmbeddedEngine` is told beside its model."""
    return {
        "slots": rollout.slots,
        "context_length": rollout.context_length,
        "threads": threads,
        "compile": rollout.compile,
        "dtype": None if rollout.dtype == "float32" else rollout.dtype,
        "keep_cache": rollout.staleness > 0 and rollout.cache_at_update == "keep",
    }


def _vllm(rollout: Rollout, model: Qwen3, source: Path | None, threads: int) -> Engine:
    from askesis.inference.vllm import Devices, Local, Remote, Server, SharedMemory, Transport, VLLMEngine, VLLMSettings

    asked = rollout.vllm
    if source is None:
        raise ConfigError(f"rollout.engine = {rollout.engine!r} needs a model that came from a folder")
    settings = VLLMSettings(
        checkpoint=str(source.resolve()),
        context_length=rollout.context_length,
        slots=rollout.slots,
        dtype=rollout.dtype,
        eager=not rollout.compile,
        cache_gib=asked.cache_gib,
        tensor_parallel=asked.tensor_parallel,
        transfer=asked.transfer,
        more=asked.options,
    )
    # on a CPU vLLM's own processes want one, and threads that wait for each other want all of theirs
    env = {"OMP_NUM_THREADS": str(max(1, threads - 1))}
    transport: Transport
    if rollout.engine == "vllm":
        transport = Local(settings, env=env)
    elif asked.url:
        transport = Remote(asked.url, key=os.environ.get("VLLM_API_KEY", ""))
    else:
        transport = Server(settings, python=asked.python, start_s=asked.start_s, env=env)
    return VLLMEngine(
        transport,
        context_length=rollout.context_length,
        vocab_size=model.config.vocab_size,
        model=model,
        slots=rollout.slots,
        courier=SharedMemory()
        if asked.transfer == "shared_memory"
        else Devices(asked.transfer, workers=asked.tensor_parallel),
    )
