"""HTTP/1.1 to one server over asyncio's streams, parsed by httptools: many requests at once, connections kept.

An answer that streams can be left at any time: its connection is closed, which tells the server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import httptools

from askesis.types import EngineError, EngineGone

_CHUNK = 2**16
_KEPT = 512  # connections


class _Answer:
    """Callbacks of httptools: what came of an answer so far."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.keep, self.whole = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"connection" and value.lower() == b"close":
            self.keep = False

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.whole = True

    def taken(self) -> bytes:
        """What came since the last call."""
        pieces, self.pieces = self.pieces, []
        return b"".join(pieces)


class Client:
    """Requests with JSON in their bodies to `url`. key: a bearer's token. Raises `EngineError` for what goes wrong."""

    def __init__(self, url: str, *, key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise EngineError(f"vLLM server {url!r}: expected http://HOST:PORT")
        self.url = url.rstrip("/")
        self._host, self._port, self._base = parts.hostname, parts.port or 80, parts.path.rstrip("/")
        self._key = key
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # in which the idle connections live
        self._closed = False

    async def post(self, path: str, body: Any = None, *, seconds: float = 600.0) -> Any:
        """The answer's JSON, None where it has no body."""
        return await self._whole("POST", path, body, seconds)

    async def get(self, path: str, *, seconds: float = 30.0) -> Any:
        """The answer's JSON, None where it has no body."""
        return await self._whole("GET", path, None, seconds)

    async def events(self, path: str, body: Any) -> AsyncGenerator[Any, None]:
        """The JSON of an answer's server-sent events, up to `[DONE]`."""
        rest = b""
        async with aclosing(self._pieces("POST", path, body)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                        yield json.loads(data)

    async def close(self) -> None:
        """Close what is kept."""
        self._closed = True
        self._settle()
        idle, self._idle = self._idle, []
        for _, writer in idle:
            writer.close()

    def _settle(self) -> None:
        """In another event loop than before, begin with no connections: those of an ended one are ended too."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop, self._idle = loop, []

    async def _whole(self, method: str, path: str, body: Any, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds), aclosing(self._pieces(method, path, body)) as pieces:
                text = b"".join([piece async for piece in pieces])
        except TimeoutError as error:
            raise EngineError(f"{self.url}{path} did not answer within {seconds:.0f} s") from error
        try:
            return json.loads(text) if text.strip() else None
        except ValueError as error:
            raise EngineError(f"{self.url}{path} answered with something else than JSON: {text[:200]!r}") from error

    async def _pieces(self, method: str, path: str, body: Any) -> AsyncGenerator[bytes, None]:
        """The body of an answer with the status 200, as it comes."""
        content = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {self._base}{path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        if self._key:
            head.append(f"Authorization: Bearer {self._key}")
        message = "\r\n".join([*head, "", ""]).encode() + content
        reader, writer, answer, parser = await self._asked(message)
        kept = False
        try:
            while True:
                if answer.whole or parser.get_status_code() == 200:
                    if answer.whole and parser.get_status_code() != 200:
                        said = answer.taken()[:600].decode(errors="replace")
                        raise EngineError(f"{self.url}{path} answered {parser.get_status_code()}: {said}")
                    if answer.pieces:
                        yield answer.taken()
                    if answer.whole:
                        break
                if not (data := await reader.read(_CHUNK)):
                    raise EngineError(f"{self.url}{path}: the connection ended in the middle of an answer")
                parser.feed_data(data)
            kept = answer.keep and not self._closed and len(self._idle) < _KEPT
        except (OSError, httptools.HttpParserError) as error:
            raise EngineError(f"{self.url}{path}: {type(error).__name__}: {error}") from error
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _asked(
        self, message: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, _Answer, httptools.HttpResponseParser]:
        """Send a request, and wait for the beginning of its answer.

        A connection that was kept may have been closed by the server meanwhile: then the request goes over a new one.
        """
        self._settle()
        self._closed = False
        while True:
            fresh = not self._idle
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port) if fresh else self._idle.pop()
            except OSError as error:
                raise EngineGone(f"vLLM server {self.url} cannot be reached: {error}") from error
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            try:
                writer.write(message)
                await writer.drain()
                data = await reader.read(_CHUNK)
                if data:
                    parser.feed_data(data)
                    return reader, writer, answer, parser
                failure: Exception = ConnectionError("it closed the connection")
            except (OSError, httptools.HttpParserError) as error:
                failure = error
            except BaseException:
                writer.close()
                raise
            writer.close()
            if fresh:
                raise EngineError(f"vLLM server {self.url}: {type(failure).__name__}: {failure}") from failure
