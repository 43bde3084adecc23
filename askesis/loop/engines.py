"""The engine that a recipe asks for."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from askesis.inference import EmbeddedEngine, Router
from askesis.inference.remote import MakeEngine
from askesis.loop.recipe import ClusterSettings, Rollout
from askesis.models import Qwen3
from askesis.types import ConfigError, Engine

_ENGINE_S_SHARE = 0.3  # of an update's time: an engine may first have to wait for one that was given up
_LAST_WORDS_S = 60.0


def make_engine(
    rollout: Rollout, model: Qwen3, source: Path | None, *, threads: int, cluster: ClusterSettings | None = None
) -> Engine:
    """An engine on a trainer's model: on its own weights, on a copy where these are trained meanwhile, or in vLLM.

    source: the folder that the model came from. threads: that sample, on a CPU. cluster: what several servers are given
    up after. Nothing is started yet: an engine with a `start` takes its time there.
    """
    if rollout.engine != "embedded":
        if source is None:
            raise ConfigError(f"rollout.engine = {rollout.engine!r} needs a model that came from a folder")
        checkpoint, vocabulary = str(source.resolve()), model.config.vocab_size
        urls = rollout.vllm.urls or ("",)
        engines = [_vllm(rollout, checkpoint, vocabulary, threads, model=model, url=url) for url in urls]
        return engines[0] if len(engines) == 1 else routed(engines, rollout, cluster or ClusterSettings())
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


def routed(engines: Iterable[Engine], rollout: Rollout, settings: ClusterSettings) -> Router:
    """A router before engines of a recipe. It gives up one that hangs in an update well before the update is."""
    # a server that does not start in time says why, which takes it a moment longer
    starting_s = settings.patience_s if rollout.engine == "embedded" else rollout.vllm.start_s + _LAST_WORDS_S
    return Router(
        engines,
        silent_s=settings.silent_s,
        patience_s=settings.patience_s,
        update_s=rollout.timeouts.update_s * _ENGINE_S_SHARE,
        start_s=starting_s,
    )


def vllm_elsewhere(rollout: Rollout, model: Qwen3, source: Path | None, *, threads: int) -> MakeEngine:
    """What makes a `VLLMEngine` of this recipe on another machine. Nothing is read from a disk there: it is given the
    model's configuration, and its weights by updates. `rollout.vllm.python` has to be there under the same path."""
    if source is None:
        raise ConfigError(f"rollout.engine = {rollout.engine!r} needs a model that came from a folder")
    asked = rollout.vllm
    python = str(Path(asked.python).expanduser().absolute())  # not resolved: a link is what makes it an environment's
    options = {"load_format": "dummy", **asked.options}
    there = rollout.model_copy(update={"vllm": asked.model_copy(update={"python": python, "options": options})})
    config = (source / "config.json").read_text(encoding="utf-8")
    return functools.partial(_vllm_there, there, config, model.config.vocab_size, threads)


def _vllm_there(rollout: Rollout, config: str, vocabulary: int, threads: int) -> Engine:
    folder = Path(tempfile.mkdtemp(prefix="askesis-vllm-"))  # vLLM wants a folder
    (folder / "config.json").write_text(config, encoding="utf-8")
    # several on one machine must not all be bound to its first core
    free = {"VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")}
    engine = _vllm(rollout, str(folder), vocabulary, threads, env=free)
    weakref.finalize(engine, shutil.rmtree, folder, ignore_errors=True)
    return engine


def _vllm(
    rollout: Rollout,
    checkpoint: str,
    vocabulary: int,
    threads: int,
    *,
    model: Qwen3 | None = None,
    url: str = "",
    env: Mapping[str, str] | None = None,
) -> Engine:
    from askesis.inference.vllm import Devices, Local, Remote, Server, SharedMemory, Transport, VLLMEngine, VLLMSettings

    asked = rollout.vllm
    settings = VLLMSettings(
        checkpoint=checkpoint,
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
    env = {"OMP_NUM_THREADS": str(max(1, threads - 1)), **(env or {})}
    transport: Transport
    if rollout.engine == "vllm":
        transport = Local(settings, env=env)
    elif url:
        transport = Remote(url, key=os.environ.get("VLLM_API_KEY", ""))
    else:
        transport = Server(settings, python=asked.python, start_s=asked.start_s, env=env)
    return VLLMEngine(
        transport,
        context_length=rollout.context_length,
        vocab_size=vocabulary,
        model=model,
        slots=rollout.slots,
        courier=SharedMemory()
        if asked.transfer == "shared_memory"
        else Devices(asked.transfer, workers=asked.tensor_parallel, address=asked.address),
    )
