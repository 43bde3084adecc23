"""What a browser can reach: the sites of an episode, which run in this process, and nothing else.

A browser's contexts speak to one proxy each, at a port of their own, and all of them are this server. It looks a
request's host up among the sites of that port's episode, and refuses every other. There are no tunnels: what would need
one (https, web sockets) is refused, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Site = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application: what answers at a host."""

MOST_BODY = 2**18  # bytes of a request
_SILENT = logging.getLogger("askesis.browser.network")
_SILENT.setLevel(logging.CRITICAL)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(slots=True)
class Port:
    """A proxy's port, and whose it is. sites: by host. busy: requests that are being answered. last: when one was, by
    the loop's clock. refused: addresses that were asked for in vain. failure: what a site raised."""

    number: int
    sites: Mapping[str, Site] = field(default_factory=dict)
    busy: int = 0
    last: float = 0.0
    refused: list[str] = field(default_factory=list)
    failure: Exception | None = None

    def give(self, sites: Mapping[str, Site]) -> None:
        """It is another episode's, or (with no sites) nobody's."""
        self.sites, self.failure, self.refused = dict(sites), None, []


class _Protocol(HttpToolsProtocol):
    """Says nothing of what pages ask for in vain: that is on record with their port."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _SILENT


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Network:
    """Answers at the sockets of one browser, on the running event loop."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self.ports = {port: Port(port) for port in (one.getsockname()[1] for one in listeners)}
        config = uvicorn.Config(
            self._answer,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http=_Protocol,
            interface="asgi3",
            proxy_headers=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(list(listeners)), name="askesis-browser-network")

    async def close(self) -> None:
        """Answer nobody any more."""
        for port in self.ports.values():
            port.give({})
        self._server.should_exit = self._server.force_exit = True
        await asyncio.gather(self._task, return_exceptions=True)

    def hang_up(self, port: Port) -> None:
        """Cut what is still connected to a port."""
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None and (transport.get_extra_info("sockname") or ("", 0))[1] == port.number:
                transport.abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        port = self.ports.get(int((scope.get("server") or ("", 0))[1] or 0))
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        site = None if port is None else port.sites.get(host.removesuffix(":80"))
        if site is None or port is None or scope["type"] != "http" or scope["method"] not in _METHODS:
            if port is not None and len(port.refused) < 100:
                port.refused.append(f"{scope.get('method', '')} {host}{scope.get('path', '')}"[:200])
            await _say(send, 403, "not served here")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BODY or b"transfer-encoding" in headers:
            await _say(send, 413, "too large")
            return
        sites = port.sites
        port.busy += 1
        try:
            await site(scope, receive, send)
        except Exception as error:
            if port.sites is sites:
                port.failure = error
            raise
        finally:
            if port.sites is sites:
                port.last = asyncio.get_running_loop().time()
            port.busy -= 1


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
