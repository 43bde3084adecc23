"""vLLM as `types.Engine`: tokens in, tokens and log-probabilities out, and updates of the weights while requests fly.

An update closes a gate that segments pass (`turn`), has vLLM abort what is in flight, waits until nothing is, and lets
the workers take the weights in; then those turns go on where they were, under the new weights and keys and values
computed anew. So no token is sampled under weights that its version does not name, whatever was on the way to vLLM.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from askesis.inference.sampling import check
from askesis.inference.stats import Counters, EngineStats
from askesis.inference.vllm.transport import Part, Transport
from askesis.inference.vllm.turn import Turn
from askesis.inference.vllm.weights import Courier, SharedMemory, cast
from askesis.models import fingerprint as fingerprint_of
from askesis.types import Completion, ContextOverflow, EngineError, EngineGone, OnTokens, Sampling, TokenIds, ids

_PATIENCE_S = 120.0  # until an engine that was paused must have let go of its requests
_AGAIN_S = 0.25  # a request that was on the way when vLLM was paused is queued there: the pause is repeated
_WRONG = (
    "the engine's weights are not those that the last update meant, so nothing is sampled under them; "
    "call `await engine.update_weights(weights, version, fingerprint=...)` with the right ones"
)
_UNKNOWN = (
    "nobody knows which weights vLLM was started with: they are not those of the engine's model; call "
    "`await engine.update_weights(weights, version, fingerprint=...)` before the first request"
)
_AGAIN = "; the next update of the weights starts it again"


class VLLMEngine:
    """`types.Engine` on a vLLM behind a `Transport` (`Local`, `Remote` or `Server`), which it owns.

    model: whose parameters an update without weights takes (a trainer's). slots: for `stats`. courier: how weights get
    there, for transports without a device of their own (`weights`). seed: of requests without one of their own.
    Before the first update it samples only where vLLM holds just what `model` does. A vLLM that has died, or was given
    up (`revive`), is started again by the next update; until then requests raise `EngineGone`.
    Log-probabilities are those of the temperature-scaled, untruncated distribution. The cache is vLLM's, by content:
    turns of a session find what they share, and so do sessions; there is nothing that `release` could free.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        context_length: int,
        vocab_size: int,
        model: nn.Module | None = None,
        slots: int = 64,
        courier: Courier | None = None,
        seed: int | None = None,
    ) -> None:
        self._transport, self._context, self._vocab, self.model = transport, context_length, vocab_size, model
        self.slots = slots
        self._courier = courier if courier is not None else SharedMemory()
        self._draw_seed = np.random.default_rng(seed)
        self._names = itertools.count()
        self._dtype: torch.dtype | None = None
        self._truncates = False
        self._version, self._name, self._closed, self._updated = 0, "", False, False
        self._wrong = self._gone = self._stuck = ""  # why nothing can be sampled: the weights, its end, its pause
        self._open = asyncio.Event()
        self._updating = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._flying: set[asyncio.Future[None]] = set()
        self._pauses, self._epoch, self._life = 0, 0, 0
        self._held: set[str] = set()  # fingerprints of what the workers hold
        self._counts = Counters()

    # -- the door ------------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return self._context

    @property
    def version(self) -> int:
        """Of the weights that are sampled under."""
        return self._version

    async def start(self) -> None:
        """Load vLLM and its first weights, unless that was done; `generate` and `update_weights` do it by themselves.

        Raises `EngineError` where it cannot run, `MissingExtra` where it is not installed.
        """
        if self._closed:
            raise EngineError("engine is closed")
        task = self._starting
        if task is None or (task.done() and (self._gone or task.cancelled() or task.exception() is not None)):
            task = self._starting = asyncio.create_task(self._start(), name="askesis-vllm-start")
            task.add_done_callback(_look_at)
        if not task.done():
            await asyncio.wait((task,))  # who no longer waits does not end it: the next one finds it further on
        if task.cancelled():
            raise EngineError("engine was closed while it started")
        task.result()

    async def _start(self) -> None:
        if self._gone:
            self._life += 1
            await self._transport.restart()
        else:
            await self._transport.start()
        await self._prepare()
        self._held = {state["held"] for state in await self._transport.call("askesis_state")}
        assert self._dtype is not None
        known = not self._updated and self.model is not None and self._held == {_fingerprint(self.model, self._dtype)}
        self._wrong = "" if known else _UNKNOWN
        await self._call_it(self._version, "/".join(sorted(self._held)))
        self._gone = self._stuck = ""
        if not self._pauses:
            self._open.set()

    async def _prepare(self) -> None:
        """Have the workers of a vLLM, which may have been started again by others, do as they must; see who it is."""
        workers = await self._transport.call("askesis_prepare")
        if not workers:
            raise EngineError(f"{self._transport.where} has no workers that know of Askesis")
        said = workers[0]
        if said["vocab"] != self._vocab or said["context"] < self._context:
            raise EngineError(
                f"{self._transport.where} has a vocabulary of {said['vocab']} and a context of {said['context']}; "
                f"expected {self._vocab} and at least {self._context}: it serves another model, or was started "
                "with a smaller max_model_len"
            )
        self._truncates = all(worker["truncates"] for worker in workers)
        self._dtype = getattr(torch, said["dtype"])

    async def _call_it(self, version: int, held: str) -> None:
        """Have vLLM name its weights so that nobody else's version has that name."""
        name = f"{version}-{held}"
        await self._transport.set_version(name)
        self._version, self._name = version, name

    def revive(self) -> None:
        """Give vLLM up, which does not answer any more: the next update starts it again."""
        self._gone = self._gone or f"{self._transport.where} was given up"

    async def ping(self) -> None:
        """A sign of life of vLLM's workers; nothing where it is not there yet, or takes weights.

        Raises `EngineGone` where it has ended, `EngineError` where it gives none.
        """
        if self._gone:
            raise EngineGone(self._gone + _AGAIN)
        if self._starting is None or not self._starting.done() or self._updating.locked():
            return
        with self._noting():
            await self._transport.call("askesis_alive")

    async def generate(
        self,
        token_ids: TokenIds,
        sampling: Sampling,
        *,
        session: str | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Completion:
        """Sample a continuation of `token_ids` [n]; see `types.Engine.generate`.

        Raises `ContextOverflow` where the prompt leaves no room for a token, `EngineError` for a request that makes no
        sense, that vLLM fails or refuses, and on a closed engine; `EngineGone` where vLLM has ended. Cancelling the
        call aborts it in vLLM.
        """
        prompt = self._checked(token_ids, sampling)
        if self._gone and self._updated:  # who never updates (a server's gateway, say) starts it again here
            raise EngineGone(self._gone + _AGAIN)
        await self.start()
        if not self._truncates and (sampling.top_k or sampling.top_p < 1 or sampling.min_p):
            raise EngineError(
                "this vLLM's runner gives no untruncated log-probabilities beside top_k, top_p or min_p; run vLLM with "
                "VLLM_USE_V2_MODEL_RUNNER=0, or sample untruncated"
            )
        seed = sampling.seed if sampling.seed is not None else int(self._draw_seed.integers(2**63))
        self._counts.requests += 1
        turn = Turn(prompt, sampling, context=self._context, seed=seed % 2**63, session=session, version=self._version)
        try:
            self._tell(turn, on_tokens)
            while turn.finish is None:
                await self._segment(turn, on_tokens)
        finally:
            sampled, forced = turn.counts
            self._counts.sampled += sampled
            self._counts.forced += forced
        return turn.completion()

    async def update_weights(self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "") -> None:
        """Sample under other weights from the next token on, requests in flight included.

        weights: every parameter by name, on any device; empty: those of `model`. fingerprint: of the weights that are
        meant, as they are here. The workers check what they receive before they take it in, and what they hold after.
        A vLLM that has ended is started again. Raises `EngineError`: where they refused it, the old weights and their
        version stay; where they hold something else, every request is an error until an update is right. Either way it
        can be repeated.
        """
        if version < 0:
            raise EngineError(f"weights version {version}: expected 0 or more")
        async with self._updating:
            if not weights and self.model is None:
                raise EngineError("update without weights: this engine was given no model to take them from")
            await self.start()
            given = weights or dict(self.model.named_parameters())  # type: ignore[union-attr]
            assert self._dtype is not None
            plain = cast(given, self._dtype)
            meant = fingerprint_of(plain)
            if fingerprint and (found := _uncast(given, plain, meant)) != fingerprint:
                raise EngineError(
                    f"weights version {version} should have the fingerprint {fingerprint}, but those that were given "
                    f"have {found}: they are of another version or model. The engine keeps version {self._version}"
                )
            with self._noting():
                async with self.paused():
                    await self._prepare()
                    await self._deliver(plain, version, meant)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is sampled within; what was in flight goes on afterwards, from where it was."""
        self._pauses += 1
        self._epoch += 1
        self._open.clear()
        try:
            if self._resuming is not None and not self._resuming.done():
                await asyncio.wait((self._resuming,))  # else it would end this pause
            await self._land()
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._resuming = asyncio.create_task(self._resume(), name="askesis-vllm-resume")
                self._resuming.add_done_callback(_look_at)
                await asyncio.shield(self._resuming)  # who is cancelled here leaves no vLLM behind that is paused

    async def _resume(self) -> None:
        """Let requests through again: also where vLLM does not go on, for they have to hear of that."""
        try:
            if not self._closed:
                self._stuck = f"{self._transport.where} was paused for an update and does not go on"
                with self._noting():
                    await self._transport.resume()
                self._stuck = ""
        finally:
            if not self._pauses:
                self._open.set()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Remember that vLLM has ended, if that is what is raised."""
        life = self._life
        try:
            yield
        except EngineGone as error:
            if life == self._life:
                self._gone = self._gone or str(error)
            raise

    def release(self, session: str) -> None:
        """Nothing to do: vLLM's cache knows of contents, not of sessions, and drops what was not used for longest."""

    def stats(self) -> EngineStats:
        """What was asked of vLLM since the engine was made, and what flies now. What vLLM alone knows (cached, computed
        and evicted tokens, steps) is in its own metrics, and 0 here."""
        return self._counts.stats(slots=self.slots, running=len(self._flying), waiting=0)

    async def close(self) -> None:
        """Stop vLLM; requests in flight get an `EngineError`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._open.set()
        for task in (self._starting, self._resuming):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait((task,))
        try:
            if self._flying:
                await self._transport.pause()
                await self._landed(_AGAIN_S)
        except EngineError:
            pass  # it is closed because it is broken
        await self._transport.close()
        self._courier.close()
        await self._landed(_AGAIN_S)

    # -- requests ------------------------------------------------------------------------------------------------

    def _checked(self, token_ids: TokenIds, sampling: Sampling) -> TokenIds:
        if self._closed:
            raise EngineError("engine is closed: no request can be made")
        prompt = np.asarray(token_ids)
        if prompt.ndim != 1 or len(prompt) == 0 or prompt.dtype.kind not in "iu":
            raise EngineError(
                f"prompt of shape {prompt.shape} and type {prompt.dtype}; expected one dimension, whole numbers, "
                "at least one token"
            )
        if (low := int(prompt.min())) < 0 or (high := int(prompt.max())) >= self._vocab:
            wrong = low if low < 0 else high
            raise EngineError(f"prompt has the token id {wrong}; the vocabulary has ids 0 to {self._vocab - 1}")
        check(sampling, self._vocab)
        if len(prompt) >= self._context:
            raise ContextOverflow(
                f"prompt of {len(prompt)} tokens leaves no room to sample in a context of {self._context}; "
                "shorten it, or give the engine a larger context_length"
            )
        return ids(prompt)

    async def _segment(self, turn: Turn, on_tokens: OnTokens | None) -> None:
        """Ask for the next tokens of a turn, and enter what came before an update, if one comes."""
        while not self._open.is_set():  # it may be closed again before a waiter wakes
            await self._open.wait()
        if self._closed:
            raise EngineError("engine was closed while the request was in flight")
        if self._gone or self._stuck:
            raise EngineGone((self._gone or self._stuck) + _AGAIN)
        if self._wrong:
            raise EngineError(self._wrong)
        version, known, epoch, ask = self._version, self._name, self._epoch, turn.ask()
        name = f"askesis-{next(self._names)}"
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flying.add(landed)
        last: Part | None = None
        before = len(turn)
        try:
            parts = self._transport.sample(ask, name=name, stream=on_tokens is not None)
            with self._noting():
                async with aclosing(parts) as arriving:
                    async for part in arriving:
                        last = part
                        turn.take(part, version)
                        self._tell(turn, on_tokens)
        finally:
            self._flying.discard(landed)
            landed.set_result(None)
        if last is None or last.finish is None:
            raise EngineError(f"{self._transport.where} ended a request without saying why")
        if last.version != known and (last.version is not None or len(turn) > before):
            raise EngineError(
                f"{self._transport.where} sampled under weights that it calls {last.version!r}, but this engine had "
                f"named them {known!r}: it was restarted, or somebody else updates it. Update its weights again"
            )
        if last.finish == "abort" and epoch == self._epoch:
            raise EngineError(
                "engine was closed while the request was in flight"
                if self._closed
                else f"{self._transport.where} aborted a request that nobody here had paused: somebody else pauses it"
            )

    def _tell(self, turn: Turn, on_tokens: OnTokens | None) -> None:
        if on_tokens is not None and (piece := turn.news()) is not None:
            on_tokens(piece)

    # -- updates -------------------------------------------------------------------------------------------------

    async def _land(self) -> None:
        """Have vLLM abort what flies, until nothing does."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            await self._transport.pause()
            await self._landed(_AGAIN_S)
            if not self._flying:
                return
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self._transport.where} was paused {_PATIENCE_S:.0f} s ago, but {len(self._flying)} requests are "
                    "still in flight: it hangs"
                )

    async def _landed(self, seconds: float) -> None:
        if self._flying:
            await asyncio.wait(set(self._flying), timeout=seconds)

    async def _deliver(self, plain: Mapping[str, torch.Tensor], version: int, meant: str) -> None:
        """Have the workers take the weights in, and look at what they hold then."""
        failure: EngineError | None = None
        self._updated = True
        wrong, self._wrong = self._wrong, _WRONG  # who is cancelled in here leaves behind nobody knows what
        try:
            await self._courier.deliver(plain, version, meant, self._transport)
        except EngineGone:
            raise
        except EngineError as error:
            failure = error
        states = await self._transport.call("askesis_state")
        held = {state["held"] for state in states}
        if held == {meant} and failure is None:
            await self._call_it(version, meant)
            self._wrong, self._held = "", held
            return
        refused = next((state["refused"] for state in states if state["refused"]), "")
        why = refused or (str(failure) if failure is not None else f"its workers hold {', '.join(sorted(held))}")
        kept = f"the engine keeps version {self._version}"
        if held == self._held:
            self._wrong = wrong
        if self._wrong:
            kept = "nothing is sampled until an update is right"
        raise EngineError(
            f"weights version {version}, which should have the fingerprint {meant}, did not arrive at "
            f"{self._transport.where}: {why}; {kept}. Update them again"
        ) from failure


def _fingerprint(model: nn.Module, dtype: torch.dtype) -> str:
    """Of a model's weights as an engine of this type holds them."""
    return fingerprint_of(cast(dict(model.named_parameters()), dtype))


def _look_at(task: asyncio.Task[None]) -> None:
    """What it raised is no loss where nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


def _uncast(given: Mapping[str, Any], plain: Mapping[str, torch.Tensor], meant: str) -> str:
    """The fingerprint of the weights as they were given, before they were cast to what `meant` is of."""
    weights = {name: torch.as_tensor(given[name]) for name in plain}
    same = all(weights[name].dtype == tensor.dtype for name, tensor in plain.items())
    return meant if same else fingerprint_of(weights)
