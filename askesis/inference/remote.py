"""Engines on other machines: an actor holds one, and `RemoteEngine` speaks for it here. A `Router` goes in front."""

from __future__ import annotations

import asyncio
import functools
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from askesis.inference.actors import Actor, Answer, Gone, Mortal, answer
from askesis.types import Completion, Engine, EngineError, EngineGone, OnTokens, Piece, Sampling, TokenIds

MakeEngine = Callable[[], Engine]


def embedded(config: Any, **options: Any) -> MakeEngine:
    """What makes an `EmbeddedEngine(model, **options)` elsewhere, of a model with this configuration.

    Its weights are those that `update_weights` brings; nothing is read from a disk there.
    """
    return functools.partial(_embedded, config, options)


def _embedded(config: Any, options: Mapping[str, Any]) -> Engine:
    import torch

    from askesis.inference.engine import EmbeddedEngine
    from askesis.models import build

    torch.set_num_threads(options.get("threads") or 1)
    return EmbeddedEngine(build(config).requires_grad_(False), **options)


class EngineHost(Mortal):
    """An actor with an engine. It refuses to sample before it was given weights: a host that was started again has
    others than its name stands for."""

    def __init__(self, make: MakeEngine) -> None:
        self._make, self._ready = make, False
        self._made: Engine | None = None

    @property
    def _engine(self) -> Engine:
        if self._made is None:
            self._made = self._make()
        return self._made

    async def start(self) -> Answer:
        """Make it, and start it where it takes that."""
        return await answer(self._start())

    async def _start(self) -> None:
        if (start := getattr(self._engine, "start", None)) is not None:
            await start()

    async def ping(self) -> Answer:
        """A sign of life: of this process, which gives its number, and of what the engine has in others."""
        return await answer(self._ping())

    async def _ping(self) -> int:
        if (ping := getattr(self._made, "ping", None)) is not None:
            await ping()
        return os.getpid()

    async def generate(self, token_ids: TokenIds, sampling: Sampling, session: str | None) -> Answer:
        """As `Engine.generate`."""
        return await answer(self._generate(token_ids, sampling, session, None))

    async def stream(
        self, token_ids: TokenIds, sampling: Sampling, session: str | None
    ) -> AsyncIterator[Piece | Answer]:
        """The pieces, and the answer."""
        pieces: asyncio.Queue[Piece | Answer] = asyncio.Queue()
        work = asyncio.ensure_future(answer(self._generate(token_ids, sampling, session, pieces.put_nowait)))
        work.add_done_callback(lambda done: None if done.cancelled() else pieces.put_nowait(done.result()))
        try:
            while True:
                piece = await pieces.get()
                yield piece
                if isinstance(piece, Answer):
                    return
        finally:
            work.cancel()

    async def _generate(
        self, token_ids: TokenIds, sampling: Sampling, session: str | None, on_tokens: OnTokens | None
    ) -> Completion:
        if not self._ready:
            raise EngineGone("this engine was just started and has no weights yet")
        return await self._engine.generate(token_ids, sampling, session=session, on_tokens=on_tokens)

    async def update_weights(self, weights: Mapping[str, Any], version: int, fingerprint: str) -> Answer:
        """As `Engine.update_weights`."""
        return await answer(self._update(weights, version, fingerprint))

    async def _update(self, weights: Mapping[str, Any], version: int, fingerprint: str) -> None:
        if not weights:
            raise EngineError("an engine on another machine shares no weights: they have to be sent")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # arrays of the object store are read-only; these are copied
            await self._engine.update_weights(weights, version, fingerprint=fingerprint)
        self._ready = True

    async def context_length(self) -> Answer:
        """As `Engine.context_length`."""
        return await answer(_value(lambda: self._engine.context_length))

    async def release(self, session: str) -> Answer:
        """As `Engine.release`."""
        return await answer(_value(lambda: self._engine.release(session)))

    async def close(self) -> Answer:
        """As `Engine.close`."""
        return await answer(self._close())

    async def _close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            await made.close()


async def _value(work: Callable[[], Any]) -> Any:
    return work()


class Depot:
    """Weights on their way: put into the cluster's store once, whoever fetches them."""

    def __init__(self) -> None:
        self._kept: tuple[int, Mapping[str, Any], Any] | None = None

    def put(self, weights: Mapping[str, Any], version: int) -> Any:
        """What an actor is given in their place. Weights of one version and one mapping are put once."""
        kept = self._kept
        if kept is None or kept[0] != version or kept[1] is not weights:
            from askesis.inference.actors import require_ray

            plain = {name: _plain(value) for name, value in weights.items()}
            kept = self._kept = (version, weights, require_ray().put(plain))
        return kept[2]


def _plain(value: Any) -> Any:
    """A tensor as an array, which the store shares without a copy, where numpy knows its type."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16
        return tensor


class RemoteEngine:
    """`types.Engine` in an actor. make: makes the engine there (`embedded`). depot: shared by the engines of a router.

    context_length: of the engine. close_s: how long it may take to close, where it has processes of its own; else its
    actor is ended at once. A request that its actor does not live to answer raises `EngineGone`.
    """

    def __init__(
        self,
        make: MakeEngine,
        *,
        context_length: int,
        depot: Depot | None = None,
        name: str = "engine",
        cpus: float = 1.0,
        gpus: float = 0.0,
        before: Callable[[Actor], Awaitable[None]] | None = None,
        close_s: float = 0.0,
    ) -> None:
        self._context, self._depot, self._close_s = context_length, depot or Depot(), close_s
        self.actor = Actor(EngineHost, make, what=f"engine {name}", cpus=cpus, gpus=gpus, before=before)

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return self._context

    async def generate(
        self,
        token_ids: TokenIds,
        sampling: Sampling,
        *,
        session: str | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Completion:
        """See `types.Engine`."""
        try:
            if on_tokens is None:
                found = await self.actor.ask("generate", token_ids, sampling, session)
            else:
                found = await self.actor.stream("stream", on_tokens, token_ids, sampling, session)
            completion: Completion = found.read()
            return completion
        except Gone as error:
            raise EngineGone(str(error)) from error

    async def update_weights(self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "") -> None:
        """See `types.Engine`; the weights have to be given."""
        try:
            found = await self.actor.ask("update_weights", self._depot.put(weights, version), version, fingerprint)
            found.read()
        except Gone as error:
            raise EngineGone(str(error)) from error

    async def start(self) -> None:
        """Have the actor make its engine, and start it. Raises what that raises, and `EngineGone`."""
        await self._asked("start")

    async def ping(self) -> None:
        """A sign of life of the actor and of its engine. Raises `EngineGone`, and what the engine raises."""
        await self._asked("ping")

    async def _asked(self, method: str) -> None:
        try:
            (await self.actor.ask(method)).read()
        except Gone as error:
            raise EngineGone(str(error)) from error

    def release(self, session: str) -> None:
        """See `types.Engine`."""
        self.actor.tell("release", session)

    def revive(self) -> None:
        """End the actor's process, which does not answer any more; Ray starts another."""
        self.actor.kill(restart=True)

    async def close(self) -> None:
        """Close the engine, where that takes time, and end the actor."""
        if self._close_s:
            with suppress(Gone, TimeoutError):
                await asyncio.wait_for(self.actor.ask("close"), self._close_s)
        self.actor.kill(restart=False)
