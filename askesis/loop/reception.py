"""The gateway of a run whose agent is a program: it stands while there are episodes, and answers for them alone."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

from askesis.agents import ExternalAgent
from askesis.rollout import Host, Reception
from askesis.serve import Gateway, Key, Served, Settings, listening
from askesis.types import Agent, EngineError, Renderer

_LONGEST_S = 86_400.0  # of a request: the episode's own limits end it


def reception_of(agent: Agent, renderer: Renderer) -> Reception | None:
    """What the episodes of `agent` need to be found by its program; None for an agent that is no program."""
    return EpisodeReception(renderer) if isinstance(agent, ExternalAgent) else None


class EpisodeReception:
    """See `rollout.Reception`. The gateway is made for the first episode, and closed after the last."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._names: set[str] = set()
        self._turn: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._gateway: Gateway | None = None
        self._path = ""
        self._stack = AsyncExitStack()

    async def admit(self, name: str, host: Host) -> str:
        """Let `host` answer below `/s/NAME`. Gives the gateway's socket."""
        async with self._lock():
            if self._gateway is None:
                self._gateway = await self._open()
            self._gateway.attach(name, host)
            self._names.add(name)
            return self._path

    async def dismiss(self, name: str) -> None:
        """That host answers no more; the last one closes the gateway."""
        async with self._lock():
            if name not in self._names or self._gateway is None:
                return
            self._names.discard(name)
            self._gateway.detach(name)
            if not self._names:
                self._gateway = None
                await self._stack.aclose()

    def _lock(self) -> asyncio.Lock:
        """Of this event loop: one reception may serve several, one after the other."""
        loop = asyncio.get_running_loop()
        if self._turn is None or self._turn[0] is not loop:
            self._turn = (loop, asyncio.Lock())
            self._names, self._gateway, self._stack = set(), None, AsyncExitStack()
        return self._turn[1]

    async def _open(self) -> Gateway:
        folder = Path(tempfile.mkdtemp(prefix="askesis-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self._path = str(folder / "gateway.sock")
        settings = Settings(max_requests=2**20, request_s=_LONGEST_S, drain_s=0.0)
        gateway = Gateway(
            _NoEngine(),
            Served(renderer=self._renderer, names=("policy",), any_name=True),
            settings=settings,
            keys=[Key.of("nobody", secrets.token_hex(32))],  # only episodes are answered, and those by their names
        )
        await self._stack.enter_async_context(listening(gateway, unix=self._path))
        return gateway


class _NoEngine:
    """What answers where no episode does: nobody."""

    context_length = 2**20

    async def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `EngineError`."""
        raise EngineError("this gateway answers for episodes alone")

    async def update_weights(self, *_: Any, **__: Any) -> None:
        """Nothing to update."""

    def release(self, session: str) -> None:
        """Nothing is held."""

    async def close(self) -> None:
        """Nothing to close."""
