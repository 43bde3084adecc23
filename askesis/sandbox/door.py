"""The one door of a sandbox: a port inside, whose listening socket is held by the host, outside.

The program's process makes the socket in its own network namespace before it becomes the program, and hands it out. So
nothing of ours runs inside, no path of the host is seen there, and whoever connects is of this very run. Each
connection is joined to a new one to a Unix socket of the host. Closing the host's end of the channel stops the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from askesis.types import Door

MOST = 64  # connections at once; those beyond it wait in the kernel
_CHUNK = 2**16


class Channel:
    """A pair of sockets: one end for the worker, one to receive the listener and to say that it is over."""

    def __init__(self, door: Door | None) -> None:
        self._door = door
        self._ours: socket.socket | None = None
        self._stopped = False
        self._serving: asyncio.Task[None] | None = None

    def fresh(self) -> int:
        """The worker's end, to be closed by whoever gets it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self._ours = ours
        if self._stopped:
            self.stop()
        elif self._door is not None:
            self._serving = asyncio.create_task(self._serve(ours, self._door.path), name="askesis-sandbox-door")
        return theirs.detach()

    def stop(self) -> None:
        """End the run, or the one that is to come."""
        self._stopped = True
        if self._ours is not None:
            with contextlib.suppress(OSError):
                self._ours.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close what is open; connections too."""
        self.stop()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        if self._ours is not None:
            self._ours.close()

    async def _serve(self, ours: socket.socket, path: str) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(ours.fileno(), arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(ours.fileno())
        _, files, _, _ = socket.recv_fds(ours, 64, 1, socket.MSG_CMSG_CLOEXEC)
        if not files:
            return  # the program could not be started, and that is told elsewhere
        listener = socket.socket(fileno=files[0])
        listener.setblocking(False)
        room, joined = asyncio.Semaphore(MOST), set[asyncio.Task[None]]()
        try:
            while True:
                await room.acquire()
                inner, _ = await loop.sock_accept(listener)
                task = asyncio.create_task(_join(inner, path), name="askesis-sandbox-connection")
                joined.add(task)
                task.add_done_callback(joined.discard)
                task.add_done_callback(lambda _: room.release())
        finally:
            listener.close()
            for task in joined:
                task.cancel()
            await asyncio.gather(*joined, return_exceptions=True)


@contextlib.asynccontextmanager
async def opened(door: Door | None, stop: asyncio.Event | None) -> AsyncIterator[Channel]:
    """A channel as long as a run lasts; `stop` stops the run."""
    channel = Channel(door)

    async def watch(stop: asyncio.Event) -> None:
        await stop.wait()
        channel.stop()

    watching = None if stop is None else asyncio.create_task(watch(stop), name="askesis-sandbox-stop")
    try:
        yield channel
    finally:
        if watching is not None:
            watching.cancel()
        await channel.close()


async def _join(inner: socket.socket, path: str) -> None:
    """Let two sockets talk to each other until both have nothing more to say, or one of them is gone."""
    loop = asyncio.get_running_loop()
    outer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    inner.setblocking(False)
    outer.setblocking(False)
    tasks: list[asyncio.Task[None]] = []
    try:
        await loop.sock_connect(outer, os.fspath(path))
        tasks = [asyncio.create_task(_pass(inner, outer)), asyncio.create_task(_pass(outer, inner))]
        await asyncio.gather(*tasks)
    except OSError:
        pass  # one side is gone: the other one hears it by the closing
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inner.close()
        outer.close()


async def _pass(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)
