"""Actors in a Ray cluster: started, asked, and known to be gone when they are. What engines and environments on other
machines have in common.

An actor's answer says how long it took there, without waiting for its turn: what is on top of that here is the way to
it and back, which is nobody's own time. Errors come back as what they were there, by the name of their class.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import askesis.types
from askesis.types import AskesisError, ConfigError, MissingExtra, Waits, counted

LOCAL = "local"  # in place of an address: a cluster of this machine alone, for this process
_LISTENER_S = 10.0
_CONCURRENT = 10_000  # requests that an actor has at once


class Gone(Exception):
    """The actor, or its machine, is no longer there, or does not answer any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an actor says. failure: the name of an error's class, and its message. own_s: seconds without those in
    line."""

    value: Any
    failure: tuple[str, str] | None
    own_s: float

    def read(self) -> Any:
        """The value; raises what was raised there."""
        if self.failure is None:
            return self.value
        name, said = self.failure
        if name == Gone.__name__:
            raise Gone(said)
        for home in (askesis.types, builtins):
            kind = getattr(home, name, None)
            if isinstance(kind, type) and issubclass(kind, AskesisError | OSError):
                raise kind(said)
        raise RuntimeError(f"{name}: {said}")


async def answer(work: Awaitable[Any]) -> Answer:
    """The answer that `work` comes to, made where it is done."""
    waits, begun, value, failure = Waits(), time.monotonic(), None, None
    try:
        with counted(waits):
            value = await work
    except Exception as error:
        failure = (type(error).__name__, str(error))
    return Answer(value, failure, max(0.0, time.monotonic() - begun - waits.seconds))


def require_ray() -> ModuleType:
    """The package. Raises `MissingExtra`."""
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtra(
            "a cluster needs Ray, which is not installed; run `pip install 'askesis[ray]'`, or leave [cluster] away"
        ) from error
    return ray


def connect(address: str) -> bool:
    """Join the cluster at `address` (`auto`: the one that this machine belongs to), or start one: `local`.

    Whether that was done here: not where this process has joined one before. Raises `ConfigError`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    ray = require_ray()
    if ray.is_initialized():
        return False
    alone: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}  # else it is another's already
    try:
        _demand_listener(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **alone)
    except Exception as error:
        raise ConfigError(
            f"no Ray cluster at {address!r}: {type(error).__name__}: {error}. Start one with `ray start --head` there "
            "and `ray start --address=...` on each further machine, or use address = 'local'"
        ) from error
    return True


def _demand_listener(address: str) -> None:
    """Raise `OSError` where nobody listens: Ray itself looks for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_LISTENER_S).close()


class Actor:
    """One actor, which Ray starts again (elsewhere, if need be) when it is gone. kind: its class, all of whose methods
    give an `Answer`. what: in words, for messages. before: awaited before each request, with the actor.

    again: whether it is started again. here: on the machine of this process, and nowhere else.
    """

    def __init__(
        self,
        kind: type,
        *args: Any,
        what: str,
        cpus: float,
        gpus: float = 0.0,
        before: Callable[[Actor], Awaitable[None]] | None = None,
        again: bool = True,
        here: bool = False,
    ) -> None:
        self._ray = require_ray()
        place: Any = "SPREAD"
        if here:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            place = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        self.what, self._before = what, before
        self._handle = (
            self._ray.remote(kind)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=-1 if again else 0,
                max_task_retries=0,
                max_concurrency=_CONCURRENT,
                scheduling_strategy=place,
            )
            .remote(*args)
        )

    async def ask(self, method: str, *args: Any) -> Answer:
        """Its answer. Raises `Gone`. Cancelling the call cancels it there."""
        if self._before is not None and method != "ping":
            await self._before(self)
        ref = getattr(self._handle, method).remote(*args)
        try:
            found = await ref
        except asyncio.CancelledError:
            with suppress(Exception):
                self._ray.cancel(ref)
            raise
        except self._ray.exceptions.RayError as error:
            raise self._gone(error) from error
        assert isinstance(found, Answer)
        return found

    def asked(self, method: str, *args: Any, seconds: float) -> Any:
        """Its answer, read, where no event loop runs. Raises `Gone`, also where none came within `seconds`."""
        try:
            found = self._ray.get(getattr(self._handle, method).remote(*args), timeout=seconds)
        except self._ray.exceptions.RayError as error:
            raise self._gone(error) from error
        assert isinstance(found, Answer)
        return found.read()

    async def stream(self, method: str, heard: Callable[[Any], None], *args: Any) -> Answer:
        """As `ask`, of a method that gives one thing after another, and its answer last."""
        if self._before is not None:
            await self._before(self)
        refs = getattr(self._handle, method).options(num_returns="streaming").remote(*args)
        try:
            async for ref in refs:
                found = await ref
                if isinstance(found, Answer):
                    return found
                heard(found)
        except self._ray.exceptions.RayError as error:
            raise self._gone(error) from error
        except BaseException:
            with suppress(Exception):
                self._ray.cancel(refs)
            raise
        raise Gone(f"{self.what} ended in the middle of an answer")

    def tell(self, method: str, *args: Any) -> None:
        """Ask without waiting for an answer."""
        with suppress(Exception):
            getattr(self._handle, method).remote(*args)

    def kill(self, *, restart: bool) -> None:
        """End its process at once."""
        with suppress(Exception):
            self._ray.kill(self._handle, no_restart=not restart)

    def _gone(self, error: Exception) -> Gone:
        first = str(error).strip().partition("\n")[0]
        return Gone(f"{self.what} is gone: {type(error).__name__}: {first}")


class Mortal:
    """What every actor's class has: a sign of life, and for tests a long silence."""

    async def ping(self) -> Answer:
        """A sign of life: the process that gives it."""
        return Answer(os.getpid(), None, 0.0)

    async def freeze(self, seconds: float) -> Answer:
        """Do nothing at all for so long, as a machine does that swaps."""
        time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for
        return Answer(None, None, seconds)
