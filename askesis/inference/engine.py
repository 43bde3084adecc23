"""The embedded engine: continuous batching of requests over a KV cache that outlives them, in this process.

Every step feeds to the model, for each running row, the tokens that are known and not cached yet (a prompt's, or the
one drawn last) and draws one more where none is left. Requests join and leave between any two steps. After each step
control goes back to the event loop, so that tools progress while others sample.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from askesis.inference.batch import Array, Backend, Batch, Draw
from askesis.inference.eager import EagerBackend
from askesis.inference.native import NativeBackend, why_not
from askesis.inference.rows import Rows
from askesis.inference.sampling import check, uniform
from askesis.inference.stats import Counters, EngineStats
from askesis.inference.thinking import Budgets
from askesis.models import Qwen3
from askesis.models import fingerprint as weights_fingerprint
from askesis.models.native_code import no_compiler
from askesis.types import Completion, ContextOverflow, EngineError, OnTokens, Piece, Sampling, TokenIds, ids
from askesis.types.tokens import FinishReason

_STOPS = 8  # columns of the table of stop ids; grows when a request has more
_CACHE_BYTES = 2**30
_WRONG = -1  # of an update whose fingerprint did not fit, in place of what torch knows of changes
_STRIDE = 8  # most steps in one go: the event loop has to wait that long


@dataclass(slots=True, eq=False)
class _Request:
    """One call of `generate` on its way."""

    prompt: TokenIds
    sampling: Sampling
    session: str | None
    future: asyncio.Future[Completion]
    on_tokens: OnTokens | None
    row: int = -1
    told: int = 0  # tokens that `on_tokens` knows


_Wanted = Literal["auto", "native", "torch"]
_Type = Literal["float32", "bfloat16"]


def _backend(model: Qwen3, wanted: _Wanted, dtype: torch.dtype, *, compile: bool, **sizes: Any) -> Backend:
    """The fastest backend that there can be here, within what is wanted; says so once where a compiler is missing."""
    if wanted not in get_args(_Wanted):
        raise EngineError(f"engine: backend={wanted!r}, expected one of {', '.join(get_args(_Wanted))}")
    reason = why_not(model, dtype)
    if wanted == "native" and reason is not None:
        raise EngineError(f"engine: backend 'native' cannot be used: {reason}")
    if wanted != "torch" and reason is None:
        try:
            return NativeBackend(model, dtype=dtype, **sizes)
        except EngineError as error:
            if wanted == "native":
                raise
            logging.getLogger(__name__).warning("engine: falls back to torch, which is slower: %s", error)
            reason = str(error)
    if dtype != model.model.embed_tokens.weight.dtype:
        name = str(dtype).removeprefix("torch.")
        raise EngineError(f"engine: dtype={name!r} needs the backend 'native', but {reason or 'torch was asked for'}")
    missing = no_compiler() if model.model.embed_tokens.weight.device.type == "cpu" else None
    if missing is not None and (compile or wanted == "auto"):
        logging.getLogger(__name__).warning("engine: several times slower than it could be: %s", missing)
    return EagerBackend(model, compile=compile and missing is None, **sizes)


def _others(version: int, meant: str, found: str) -> EngineError:
    return EngineError(
        f"weights version {version} should have the fingerprint {meant}, but {found}: they are those of another "
        "version or model, or were damaged on the way; update them again"
    )


class EmbeddedEngine:
    """`types.Engine` on a model in this process, whose parameters it reads in place.

    slots: most requests that run at once; more wait. context_length: most tokens of prompt and completion together.
    rows: requests' and idle sessions' KV caches together (default: four a slot, within 1 GiB). prefill_tokens: most
    prompt tokens a step, so that a long prompt does not hold up those that decode. threads: None leaves torch's.
    backend: `auto` takes the C++ one where it can (dense, on a CPU, a compiler), else torch. dtype: of the factors of
    every product (None: as the model has them); bfloat16 for a float32 model is the faster on processors that multiply
    it, keeps a copy of the weights, and gives log-probabilities that are some 1e-2 from the trainer's. compile: let
    torch.compile fuse the torch backend's decode step. seed: of requests without one of their own.
    keep_cache: at an update, sessions go on from the keys and values of the weights before, which costs nothing, and
    makes their later log-probabilities a little other than those of the new weights alone; otherwise all is computed
    again. New sessions never begin with what other weights have computed.
    Not thread-safe: one event loop at a time.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        slots: int = 64,
        context_length: int = 1024,
        rows: int | None = None,
        prefill_tokens: int = 2048,
        threads: int | None = None,
        compile: bool = False,
        backend: _Wanted = "auto",
        dtype: _Type | None = None,
        seed: int | None = None,
        keep_cache: bool = False,
    ) -> None:
        if not isinstance(model, Qwen3):
            raise EngineError(
                f"engine: a {type(model).__name__} cannot be run here: the engine brings the attention and its cache, "
                "which only Askesis' own architectures take; load a Qwen3 checkpoint"
            )
        for name, value in (("slots", slots), ("prefill_tokens", prefill_tokens), ("threads", threads or 1)):
            if value < 1:
                raise EngineError(f"engine: {name}={value}, expected at least 1")
        if not 2 <= context_length <= model.config.context_length:
            raise EngineError(
                f"engine: context_length={context_length}, expected 2 to the model's {model.config.context_length}"
            )
        self.model, self.slots, self._context, self._prefill = model, slots, context_length, prefill_tokens
        if dtype is not None and dtype not in get_args(_Type):
            raise EngineError(f"engine: dtype={dtype!r}, expected one of {', '.join(get_args(_Type))}")
        number: torch.dtype = model.model.embed_tokens.weight.dtype if dtype is None else getattr(torch, dtype)
        count = rows if rows is not None else self._affordable_rows(number)
        if count < slots:
            raise EngineError(f"engine: rows={count}, expected at least slots={slots}")
        self._vocab = model.config.vocab_size
        self._rows = Rows(count, context_length)
        self._budgets = Budgets(count)
        sizes = {"rows": count, "length": context_length, "threads": threads}
        self._backend = _backend(model, backend, number, compile=compile, **sizes)
        self._requests: list[_Request | None] = [None] * count
        self._waiting: list[tuple[int, int, _Request]] = []  # a heap: the lowest priority first, then who came first
        self._listening: dict[int, _Request] = {}  # by row: those that want to hear of their tokens
        self._logprobs = np.zeros((count, context_length), dtype=np.float32)
        self._forced = np.zeros((count, context_length), dtype=np.bool_)
        self._versions = np.zeros((count, context_length), dtype=np.int32)
        self._prompt = np.zeros(count, dtype=np.int32)
        self._limit = np.zeros(count, dtype=np.int32)
        self._stops = np.full((count, _STOPS), -1, dtype=np.int32)
        self._seed = np.zeros(count, dtype=np.uint64)
        self._temperature = np.ones(count, dtype=np.float32)
        self._top_k = np.zeros(count, dtype=np.int32)
        self._top_p = np.ones(count, dtype=np.float32)
        self._min_p = np.zeros(count, dtype=np.float32)
        self._truncated = np.zeros(count, dtype=np.bool_)
        self._draw_seed = np.random.default_rng(seed)
        self._keep_cache = keep_cache
        self._version, self._running, self._closed = 0, 0, False
        self._counts = Counters()
        self._loop: asyncio.Task[None] | None = None
        self._known = self._mutations()

    def _affordable_rows(self, number: torch.dtype) -> int:
        config = self.model.config
        each = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * number.itemsize
        row = each * self._context
        return max(self.slots, min(4 * self.slots, _CACHE_BYTES // row))

    # -- the door ------------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return self._context

    @property
    def version(self) -> int:
        """Of the weights that are sampled under."""
        return self._version

    @property
    def backend(self) -> str:
        """What computes the steps."""
        return self._backend.name

    async def generate(
        self,
        token_ids: TokenIds,
        sampling: Sampling,
        *,
        session: str | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Completion:
        """Sample a continuation of `token_ids` [n].

        on_tokens: told of every token of the completion once and in order, after each step; what it raises is what
        this call raises. Raises `ContextOverflow` where the prompt leaves no room for a token, `EngineError` for a
        request that makes no sense, a failed step, or a closed engine. Cancelling the call frees its slot at once.
        """
        prompt = self._checked(token_ids, sampling)
        request = _Request(prompt, sampling, session, asyncio.get_running_loop().create_future(), on_tokens)
        self._counts.requests += 1
        heapq.heappush(self._waiting, (sampling.priority, self._counts.requests, request))
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name="askesis-engine")
        try:
            return await request.future
        except asyncio.CancelledError:
            self._abandon(request)
            raise

    async def update_weights(self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "") -> None:
        """Sample under other weights from the next token on, in requests that are on their way too.

        Empty weights: the model's parameters were changed in place. Otherwise every parameter must be there by name and
        shape (the tied `lm_head.weight` may be left out), and is copied in. Cached keys and values are dropped, or
        kept (`keep_cache`). fingerprint: of the weights that are meant. Raises `EngineError`, changing nothing, where
        the given ones do not fit or have another. Where the model has another then (stale or damaged ones), that is an
        `EngineError` too, and so is every request, those in flight too, until an update is right.
        """
        if self._closed:
            raise EngineError("engine is closed: no weights can be updated")
        if version < 0:
            raise EngineError(f"weights version {version}: expected 0 or more")
        if weights:
            self._load(weights, version, fingerprint)
        if fingerprint and (found := weights_fingerprint(self.model)) != fingerprint:
            self._known = _WRONG
            error = _others(version, fingerprint, f"the engine's have {found}")
            self._fail(error)
            raise error
        self._version, self._known = version, self._mutations()
        if self._keep_cache:
            self._rows.age()
        else:
            self._counts.recomputed += self._rows.drop()
        self._backend.refresh(changed=True)

    def release(self, session: str) -> None:
        """The session will not come back; its cache is the first to be given away."""
        self._rows.release(session)

    def stats(self) -> EngineStats:
        """Counters since the engine was made, and what it does right now."""
        return self._counts.stats(slots=self.slots, running=self._running, waiting=len(self._waiting))

    async def close(self) -> None:
        """Stop; requests in flight get an `EngineError`. Idempotent."""
        self._closed = True
        self._fail(EngineError("engine was closed while the request was in flight"))
        loop, self._loop = self._loop, None
        if loop is not None and not loop.done():
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

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

    def _abandon(self, request: _Request) -> None:
        if request.row >= 0:
            if self._requests[request.row] is request:
                self._vacate(request.row)
        else:
            self._waiting = [entry for entry in self._waiting if entry[2] is not request]
            heapq.heapify(self._waiting)

    def _vacate(self, row: int) -> None:
        self._requests[row] = None
        self._listening.pop(row, None)
        self._running -= 1
        self._budgets.end(row)
        self._rows.leave(row)

    def _fail(self, error: EngineError) -> None:
        for request in [*(entry[2] for entry in self._waiting), *(r for r in self._requests if r is not None)]:
            if not request.future.done():
                request.future.set_exception(EngineError(str(error)).with_traceback(error.__traceback__))
        self._waiting.clear()
        for row in np.flatnonzero(self._rows.busy).tolist():
            self._vacate(row)

    def _load(self, weights: Mapping[str, Any], version: int, fingerprint: str) -> None:
        own = self.model.state_dict()
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        missing, unknown = own.keys() - weights.keys() - tied, weights.keys() - own.keys()
        if missing or unknown:
            raise EngineError(
                f"weights do not fit the model: missing {sorted(missing)[:3]} ({len(missing)}), "
                f"unknown {sorted(unknown)[:3]} ({len(unknown)})"
            )
        given = {name: torch.as_tensor(value).to(own[name].dtype) for name, value in weights.items()}
        for name, value in given.items():
            if value.shape != own[name].shape:
                raise EngineError(f"weights: {name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}")
        parameters = {name: given[name] for name, _ in self.model.named_parameters()}
        if fingerprint and (found := weights_fingerprint(parameters)) != fingerprint:
            raise _others(version, fingerprint, f"those that came have {found}")
        with torch.no_grad():
            for name, value in given.items():
                own[name].copy_(value)

    def _mutations(self) -> int:
        return sum(parameter._version for parameter in self.model.parameters())

    # -- the loop ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                if self._running == 0 and self._waiting:
                    self._resume()
                self._admit()
                if self._running == 0:
                    return
                started = time.perf_counter()
                self._advance()
                for listener in list(self._listening.values()):
                    self._tell(listener)
                self._counts.seconds += time.perf_counter() - started
                await asyncio.sleep(0)
        except Exception as error:
            if not isinstance(error, EngineError):
                error = EngineError(f"a step of the engine failed: {type(error).__name__}: {error}")
            self._rows.drop()
            self._fail(error)

    def _resume(self) -> None:
        """After a pause: training may have changed the weights."""
        if self._known == _WRONG:
            raise EngineError(
                "the engine's weights are not those that the last update meant, so nothing is sampled under them; "
                "call `await engine.update_weights(weights, version, fingerprint=...)` with the right ones"
            )
        if self._mutations() != self._known:
            raise EngineError(
                "the model's parameters were changed in place, but the engine was not told; "
                "call `await engine.update_weights({}, version)` after a training step"
            )
        self._backend.refresh(changed=False)

    def _admit(self) -> None:
        """Start waiting requests, by priority and then age, while slots are free."""
        delayed: list[tuple[int, int, _Request]] = []
        while self._waiting and self._running < self.slots:
            entry = heapq.heappop(self._waiting)
            request = entry[2]
            place = self._rows.find(request.prompt, request.session)
            if place is None:
                delayed.append(entry)
                continue
            self._rows.take(place, request.prompt, request.session)
            if place.source != place.row and place.reused:
                self._backend.copy(place.source, place.row, place.reused)
                self._counts.copied += place.reused
            self._counts.reused += place.reused
            self._counts.recomputed += place.again
            self._counts.evictions += place.evicted
            self._start(request, place.row)
        for entry in delayed:
            heapq.heappush(self._waiting, entry)

    def _start(self, request: _Request, row: int) -> None:
        sampling, n = request.sampling, len(request.prompt)
        request.row, self._requests[row], request.told = row, request, n
        if request.on_tokens is not None:
            self._listening[row] = request
        self._running += 1
        self._prompt[row], self._limit[row] = n, min(n + sampling.max_tokens, self._context)
        seed = sampling.seed if sampling.seed is not None else int(self._draw_seed.integers(2**63))
        self._seed[row] = np.uint64(seed % 2**64)
        self._temperature[row], self._top_k[row] = sampling.temperature, sampling.top_k
        self._top_p[row], self._min_p[row] = sampling.top_p, sampling.min_p
        self._truncated[row] = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        if len(sampling.stop) > self._stops.shape[1]:
            wider = ((0, 0), (0, len(sampling.stop) - self._stops.shape[1]))
            self._stops = np.pad(self._stops, wider, constant_values=-1)
        self._stops[row] = -1
        self._stops[row, : len(sampling.stop)] = sampling.stop
        closing = self._budgets.begin(row, sampling.thinking)
        if closing:
            self._force(row, closing)
            if self._rows.known[row] >= self._limit[row]:
                self._finish(row, "length")

    def _force(self, row: int, tokens: tuple[int, ...]) -> None:
        """Append tokens that were not sampled, as far as the request's limit allows."""
        start = int(self._rows.known[row])
        end = min(start + len(tokens), int(self._limit[row]))
        self._rows.tokens[row, start:end] = tokens[: end - start]
        self._logprobs[row, start:end] = 0.0
        self._forced[row, start:end] = True
        self._versions[row, start:end] = self._version
        self._rows.known[row] = end
        self._counts.forced += end - start

    def _advance(self) -> None:
        """One step: feed what is known, draw, append, finish."""
        rows = np.flatnonzero(self._rows.busy).astype(np.int32)
        if not len(rows):
            return
        batch, drawing = self._batch(rows)
        tokens, logprobs = self._backend.step(batch)
        done = max(len(tokens), 1)
        self._rows.cached[batch.rows] += batch.counts + (done - 1)
        counts = self._counts
        counts.steps += done
        counts.occupied += len(rows) * done
        counts.computed += len(batch.tokens) * done
        if len(drawing):
            counts.decode_steps += done
            if not math.isfinite(float(logprobs.sum())):
                self._backend.clear()
                raise EngineError(
                    f"the model gave log-probabilities that are not finite under weights version {self._version}: "
                    "the weights are corrupt, or training diverged"
                )
            if done > 1:
                self._budgets.passed(drawing, done - 1)
                self._write(drawing, tokens[:-1].T, logprobs[:-1].T)
            self._append(drawing, tokens[-1].astype(np.int32, copy=False), logprobs[-1])

    def _batch(self, rows: Array) -> tuple[Batch, Array]:
        """The step over the busy rows; and the rows that draw."""
        known, starts = self._rows.known[rows], self._rows.cached[rows]
        counts = known - starts
        if len(rows) < (total := int(counts.sum())):  # some prefill: those that decode first, then as many as fit
            if total > self._prefill:
                long = np.flatnonzero(counts > 1)
                room = np.maximum(self._prefill - np.concatenate(([0], np.cumsum(counts[long])[:-1])), 0)
                counts[long] = np.minimum(counts[long], room)
                chosen = counts > 0
                rows, known, starts, counts = rows[chosen], known[chosen], starts[chosen], counts[chosen]
            ends = zip(rows.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True)
            tokens = np.concatenate([self._rows.tokens[row, start:end] for row, start, end in ends])
        else:
            tokens = self._rows.tokens[rows, starts]
        drawing = np.flatnonzero(starts + counts == known).astype(np.int32)
        drawn = rows[drawing]
        truncated, most = bool(self._truncated[drawn].any()), 1
        if len(tokens) == len(drawn) and not truncated:
            most = min(_STRIDE, int((self._limit[drawn] - known).min()), self._budgets.stride(drawn))
        index = self._rows.known[drawn] - self._prompt[drawn] + np.arange(most, dtype=np.int32)[:, None]
        draw = Draw(
            noise=uniform(self._seed[drawn], index.astype(np.uint64)),
            temperature=self._temperature[drawn],
            top_k=self._top_k[drawn],
            top_p=self._top_p[drawn],
            min_p=self._min_p[drawn],
            truncated=truncated,
        )
        watch = self._stops[drawn]
        if self._budgets.limits:
            watch = np.concatenate([watch, self._budgets.watch(drawn)], axis=1)
        spans = Batch(
            tokens=tokens, rows=rows, starts=starts, counts=counts, drawing=drawing, draw=draw, most=most, watch=watch
        )
        return spans, drawn

    def _write(self, rows: Array, tokens: Array, logprobs: Array) -> None:
        """Append sampled tokens [m, s] to rows [m]; nothing ends with them."""
        at = self._rows.known[rows][:, None] + np.arange(tokens.shape[1], dtype=np.int32)
        rows = rows[:, None]
        self._rows.tokens[rows, at] = tokens
        self._logprobs[rows, at] = logprobs
        self._forced[rows, at] = False
        self._versions[rows, at] = self._version
        self._rows.known[rows[:, 0]] += tokens.shape[1]
        self._counts.sampled += tokens.size

    def _append(self, rows: Array, tokens: Array, logprobs: Array) -> None:
        """Write down what was drawn, put in what a budget demands, and finish what is over."""
        stopped = (self._stops[rows] == tokens[:, None]).any(axis=1)
        closing: list[int] = []
        if self._budgets.limits:
            thrown, closing = self._budgets.observe(rows, tokens, stopped)
            if thrown.any():
                kept = ~thrown
                rows, tokens, logprobs, stopped = rows[kept], tokens[kept], logprobs[kept], stopped[kept]
        self._write(rows, tokens[:, None], logprobs[:, None])
        over = stopped | (self._rows.known[rows] >= self._limit[rows])
        if over.any():
            for index in np.flatnonzero(over).tolist():
                self._finish(int(rows[index]), "stop" if stopped[index] else "length")
        for row in closing:
            if self._requests[row] is not None:
                self._force(row, self._budgets.limits[row].closing)
                if self._rows.known[row] >= self._limit[row]:
                    self._finish(row, "length")

    def _tell(self, request: _Request) -> None:
        """Hand on the tokens that the request's listener does not know yet. A listener that fails fails alone."""
        start, end = request.told, int(self._rows.known[request.row])
        if request.on_tokens is None or start == end:
            return
        request.told, row = end, request.row
        piece = Piece(
            token_ids=self._rows.tokens[row, start:end].copy(),
            logprobs=self._logprobs[row, start:end].copy(),
            forced=self._forced[row, start:end].copy(),
            policy_versions=self._versions[row, start:end].copy(),
        )
        try:
            request.on_tokens(piece)
        except Exception as error:
            if not request.future.done():
                request.future.set_exception(error)
            self._vacate(row)

    def _finish(self, row: int, reason: FinishReason) -> None:
        request = self._requests[row]
        if request is None:
            return
        self._tell(request)
        if self._requests[row] is not request:  # its listener failed
            return
        span = slice(int(self._prompt[row]), int(self._rows.known[row]))
        completion = Completion(
            token_ids=self._rows.tokens[row, span].copy(),
            logprobs=self._logprobs[row, span].copy(),
            forced=self._forced[row, span].copy(),
            finish_reason=reason,
            policy_versions=self._versions[row, span].copy(),
        )
        self._vacate(row)
        if not request.future.done():
            request.future.set_result(completion)
