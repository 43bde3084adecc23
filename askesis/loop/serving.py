"""A checkpoint behind a gateway."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from askesis.chat.effort import load_effort
from askesis.loop.bundle import load
from askesis.loop.engines import make_engine
from askesis.loop.recipe import VLLM, Rollout
from askesis.loop.threads import physical_cores
from askesis.models import fingerprint
from askesis.serve import Gateway, Key, Served, Settings
from askesis.types import Engine, Thinking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_gateway(
    checkpoint: str | Path,
    *,
    settings: Settings | None = None,
    keys: Iterable[Key] = (),
    names: Iterable[str] = (),
    any_name: bool = False,
    thinking: bool | None = None,
    slots: int = 64,
    context_length: int | None = None,
    vllm: str = "",
) -> AsyncIterator[Gateway]:
    """A gateway on a checkpoint and an engine of its own, both closed at the end.

    names: what the model answers to, by default the checkpoint's name. any_name: it answers to every name. thinking:
    the mode of requests that do not say, by default the family's. slots: requests that are sampled at once.
    context_length: tokens of prompt and answer together, by default the model's own up to 4,096. vllm:
    sample there: the python of an environment that has it, or a server's URL. Raises `CheckpointError`, `EngineError`.
    """
    bundle = load(checkpoint)
    served = Served(
        renderer=bundle.renderer,
        names=tuple(names) or (Path(checkpoint).name or str(checkpoint),),
        any_name=any_name,
        thinking=Thinking(enabled=bundle.renderer.modes[0] if thinking is None else thinking),
        effort=load_effort(bundle.path),
        checkpoint=str(checkpoint),
    )
    engine: Engine = bundle.engine(slots=slots, context_length=context_length)
    if vllm:
        where = VLLM(url=vllm) if "://" in vllm else VLLM(python=vllm)
        rollout = Rollout(engine="vllm-server", slots=slots, context_length=engine.context_length, vllm=where)
        engine = make_engine(rollout, bundle.model, bundle.path, threads=physical_cores())
    gateway = None
    try:
        if vllm:  # whatever weights are there
            await engine.update_weights({}, 0, fingerprint=fingerprint(bundle.model))
        gateway = Gateway(engine, served, settings=settings, keys=keys)
        yield gateway
    finally:
        if gateway is not None:
            await gateway.close()
        await engine.close()
