"""Time that an episode stands in line for what episodes share (a sandbox's worker): nobody's own, so no limit's.

Whoever has a limit counts it (`counted`); whoever makes others wait says so (`in_line`). Nothing is handed from one to
the other, so that an environment's tools need not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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


class counted:
    """What is started inside, tasks too, enters in `waits` the time that it stands in line."""

    __slots__ = ("_token", "_waits")

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def __enter__(self) -> None:
        self._token = _counting.set(self._waits)

    def __exit__(self, *error: object) -> None:
        _counting.reset(self._token)


class _Line:
    """The time inside is spent in line, for whoever counts it here."""

    __slots__ = ("_begun", "_waits")
    _alone = False

    def __enter__(self) -> None:
        self._waits = waits = _counting.get()
        if waits is not None:
            self._begun = waits._clock()
            waits._begin(alone=self._alone)

    def __exit__(self, *error: object) -> None:
        if self._waits is not None:
            self._waits._end(alone=self._alone)
            self._waits.elsewhere_s += self._waits._clock() - self._begun if self._alone else 0.0


class in_line(_Line):
    """The time inside is waiting for one's turn."""

    __slots__ = ()


class elsewhere(_Line):
    """The time inside is another's, who counts it: only the innermost count of this one's own stands still."""

    __slots__ = ()
    _alone = True


def was_in_line(seconds: float) -> None:
    """So much of the time until now was waiting for one's turn, which is known only afterwards."""
    waits = _counting.get()
    if waits is not None and seconds > 0:
        waits.add(seconds)
