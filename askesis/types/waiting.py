"""Time that an episode stands in line for what episodes share (a sandbox's worker): nobody's own, so no limit's.

Whoever has a limit counts it (`counted`); whoever makes others wait says so (`in_line`). Nothing is handed from one to
the other, so that an environment's tools need not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Waits:
    """Seconds in line so far, by `clock`. They grow while somebody waits; who waits at the same time counts once.

    into: where what is waited here counts as well. elsewhere_s: seconds of them that were another's (`elsewhere`).
    """

    __slots__ = ("_clock", "_done", "_into", "_since", "_waiting", "elsewhere_s")

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, into: Waits | None = None) -> None:
        self._clock, self._done, self._since, self._waiting, self._into = clock, 0.0, 0.0, 0, into
        self.elsewhere_s = 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._done + (self._clock() - self._since if self._waiting else 0.0)

    def add(self, seconds: float) -> None:
        """Enter time in line that is over, of which one hears only now."""
        self._done += seconds
        if self._into is not None:
            self._into.add(seconds)

    def _begin(self, *, alone: bool = False) -> None:
        if not self._waiting:
            self._since = self._clock()
        self._waiting += 1
        if self._into is not None and not alone:
            self._into._begin()

    def _end(self, *, alone: bool = False) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._done += self._clock() - self._since
        if self._into is not None and not alone:
            self._into._end()


_counting: ContextVar[Waits | None] = ContextVar("askesis_waits", default=None)


@contextmanager
def counted(waits: Waits) -> Iterator[None]:
    """What is started inside, tasks too, enters here the time that it stands in line."""
    token = _counting.set(waits)
    try:
        yield
    finally:
        _counting.reset(token)


@contextmanager
def in_line() -> Iterator[None]:
    """The time inside is waiting for one's turn."""
    with _waiting(alone=False):
        yield


def was_in_line(seconds: float) -> None:
    """So much of the time until now was waiting for one's turn, which is known only afterwards."""
    waits = _counting.get()
    if waits is not None and seconds > 0:
        waits.add(seconds)


@contextmanager
def elsewhere() -> Iterator[None]:
    """The time inside is another's, who counts it: only the innermost count of this one's own stands still."""
    with _waiting(alone=True):
        yield


@contextmanager
def _waiting(*, alone: bool) -> Iterator[None]:
    waits = _counting.get()
    if waits is None:
        yield
        return
    begun = waits._clock()
    waits._begin(alone=alone)
    try:
        yield
    finally:
        waits._end(alone=alone)
        waits.elsewhere_s += waits._clock() - begun if alone else 0.0
