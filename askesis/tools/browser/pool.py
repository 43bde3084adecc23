"""Browsers that episodes share: a few Chromium processes, in each of them a fresh profile for every episode.

A profile (a context) has its own cookies, storage and cache, its own way out (`network`), and is thrown away with its
episode. Where a Chromium dies, what was open in it fails as the machinery's fault, and the next episode gets a new one;
those in other processes do not notice.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from askesis.tools.browser import chromium
from askesis.tools.browser.network import Network, Port, Site
from askesis.types import ConfigError, ToolError, in_line

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Playwright

CLOSE_S = 30.0
VIEWPORT = (1024, 768)
_GRACE_S = 0.02  # a few rounds of the event loop, in which what was sent before is heard and refused


@dataclass(slots=True)
class _Process:
    """A Chromium, its network, and the ports that nobody has."""

    chromium: chromium.Chromium
    network: Network
    free: deque[Port]
    used: int = 0
    retired: bool = False  # takes no more, and is stopped when nobody is left

    @property
    def good(self) -> bool:
        return self.chromium.alive and not self.retired

    async def stop(self) -> None:
        self.retired = True
        await self.network.close()  # first: the loop must have let go of the sockets before they are closed
        await self.chromium.stop()


@dataclass(slots=True)
class Profile:
    """A fresh profile, as long as it is open. context: Playwright's. port: its way out."""

    context: BrowserContext
    port: Port
    process: _Process = field(repr=False)

    @property
    def alive(self) -> bool:
        """Whether its Chromium is still there."""
        return self.process.chromium.alive


class BrowserPool:
    """Opens profiles. Chromium starts with the first of them, and anew in another event loop.

    processes: of Chromium, at most; a further one starts when the others are full. profiles: open at once in each
    (None: as many as there are processors, and two at least); whoever comes when all are taken waits in line. program:
    Chromium's name or path, if not the system's. Raises `ConfigError` for senseless numbers, `MissingExtra` where
    Playwright, Chromium or bubblewrap is not installed.
    """

    def __init__(self, *, processes: int = 2, profiles: int | None = None, program: str = "") -> None:
        profiles = min(64, max(2, os.cpu_count() or 1)) if profiles is None else profiles
        if not 1 <= processes <= 64 or not 1 <= profiles <= 64:
            raise ConfigError(f"browser: processes={processes}, profiles={profiles}: expected 1 to 64 of each")
        self._most, self._each = processes, profiles
        self._program = chromium.find(program)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._playwright: Playwright | None = None
        self._processes: list[_Process] = []
        self._starting = asyncio.Lock()
        self._freed = asyncio.Condition()
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def profile(
        self,
        sites: Mapping[str, Site],
        *,
        viewport: tuple[int, int] = VIEWPORT,
        alone: bool = False,
    ) -> AsyncIterator[Profile]:
        """A profile that reaches `sites` (ASGI applications by host), as long as the context lasts.

        viewport: width and height in CSS pixels. alone: in a Chromium of its own, which is stopped afterwards. Raises
        `ToolError` where Chromium cannot be started or does not answer.
        """
        opened = await self.open(sites, viewport=viewport, alone=alone)
        try:
            yield opened
        finally:
            await self.shut(opened)

    async def open(
        self, sites: Mapping[str, Site], *, viewport: tuple[int, int] = VIEWPORT, alone: bool = False
    ) -> Profile:
        """As `profile`, to be given to `shut` afterwards."""
        if (loop := asyncio.get_running_loop()) is not self._loop:  # what another loop held ended with it
            self._loop = loop
            self._reset()
        process = await (self._own() if alone else self._room())
        port = process.free.popleft()
        process.used += 1
        port.give(sites)
        try:
            context = await self._context(process, port, viewport)
        except BaseException:
            await self._give_back(process, port)
            raise
        return Profile(context, port, process)

    async def shut(self, profile: Profile) -> None:
        """Throw a profile away, with its pages and all that they hold."""
        from playwright.async_api import Error

        closing = asyncio.ensure_future(asyncio.wait_for(profile.context.close(), CLOSE_S))
        closing.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(closing)
        except TimeoutError:
            profile.process.retired = True
        except Error:
            pass  # it died before
        finally:
            task = asyncio.create_task(self._after(closing, profile.process, profile.port))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Stop all of it. The next profile starts anew. Idempotent."""
        if self._loop is not asyncio.get_running_loop():
            return
        await asyncio.gather(*self._ending, return_exceptions=True)
        processes, self._processes = self._processes, []
        await asyncio.gather(*(process.stop() for process in processes), return_exceptions=True)
        playwright, self._playwright = self._playwright, None
        if playwright is not None:
            await playwright.stop()

    # -- processes ---------------------------------------------------------------------------------------------------

    async def _start(self) -> _Process:
        async with self._starting:
            if self._playwright is None:
                from playwright.async_api import async_playwright

                self._playwright = await async_playwright().start()
            started = await chromium.Chromium.start(self._playwright, program=self._program, sockets=1 + self._each)
            network = Network(started.listeners)
            return _Process(started, network, deque([*network.ports.values()][1:]))

    async def _own(self) -> _Process:
        process = await self._start()
        process.retired = True
        self._processes.append(process)
        return process

    async def _room(self) -> _Process:
        """A process with a free port. Starts one if there may be more; else waits in line."""
        with in_line():
            async with self._freed:
                while True:
                    await self._drop_dead()
                    good = [process for process in self._processes if process.good]
                    found = next((process for process in good if process.free), None)
                    if found is not None:
                        return found
                    if len(good) < self._most:
                        self._processes.append(await self._start())
                    else:
                        await self._freed.wait()

    async def _drop_dead(self) -> None:
        for process in [one for one in self._processes if not one.chromium.alive and not one.used]:
            self._processes.remove(process)
            await process.stop()

    async def _context(self, process: _Process, port: Port, viewport: tuple[int, int]) -> BrowserContext:
        from playwright.async_api import Error

        width, height = viewport
        try:
            return await asyncio.wait_for(
                process.chromium.browser.new_context(
                    proxy={"server": f"http://127.0.0.1:{port.number}"},
                    viewport={"width": width, "height": height},
                    accept_downloads=False,
                    service_workers="block",
                    locale="en-US",
                    timezone_id="UTC",
                    color_scheme="light",
                    reduced_motion="reduce",
                ),
                CLOSE_S,
            )
        except (Error, TimeoutError) as error:
            process.retired = True
            said = str(error).partition("\n")[0] or f"no answer within {CLOSE_S:g} s"
            raise ToolError(f"the browser opened no profile: {said}") from error

    async def _after(self, closing: asyncio.Future[None], process: _Process, port: Port) -> None:
        await asyncio.wait((closing,))
        await self._give_back(process, port)

    async def _give_back(self, process: _Process, port: Port) -> None:
        """Let others have the port, once nothing can come any more of those who had it."""
        port.give({})
        await asyncio.sleep(_GRACE_S)
        process.network.hang_up(port)
        await asyncio.sleep(_GRACE_S)
        async with self._freed:
            process.free.append(port)
            process.used -= 1
            if not process.used and not process.good and process in self._processes:
                self._processes.remove(process)
                await process.stop()
            self._freed.notify_all()
