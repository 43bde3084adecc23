"""A pool that an environment can hold from its construction on: workers start when an episode first needs one."""

from __future__ import annotations

import asyncio
from typing import Any

from askesis.sandbox.pool import SandboxPool
from askesis.types import Sandbox, Snapshot


class LazyPool:
    """A `SandboxPool(**arguments)` that opens itself at the first `acquire`, and anew in another event loop.

    An environment is made where no event loop runs, may never be asked for an episode (a dry run), and may serve
    several event loops, one after the other. Raises `ConfigError` for arguments that a pool refuses, at once.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        SandboxPool(**arguments)  # nothing starts, but what is wrong with them is said now
        self._pool: SandboxPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()

    async def acquire(self, snapshot: Snapshot | None = None) -> Sandbox:
        """See `SandboxPool.acquire`; the first call starts a worker."""
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._loop, self._starting = loop, asyncio.Lock()
            await self.close()
        async with self._starting:
            if self._pool is None:
                self._pool = await SandboxPool(**self._arguments).__aenter__()
            pool = self._pool
        return await pool.acquire(snapshot)

    async def close(self) -> None:
        """Stop the workers, with all that runs. The next `acquire` starts new ones. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()
