"""A checkpoint behind a gateway."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from askesis.chat.effort import load_effort
from askesis.loop.bundle import load
from askesis.serve import Gateway, Key, Served, Settings
from askesis.types import Thinking

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
) -> AsyncIterator[Gateway]:
    """A gateway on a checkpoint and an engine of its own, both closed at the end.

    names: what the model answers to, by default the checkpoint's name. any_name: it answers to every name. thinking:
    the mode of requests that do not say, by default the family's. slots: requests that are sampled at once.
    context_length: tokens of prompt and answer together, by default the model's own up to 4,096. Raises
    `CheckpointError`.
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
    engine = bundle.engine(slots=slots, context_length=context_length)
    gateway = None
    try:
        gateway = Gateway(engine, served, settings=settings, keys=keys)
        yield gateway
    finally:
        if gateway is not None:
            await gateway.close()
        await engine.close()
