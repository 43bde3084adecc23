"""The gateway: an ASGI application over one engine.

    POST /v1/chat/completions   POST /v1/responses   POST /v1/messages   POST /v1/messages/count_tokens
    GET /v1/models   GET /v1/models/NAME   GET /health   GET /metrics   GET /openapi.json

The first two lines are also there below `/s/NAME`, which makes NAME the session; `DELETE /s/NAME` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from askesis.rollout import Ask, Host, HostClosed, TraceStore, Turn, turn_seed
from askesis.serve.asked import Asked
from askesis.serve.chat_completions import ChatCompletions
from askesis.serve.faults import Fault, invalid
from askesis.serve.keys import Gate, Key, check_name
from askesis.serve.messages import Messages
from askesis.serve.metrics import CONTENT_TYPE_LATEST, Metrics
from askesis.serve.openapi import describe
from askesis.serve.reply import Reply
from askesis.serve.responses import Responses
from askesis.serve.sessions import Sessions, open_store
from askesis.serve.settings import Served, Settings
from askesis.serve.wire import Wire, Writer
from askesis.types import AskesisError, ConfigError, ContextOverflow, Engine, Sampling, StoreError, TemplateError

_log = logging.getLogger("askesis.serve")
_WIRES: dict[str, Wire] = {
    "/v1/chat/completions": ChatCompletions(),
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
}
_COUNT = "/v1/messages/count_tokens"


class Gateway:
    """Serves `served` with `engine`. `app` is the ASGI application; `close` when done (the engine stays open).

    keys: who may use it; none lets everyone in. store: where traces go; by default the one in `settings.record`.
    Not thread-safe: it runs on the engine's event loop.
    """

    def __init__(
        self,
        engine: Engine,
        served: Served,
        *,
        settings: Settings | None = None,
        keys: Iterable[Key] = (),
        store: TraceStore | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.served = served
        self._engine = engine
        self._gate = Gate(keys, requests=self.settings.key_requests, tokens=self.settings.key_tokens)
        self._sessions = Sessions(engine, served, self.settings, store or open_store(self.settings.record))
        self._flight: set[asyncio.Task[Any]] = set()
        self._turns: set[asyncio.Task[Any]] = set()
        self._sealing: asyncio.Task[None] | None = None
        self._closed = False
        self._metrics = Metrics(
            {
                ("requests_in_flight", "Requests being answered."): lambda: len(self._flight),
                ("sessions", "Sessions in memory."): lambda: self._sessions.open_sessions,
                ("conversations", "Conversations in memory."): lambda: self._sessions.conversations,
                ("recorded_tokens", "Tokens in memory, not yet in the store."): lambda: self._sessions.tokens,
                ("traces", "Traces put into the store."): lambda: self._sessions.kept,
            }
        )
        self.app: ASGIApp = self._application()

    # -- the face ----------------------------------------------------------------------------------------------------

    def attach(self, name: str, host: Host) -> None:
        """Let `host` answer below `/s/NAME`, for whoever knows the name: no key is asked for there."""
        self._sessions.attach(check_name(name, "session"), host)

    def detach(self, name: str) -> None:
        """That host answers no more."""
        self._sessions.detach(name)

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return len(self._flight)

    async def close(self) -> None:
        """Cut off what is in flight, and put all that was recorded into the store. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._sealing is not None:
            self._sealing.cancel()
        cut = [*self._flight, *self._turns]
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        self._sessions.close()

    # -- routes ------------------------------------------------------------------------------------------------------

    def _application(self) -> Starlette:
        routes = []
        for prefix in ("", "/s/{session}"):
            for path, wire in _WIRES.items():
                routes.append(Route(prefix + path, _Answering(self, path, wire), methods=["POST"]))
            routes.append(Route(prefix + _COUNT, self._count, methods=["POST"]))
            routes.append(Route(prefix + "/v1/models", self._models, methods=["GET"]))
            routes.append(Route(prefix + "/v1/models/{model:path}", self._models, methods=["GET"]))
        routes += [
            Route("/s/{session}", self._end_session, methods=["DELETE"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._no_route, Fault: self._refuse})

    def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = "there is no" if error.status_code == 404 else f"{request.method} is not possible at"
        code = "not_found" if error.status_code == 404 else "method_not_allowed"
        fault = Fault(error.status_code, f"{what} {request.url.path}", code=code)
        return self._refuse(request, fault)

    def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Fault)
        anthropic = "/v1/messages" in request.url.path or "anthropic-version" in request.headers
        return _json(error.anthropic() if anthropic else error.openai(), error.status, error.headers)

    async def _health(self, request: Request) -> Response:
        if self._closed:
            raise Fault(503, "the gateway is stopping", code="stopping", retry_after=5)
        return _json({"status": "ok", "model": self.served.name, "in_flight": self.in_flight})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _openapi(self, request: Request) -> Response:
        return _json(describe(_WIRES))

    async def _models(self, request: Request) -> Response:
        self._who(request)
        wanted = request.path_params.get("model")
        names = self.served.names if wanted is None else [name for name in self.served.names if name == wanted]
        if not names:
            raise _no_model(str(wanted))
        created = self.served.created
        stamp = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
        rows: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "askesis",
                "max_model_len": self._engine.context_length,
                "type": "model",
                "display_name": name,
                "created_at": stamp,
            }
            for name in names
        ]
        if wanted is not None:
            return _json(rows[0])
        page = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
        return _json({"object": "list", "data": rows, **page})

    async def _end_session(self, request: Request) -> Response:
        who, name, host = self._session(request)
        if host is not None:
            raise Fault(409, "this session belongs to an episode, which ends by itself", code="conflict")
        assert name is not None
        try:
            traces = self._sessions.end(self._gate.session(who, name))
        except StoreError as error:
            _log.error("%s", error)
            raise Fault(500, f"{error}; they stay in memory, and are tried again", code="internal_error") from None
        return _json({"session": name, "traces": traces})

    async def _count(self, request: Request) -> Response:
        self._who(request)
        async with asyncio.timeout(self.settings.request_s):
            asked = Messages().read_count(await self.body(request), self.served)
        self._check_model(asked.model)
        try:
            tokens = self.served.renderer.render(asked.messages, tools=asked.tools, thinking=asked.thinking)
        except TemplateError as error:
            raise invalid(str(error), param="messages") from None
        return _json({"input_tokens": len(tokens)})

    # -- who asks ----------------------------------------------------------------------------------------------------

    def _who(self, request: Request) -> str:
        """The key's name. Raises a 401."""
        header = request.headers.get("authorization", "")
        secret = header[7:].strip() if header[:7].lower() == "bearer " else None
        return self._gate.who(secret or request.headers.get("x-api-key"))

    def _session(self, request: Request) -> tuple[str, str | None, Host | None]:
        """(who asks, the session in the URL if any, the host attached to it if any)."""
        name = request.path_params.get("session")
        if name is not None:
            try:
                check_name(name, "session")
            except ConfigError as error:
                raise invalid(str(error), param="session") from None
            if (host := self._sessions.attached(name)) is not None:
                return "", name, host
        return self._who(request), name, None

    async def body(self, request: Request) -> bytes:
        """The body, as long as it may be. Raises a 413."""
        most = self.settings.max_body
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise _too_large(int(length), most)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise _too_large(len(body), most)
        return bytes(body)

    def _check_model(self, model: str) -> None:
        if not self.served.any_name and model not in self.served.names:
            raise _no_model(model)

    # -- answering ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _admitted(self, who: str) -> Iterator[_Use]:
        """A request's place: one of all, and one of its key's. Raises a 429 or a 503."""
        if self._closed:
            raise Fault(503, "the gateway is stopping", code="stopping", retry_after=5)
        if len(self._flight) >= self.settings.max_requests:
            message = f"{len(self._flight)} requests are in flight, no more"
            raise Fault(503, message, code="overloaded", retry_after=1)
        self._gate.enter(who)
        if self._sealing is None:
            self._sealing = asyncio.create_task(self._seal(), name="askesis-serve-sealing")
        task, use = asyncio.current_task(), _Use()
        assert task is not None
        self._flight.add(task)
        try:
            yield use
        finally:
            self._flight.discard(task)
            self._gate.leave(who, use.tokens)

    async def _seal(self) -> None:
        """Now and then, keep the conversations that nobody goes on with."""
        while True:
            await asyncio.sleep(min(self.settings.idle_s / 4, 5.0))
            try:
                self._sessions.seal(idle_s=self.settings.idle_s, reason="idle")
            except AskesisError as error:
                _log.error("%s; they stay in memory, and are tried again", error)
            except Exception:  # whatever it is, what comes later is to be kept too
                _log.exception("traces could not be kept")

    def _open(self, asked: Asked, host: Host) -> list[Turn]:
        """Find each choice's place. Raises `Fault` for what is wrong with the conversation."""
        if asked.choices > self.settings.max_choices:
            raise invalid(f"n is {asked.choices}, at most {self.settings.max_choices} here", param="n")
        turns = []
        for index in range(asked.choices):
            seed = asked.sampling.seed
            ask = Ask(
                messages=asked.messages,
                tools=asked.tools,
                thinking=asked.thinking,
                sampling=asked.sampling if seed is None or index == 0 else _reseeded(asked.sampling, seed, index),
                max_tokens=asked.max_tokens,
            )
            try:
                turns.append(host.open(ask))
            except ContextOverflow as error:
                raise invalid(str(error), param="messages", code="context_length_exceeded") from None
            except TemplateError as error:
                raise invalid(str(error), param="messages") from None
            except HostClosed as error:
                raise Fault(409, str(error), code="session_closed") from None
        return turns

    def _speak(self, turn: Turn, reply: Reply, use: _Use) -> asyncio.Task[None]:
        """Let one choice be spoken, in a task of its own."""

        async def speak() -> None:
            try:
                reply.answer = await turn.speak(reply)
            finally:
                use.tokens += turn.prompt_tokens + reply.count
                self._metrics.turn(turn.continuity, turn.prompt_tokens, reply.count, reply.thought)

        task = asyncio.create_task(speak(), name="askesis-serve-turn")
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)
        return task


class _Use:
    """What a request used."""

    tokens = 0


class _Answering:
    """The endpoint of one protocol, as an ASGI application of its own: a stream is sent without detours."""

    def __init__(self, gateway: Gateway, path: str, wire: Wire) -> None:
        self._gateway, self._path, self._wire = gateway, path, wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway, request, begun = self._gateway, Request(scope, receive), time.monotonic()
        exchange = _Exchange(send)
        try:
            async with asyncio.timeout(gateway.settings.request_s):
                who, name, host = gateway._session(request)
                with gateway._admitted(who) as use:
                    asked = self._wire.read(await gateway.body(request), gateway.served)
                    if host is None:
                        gateway._check_model(asked.model)
                        host = gateway._sessions.of(gateway._gate.session(who, name))
                    await self._answer(asked, host, use, receive, exchange, begun)
        except ClientDisconnect:
            exchange.status = 499
        except asyncio.CancelledError:
            await self._fail(exchange, Fault(503, "the gateway was stopped", code="stopping", retry_after=5))
            raise
        except TimeoutError:
            message = f"no whole answer within {gateway.settings.request_s:g} s"
            await self._fail(exchange, Fault(504, message, code="timeout"))
        except Fault as fault:
            await self._fail(exchange, fault)
        except HostClosed as error:  # the session has ended while it was being answered
            await self._fail(exchange, Fault(409, str(error), code="session_closed"))
        except AskesisError as error:
            _log.error("%s: %s", self._path, error)
            await self._fail(exchange, Fault(500, f"the answer failed: {error}", code="internal_error"))
        except Exception:
            _log.exception("%s failed", self._path)
            await self._fail(exchange, Fault(500, "the gateway failed; its log says how", code="internal_error"))
        finally:
            gateway._metrics.request(self._path, exchange.status)
            gateway._metrics.whole.observe(time.monotonic() - begun)

    async def _answer(
        self, asked: Asked, host: Host, use: _Use, receive: Receive, exchange: _Exchange, begun: float
    ) -> None:
        gateway = self._gateway
        writer = self._wire.writer(asked, gateway.served)
        turns = gateway._open(asked, host)
        wake = asyncio.Event()
        replies = [
            Reply(asked, gateway.served.renderer, turn.thinking, index=i, wake=wake.set if asked.stream else None)
            for i, turn in enumerate(turns)
        ]
        tasks = [gateway._speak(turn, reply, use) for turn, reply in zip(turns, replies, strict=True)]
        gone = asyncio.create_task(_gone(receive), name="askesis-serve-client")
        headers: dict[str, str] = {"x-askesis-history": turns[0].continuity}
        if (trace := getattr(turns[0], "trace_id", None)) is not None:
            headers["x-askesis-trace"] = trace
        try:
            if asked.stream:
                exchange.headers, exchange.writer = headers, writer
                await self._stream(writer, turns[0].prompt_tokens, replies, tasks, wake, gone, exchange, begun)
            else:
                await _all(tasks, gone)
                gateway._metrics.first.observe(time.monotonic() - begun)
                await exchange.whole(writer.whole(replies, turns[0].prompt_tokens), 200, headers)
        finally:
            gone.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(
        self,
        writer: Writer,
        prompt_tokens: int,
        replies: list[Reply],
        tasks: list[asyncio.Task[None]],
        wake: asyncio.Event,
        gone: asyncio.Task[None],
        exchange: _Exchange,
        begun: float,
    ) -> None:
        """Send what is new, at most once in `pace_s`, until all choices are complete."""
        loop, pace = asyncio.get_running_loop(), self._gateway.settings.pace_s
        gone.add_done_callback(lambda _: wake.set())
        for task in tasks:
            task.add_done_callback(lambda _: wake.set())
        ended: set[int] = set()
        first, last = True, 0.0
        head = writer.begin(prompt_tokens)
        while len(ended) < len(tasks):
            await wake.wait()
            if not first and (rest := last + pace - loop.time()) > 0 and not all(task.done() for task in tasks):
                await asyncio.sleep(rest)
            wake.clear()
            if gone.done():
                raise ClientDisconnect
            out = []
            for reply, task in zip(replies, tasks, strict=True):
                if reply.index in ended:
                    continue
                done = task.done()
                if done:
                    task.result()
                out.append(writer.more(reply))
                if done:
                    ended.add(reply.index)
                    out.append(writer.end_choice(reply))
            chunk = b"".join(out)
            if first and (chunk or any(reply.count for reply in replies)):
                first = False
                self._gateway._metrics.first.observe(time.monotonic() - begun)
                chunk = head + chunk
            if chunk:
                await exchange.chunk(chunk)
                last = loop.time()
        await exchange.chunk(writer.end(replies), last=True)

    async def _fail(self, exchange: _Exchange, fault: Fault) -> None:
        """Say so, in whatever way is still possible."""
        with contextlib.suppress(OSError):
            if not exchange.started:
                await exchange.whole(self._wire.error(fault), fault.status, fault.headers)
            elif exchange.writer is not None and not exchange.ended:
                await exchange.chunk(exchange.writer.fail(fault), last=True)


class _Exchange:
    """One response, on its way out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499  # as long as nothing was said: the client went away
        self.started = self.ended = False
        self.headers: dict[str, str] = {}
        self.writer: Writer | None = None

    async def whole(self, value: dict[str, Any], status: int, headers: dict[str, str]) -> None:
        """All at once."""
        body = to_json(value)
        await self._start(status, {**headers, "content-type": "application/json", "content-length": str(len(body))})
        self.ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def chunk(self, data: bytes, *, last: bool = False) -> None:
        """A piece of a stream; the first one opens it."""
        if not self.started:
            await self._start(
                200, {**self.headers, "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            )
        self.ended = last
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.started, self.status = True, status
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _all(tasks: list[asyncio.Task[None]], gone: asyncio.Task[None]) -> None:
    """Wait for all choices. Raises what one of them raises, and `ClientDisconnect` if nobody waits any more."""
    waiting: set[asyncio.Task[None]] = set(tasks)
    while waiting:
        done, _ = await asyncio.wait({*waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {gone}:
            task.result()
        waiting -= done
        if waiting and gone in done:
            raise ClientDisconnect


def _reseeded(sampling: Sampling, seed: int, index: int) -> Sampling:
    """The sampling of a further choice: the first one is that of a request for one alone."""
    return replace(sampling, seed=turn_seed(seed, index))


def _no_model(model: str) -> Fault:
    return Fault(
        404, f"there is no model {model!r} here; /v1/models has the list", code="model_not_found", param="model"
    )


def _too_large(size: int, most: int) -> Fault:
    return Fault(413, f"a body of {size} bytes or more; at most {most} here", code="body_too_large")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")
