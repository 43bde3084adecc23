"""A gateway on a socket: started, told to stop, drained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from askesis.serve.gateway import Gateway
from askesis.types import ConfigError

_log = logging.getLogger("askesis.serve")
_BACKLOG = 2048


class _Uvicorn(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A gateway that listens. url: where; with a Unix socket, of any host name behind it."""

    url: str
    gateway: Gateway
    _uvicorn: _Uvicorn

    def stop(self, *, now: bool = False) -> None:
        """Take no more requests; those in flight may finish, or are cut off `now`. What they sampled is recorded."""
        self._uvicorn.should_exit = True
        if now:
            self._uvicorn.force_exit = True


@contextlib.asynccontextmanager
async def listening(
    gateway: Gateway, *, host: str = "127.0.0.1", port: int = 0, unix: str | Path | None = None
) -> AsyncIterator[Server]:
    """Serve a gateway as long as the context lasts, on the running event loop; then drain and close it.

    port 0: any free one. unix: a socket's path in place of host and port. Raises `ConfigError` for an address that
    cannot be had.
    """
    sock, url = _bind(host, port, unix)
    config = uvicorn.Config(
        gateway.app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(gateway.settings.drain_s)),
        server_header=False,
    )
    server = _Uvicorn(config)
    task = asyncio.create_task(server.serve([sock]), name="askesis-serve-http")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
        if task.done():
            await task
        yield Server(url=url, gateway=gateway, _uvicorn=server)
    finally:
        server.should_exit = True
        closing = asyncio.create_task(_end(task, gateway, sock, unix), name="askesis-serve-end")
        await _through(closing)


async def _end(task: asyncio.Task[None], gateway: Gateway, sock: socket.socket, unix: str | Path | None) -> None:
    try:
        await task
    finally:
        sock.close()
        if unix is not None:
            Path(unix).unlink(missing_ok=True)
        await gateway.close()


async def _through(task: asyncio.Task[None]) -> None:
    """Wait for a task even while being cancelled: what was recorded must reach the store."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def run(
    gateway: Gateway, *, host: str, port: int, unix: str | Path | None, started: Callable[[Server], None]
) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for requests in flight. started: called when up."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    async with listening(gateway, host=host, port=port, unix=unix) as server:

        def stop() -> None:
            if stopping.is_set():
                server.stop(now=True)
                return
            stopping.set()
            server.stop()
            if gateway.in_flight:
                _log.warning("stopping: %d requests may finish; once more to cut them off", gateway.in_flight)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        started(server)
        await stopping.wait()


def _bind(host: str, port: int, unix: str | Path | None) -> tuple[socket.socket, str]:
    try:
        if unix is not None:
            path = Path(unix)
            if path.is_socket():
                path.unlink()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(str(path))
            os.chmod(path, 0o600)  # noqa: PTH101 - a socket
            return sock, "http://localhost"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        where = str(unix) if unix is not None else f"{host}:{port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return sock, f"http://{shown}:{sock.getsockname()[1]}"
