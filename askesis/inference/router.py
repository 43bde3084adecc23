"""One engine in front of several: sessions stay where their cache is, and what fails is taken out.

A request that fails, or whose engine is silent for too long, is made again of another engine, as long as nobody has
heard any of its tokens; otherwise it fails typed, and the roller plays the episode again. An engine that is to blame is
taken out. It comes back when it has the weights that all have, and has answered a request that is no episode's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from askesis.types import (
    AskesisError,
    Completion,
    ConfigError,
    ContextOverflow,
    Engine,
    EngineError,
    EngineGone,
    OnTokens,
    Piece,
    Sampling,
    TokenIds,
    ids,
)

_log = logging.getLogger("askesis.inference")
_GRACE_S = 1.0  # for an engine to let go of a request that was cancelled
_LONGEST_S = 60.0  # between two looks at an engine that is out
_TRIES = 3  # a request that this many engines have failed at is to blame itself


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStats:
    """An engine of a router. flying: requests that it has right now. version: of its weights, -1 before any. why_out:
    empty if it takes requests. requests, failures: since it was added."""

    name: str
    flying: int
    sessions: int
    version: int
    why_out: str
    requests: int
    failures: int


@dataclass(slots=True, eq=False)
class _Replica:
    name: str
    engine: Engine
    version: int = -1
    why_out: str = ""
    leaving: bool = False
    starting: bool = False
    flying: int = 0
    sessions: set[str] = field(default_factory=set)
    requests: int = 0
    failures: int = 0
    heard_s: float = 0.0  # when it last gave a sign of life, or was asked after having nothing to do
    lost: asyncio.Event = field(default_factory=asyncio.Event)  # its requests are given up
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    updating: asyncio.Lock = field(default_factory=asyncio.Lock)
    coming_back: asyncio.Task[None] | None = None
    pinging: asyncio.Task[None] | None = None

    @property
    def load(self) -> tuple[int, int]:
        return (len(self.sessions) + self.flying, self.flying)


class _Heard(Exception):
    """The listener raised; what it raised is the cause."""


class Router:
    """`types.Engine` over engines that sample the same model.

    engines: more are added and removed while it runs. silent_s: an engine with requests that has given no sign of life
    for so long (an answer to `await engine.ping()`, where it has that, else a token or an end) is taken for hanging.
    patience_s: how long a request waits when no engine is in. update_s: how long an engine may take to get new weights;
    at most a third of what the caller of `update_weights` waits, so that one that hangs does not fail the others.
    back_s: after how long an engine that is out is looked at again, twice as long each time. An engine that can be
    started again has `revive()` for it; one that takes time to start has `await start()`, which is given `start_s` and
    during which no update waits for it. Weights that were given to `update_weights` are kept, for engines that come
    later.
    """

    def __init__(
        self,
        engines: Iterable[Engine] = (),
        *,
        silent_s: float = 300.0,
        patience_s: float = 60.0,
        update_s: float = 600.0,
        start_s: float = 600.0,
        back_s: float = 1.0,
    ) -> None:
        given = {"silent_s": silent_s, "update_s": update_s, "start_s": start_s, "back_s": back_s}
        for name, value in given.items():
            if value <= 0:
                raise ConfigError(f"router: {name}={value}, expected more than 0")
        self._silent_s, self._patience_s, self._update_s, self._back_s = silent_s, patience_s, update_s, back_s
        self._start_s = start_s
        self._names = itertools.count()
        self._replicas: dict[str, _Replica] = {}
        self._homes: dict[str, _Replica] = {}  # by the root of a session's name
        self._sessions: dict[str, set[str]] = {}  # by that root, all whose cache may be there
        self._meant: tuple[Mapping[str, Any], int, str] | None = None  # the weights that all should have
        self._context: int | None = None
        self._changed = asyncio.Event()  # an engine has come in
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        for engine in engines:
            self._enter(engine, "")

    # -- who is there ----------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        """The least of all engines that there have been: what fits here fits everywhere."""
        if self._context is None:
            raise EngineError("router: it has no engine; add one first")
        return self._context

    @property
    def replicas(self) -> list[ReplicaStats]:
        """How each engine is."""
        return [
            ReplicaStats(
                name=one.name,
                flying=one.flying,
                sessions=len(one.sessions),
                version=one.version,
                why_out=one.why_out,
                requests=one.requests,
                failures=one.failures,
            )
            for one in self._replicas.values()
        ]

    async def start(self) -> None:
        """Start all engines that take time for it. One that does not start is out until it has.

        Raises what the first one raised where none has started: `EngineError`, `ConfigError`, `MissingExtra`.
        """
        replicas = list(self._replicas.values())
        for replica in replicas:
            if hasattr(replica.engine, "start") and not replica.flying and not replica.why_out:
                replica.why_out = "it is being started"
        outcomes = await asyncio.gather(*map(self._bring_in, replicas), return_exceptions=True)
        failures = [(one, error) for one, error in zip(replicas, outcomes, strict=True) if error is not None]
        for _, error in failures:
            if not isinstance(error, Exception):
                raise error
        if failures and len(failures) == len(replicas):
            for replica, error in failures:
                replica.why_out = f"it did not start: {_said(error)}"
            replica, error = failures[0]
            if isinstance(error, AskesisError):
                raise error
            raise EngineError(f"no engine has started; {replica.name}: {_said(error)}") from error
        for replica, error in failures:
            replica.why_out = ""  # so that it is told
            self._take_out(replica, f"it did not start: {_said(error)}")

    async def _bring_in(self, replica: _Replica) -> None:
        """Start an engine, and let it in once it has the weights of that moment: no update has waited for it."""
        await self._begin(replica)
        if self._meant is not None:
            await self._send(replica)
        if replica.coming_back is None:
            self._let_in(replica)

    async def _begin(self, replica: _Replica) -> None:
        if (start := getattr(replica.engine, "start", None)) is None:
            return
        replica.starting = True
        try:
            await _within(start(), self._start_s)
        finally:
            replica.starting = False

    async def add(self, engine: Engine, name: str = "") -> str:
        """Another engine; its name. It takes requests as soon as it has the weights that the others have."""
        replica = self._enter(engine, name, why_out="it has just come" if self._meant is not None else "")
        if self._meant is not None:
            try:
                await self._bring_in(replica)
            except Exception as error:
                self._take_out(replica, f"it did not take the weights: {_said(error)}")
        return replica.name

    async def remove(self, name: str, *, drain_s: float = 0.0) -> None:
        """Let an engine go, and close it. What it has not finished after `drain_s` seconds is made again elsewhere.

        Raises `ConfigError` for a name that there is not.
        """
        replica = self._replicas.get(name)
        if replica is None:
            raise ConfigError(f"router: no engine {name!r} (there are: {', '.join(self._replicas) or 'none'})")
        replica.leaving, replica.why_out = True, "it is leaving"
        if replica.flying and drain_s > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(replica.idle.wait(), drain_s)
        self._replicas.pop(name, None)
        await self._discard(replica)

    async def _discard(self, replica: _Replica) -> None:
        replica.lost.set()
        for task in (replica.coming_back, replica.pinging):
            if task is not None:
                task.cancel()
        for root in replica.sessions:
            self._homes.pop(root, None)
            self._sessions.pop(root, None)
        with suppress(Exception):  # one that is gone need not be closed
            await asyncio.wait_for(replica.engine.close(), self._update_s)

    def _enter(self, engine: Engine, name: str, why_out: str = "") -> _Replica:
        if self._closed:
            raise EngineError("router is closed: no engine can be added")
        name = name or f"engine-{next(self._names)}"
        if name in self._replicas:
            raise ConfigError(f"router: there is an engine {name!r} already")
        length = engine.context_length
        self._context = length if self._context is None else min(self._context, length)
        replica = _Replica(name, engine, why_out=why_out)
        self._replicas[name] = replica
        self._changed.set()
        return replica

    # -- requests --------------------------------------------------------------------------------------------------

    async def generate(
        self,
        token_ids: TokenIds,
        sampling: Sampling,
        *,
        session: str | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Completion:
        """See `types.Engine`. Raises `EngineError` where it failed on two engines, or was heard in part, or where three
        were gone over it."""
        told = _Told(on_tokens)
        failed: list[tuple[_Replica, Exception]] = []
        while True:
            replica = await self._choose(session, [one for one, _ in failed])
            try:
                completion = await self._ask(replica, token_ids, sampling, session, told)
            except (ContextOverflow, asyncio.CancelledError):
                raise
            except _Heard as error:
                assert error.__cause__ is not None
                raise error.__cause__ from None
            except Exception as error:
                replica.failures += 1
                failed.append((replica, error))
                if isinstance(error, EngineGone) and not replica.leaving:
                    self._take_out(replica, _said(error))
                others = [one for one in self._in() if all(one is not other for other, _ in failed)]
                lost = isinstance(error, EngineGone)  # then who is to blame is known, and another try costs nobody
                enough = len(failed) >= _TRIES or (len(failed) > 1 and not lost)
                if told.tokens or self._closed or enough or not (others or lost):
                    raise self._failure(failed, told) from error
                continue
            for other, why in failed:  # the request was in order, so the engine was not
                if other is not replica and not isinstance(why, EngineGone):  # those were out, and may be back by now
                    self._take_out(other, _said(why))
            return completion

    def _failure(self, failed: list[tuple[_Replica, Exception]], told: _Told) -> EngineError:
        tries = "; ".join(f"{one.name}: {_said(error)}" for one, error in failed)
        heard = f", {told.tokens} of its tokens were heard already" if told.tokens else ""
        return EngineError(f"a request failed{heard} ({tries})")

    async def _ask(
        self, replica: _Replica, token_ids: TokenIds, sampling: Sampling, session: str | None, told: _Told
    ) -> Completion:
        """One request of one engine. Raises `EngineGone` when the engine is given up meanwhile."""
        clock = asyncio.get_running_loop().time
        if not replica.flying:
            replica.heard_s = clock()
        replica.idle.clear()
        replica.flying, replica.requests = replica.flying + 1, replica.requests + 1
        self._watch_over()

        listening = True  # what an engine still says when it was given up, nobody hears

        def listen(piece: Piece) -> None:
            replica.heard_s = clock()
            if listening:
                told.hear(piece)

        listener = None if told.on_tokens is None and hasattr(replica.engine, "ping") else listen
        work = asyncio.ensure_future(replica.engine.generate(token_ids, sampling, session=session, on_tokens=listener))
        lost = asyncio.ensure_future(replica.lost.wait())
        try:
            await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise EngineGone(f"engine {replica.name} was given up: {replica.why_out}")
            completion = work.result()
            replica.heard_s = clock()
            return completion
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait((work,), timeout=_GRACE_S)  # all that it sampled is told
            raise
        except Exception:
            if told.failure is not None:
                raise _Heard from told.failure
            raise
        finally:
            listening = False
            replica.flying -= 1
            if not replica.flying:
                replica.idle.set()
            lost.cancel()
            if not work.done():
                work.cancel()
                work.add_done_callback(_look_at)

    async def _choose(self, session: str | None, but: list[_Replica]) -> _Replica:
        """The engine of the session, or the one with the least to do. Waits while there is none."""
        end = asyncio.get_running_loop().time() + self._patience_s
        while True:
            able = [one for one in self._in() if all(one is not other for other in but)]
            if able:
                return self._home(session, able)
            left = end - asyncio.get_running_loop().time()
            if left <= 0 or self._closed:
                reasons = "; ".join(f"{one.name}: {one.why_out or 'it failed'}" for one in self._replicas.values())
                raise EngineError(f"no engine takes requests ({reasons or 'there is none'})")
            self._changed.clear()
            but = [] if len(but) >= len(self._replicas) else but  # whoever comes back may have it again
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _some(self, seconds: float) -> bool:
        """Whether there is an engine that takes requests, within that time."""
        end = asyncio.get_running_loop().time() + seconds
        while not self._in() and (left := end - asyncio.get_running_loop().time()) > 0 and not self._closed:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return bool(self._in())

    def _home(self, session: str | None, able: list[_Replica]) -> _Replica:
        least = min(able, key=lambda one: one.load)
        if session is None:
            return least
        root = session.partition("/")[0]  # an episode's branches and sub-agents share most of their context
        home = self._homes.get(root)
        if home is None or home not in able:
            if home is not None:
                self._let_go(root, home)
            home = self._homes[root] = least
            home.sessions.add(root)
        self._sessions.setdefault(root, set()).add(session)
        return home

    def _let_go(self, root: str, home: _Replica) -> None:
        """Nothing of an episode is at this engine any more; branches first."""
        home.sessions.discard(root)
        for session in sorted(self._sessions.pop(root, ()), reverse=True):
            with suppress(Exception):  # it may be gone
                home.engine.release(session)

    def _in(self) -> list[_Replica]:
        return [one for one in self._replicas.values() if not one.why_out]

    def release(self, session: str) -> None:
        """See `types.Engine`."""
        root = session.partition("/")[0]
        home = self._homes.get(root)
        if home is None:
            return
        if session == root:
            del self._homes[root]
            self._sessions.setdefault(root, set()).add(root)
            self._let_go(root, home)
        else:
            self._sessions.get(root, set()).discard(session)
            home.engine.release(session)

    # -- weights ---------------------------------------------------------------------------------------------------

    async def update_weights(self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "") -> None:
        """Give them to all. An engine that does not take them is out until it has; raises `EngineError` if none does.

        weights stay referred to until the next update: engines that come back later get them.
        """
        if self._closed:
            raise EngineError("router is closed: no weights can be updated")
        self._meant = (weights, version, fingerprint)
        replicas = [one for one in self._replicas.values() if not one.leaving]
        if not replicas:
            return  # whoever is added gets them
        replicas = [one for one in replicas if not one.starting]  # they get them when they have
        if not replicas and not await self._some(self._update_s):
            raise EngineError(f"no engine took weights version {version}: they are being started")
        outcomes = await asyncio.gather(*map(self._send, replicas), return_exceptions=True)
        refused: list[str] = []
        for replica, outcome in zip(replicas, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, Exception):
                    raise outcome
                refused.append(f"{replica.name}: {_said(outcome)}")
                if isinstance(outcome, TimeoutError):
                    self._revive(replica)
                self._take_out(replica, f"it did not take weights version {version}: {_said(outcome)}")
            elif not replica.coming_back:
                self._let_in(replica)
        if refused and len(refused) == len(replicas):
            raise EngineError(f"no engine took weights version {version} ({'; '.join(refused)})")

    async def _send(self, replica: _Replica) -> None:
        """Give a replica what all should have. Raises what it raises, `TimeoutError` if it does not answer."""
        async with replica.updating:
            assert self._meant is not None
            weights, version, fingerprint = self._meant
            if replica.version == version and not replica.why_out:
                return
            update = replica.engine.update_weights(weights, version, fingerprint=fingerprint)
            await _within(update, self._update_s)
            replica.version = version

    # -- health ----------------------------------------------------------------------------------------------------

    def _take_out(self, replica: _Replica, why: str) -> None:
        if replica.leaving or self._closed:
            return
        if not replica.why_out:
            _log.warning("engine %s is taken out: %s", replica.name, why)
        replica.why_out = why
        if replica.coming_back is None:
            replica.coming_back = asyncio.create_task(self._bring_back(replica), name=f"askesis-{replica.name}")

    def _let_in(self, replica: _Replica) -> None:
        if replica.leaving:
            return
        if replica.why_out:  # else there are requests that wait for the old one
            replica.why_out, replica.lost = "", asyncio.Event()
        self._changed.set()

    async def _bring_back(self, replica: _Replica) -> None:
        """Look at it again and again, until it has the weights and answers."""
        wait_s = self._back_s
        while not replica.leaving:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_S)
            try:
                await self._begin(replica)
                if self._meant is not None:
                    await self._send(replica)
                probe = replica.engine.generate(ids([0]), Sampling(max_tokens=1, seed=0))
                await _within(probe, self._silent_s)
            except Exception as error:
                replica.why_out = _said(error)
                if isinstance(error, TimeoutError):
                    self._revive(replica)
                continue
            if self._meant is None or replica.version == self._meant[1]:  # else there are others by now
                break
        replica.coming_back = None
        self._let_in(replica)
        if not replica.leaving:
            _log.warning("engine %s is back", replica.name)

    def _watch_over(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look(), name="askesis-router")

    async def _look(self) -> None:
        """While there are requests: ask for signs of life, and give up engines that give none."""
        clock, pause_s = asyncio.get_running_loop().time, self._silent_s / 4
        while any(one.flying for one in self._replicas.values()):
            begun = clock()
            await asyncio.sleep(pause_s)
            if clock() - begun > 2 * pause_s:  # it is this process that stood still; answers may be waiting to be read
                continue
            for replica in list(self._replicas.values()):
                if replica.updating.locked():  # which has a limit of its own, and may keep an engine from all else
                    replica.heard_s = clock()
                waited = replica.flying or (replica.pinging is not None and not replica.why_out)
                silent = clock() - replica.heard_s
                if waited and silent > self._silent_s and not replica.lost.is_set():
                    self._take_out(replica, f"it has {replica.flying} requests and was silent for {silent:.3g} s")
                    replica.lost.set()
                    self._revive(replica)
                elif (replica.flying or not replica.why_out) and replica.pinging is None:
                    self._ping(replica)

    def _ping(self, replica: _Replica) -> None:
        """Ask an engine that can tell for a sign of life; one that is gone is taken out."""
        if (ping := getattr(replica.engine, "ping", None)) is None:
            return
        clock, lost = asyncio.get_running_loop().time, replica.lost
        if not replica.flying:
            replica.heard_s = clock()  # from now on it is waited for

        async def ask() -> None:
            try:
                await _within(ping(), 2 * self._silent_s)  # longer than it is waited for
                replica.heard_s = clock()
            except EngineGone as error:
                if replica.lost is lost:  # else it has come back meanwhile
                    self._take_out(replica, _said(error))
            except Exception as error:
                _log.debug("engine %s gave no sign of life: %s", replica.name, _said(error))
            finally:
                replica.pinging = None

        replica.pinging = asyncio.create_task(ask(), name=f"askesis-ping-{replica.name}")

    def _revive(self, replica: _Replica) -> None:
        if not replica.leaving and (revive := getattr(replica.engine, "revive", None)) is not None:
            revive()

    async def close(self) -> None:
        """Close all engines; requests in flight get an `EngineError`. Idempotent."""
        self._closed = True
        replicas, self._replicas = list(self._replicas.values()), {}
        for replica in replicas:
            replica.leaving, replica.why_out = True, "the router was closed"
        self._changed.set()
        await asyncio.gather(*map(self._discard, replicas))
        if self._watch is not None:
            self._watch.cancel()


class _Told:
    """What a request's listener has heard, over all engines that were asked."""

    def __init__(self, on_tokens: OnTokens | None) -> None:
        self.on_tokens, self.tokens = on_tokens, 0
        self.failure: Exception | None = None

    def hear(self, piece: Piece) -> None:
        if self.on_tokens is None:
            return
        self.tokens += len(piece.token_ids)
        try:
            self.on_tokens(piece)
        except Exception as error:
            self.failure = error
            raise


async def _within(work: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Wait for `work`; leave it behind where it does not even end when it is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        task.add_done_callback(_look_at)
        raise TimeoutError(f"no answer within {seconds:g} s")
    task.result()


def _look_at(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
