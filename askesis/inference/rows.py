"""Which tokens each row of the KV cache holds, whose they are, and where a new request finds most of its prefix.

A row outlives the request that filled it: the next turn of the same session continues it, and any request whose prompt
begins alike copies from it, until the row is the one longest idle and a request needs a row. What was computed under
other weights (a stale row) only the session goes on with that it belongs to: no new one begins with it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from askesis.types import TokenIds

WORTH_WAITING = 8  # tokens of prefix that another request is about to compute, from which on waiting for it pays
_REMEMBERED = 65_536  # sessions that lost their row, kept to tell what is computed again


@dataclass(slots=True)
class Place:
    """Where a request goes. reused: leading tokens whose KV is there; again: tokens that had been computed before."""

    row: int
    source: int
    reused: int
    again: int
    evicted: bool


class Rows:
    """Host-side state of `count` cache rows of `length` positions.

    tokens [count, length]: what is known; cached [count]: for how many of them keys and values are there; known
    [count]: how many there are; busy [count]: whether a request is running in the row; stale [count]: whether weights
    of before have computed some of what is cached.
    """

    def __init__(self, count: int, length: int) -> None:
        self.count, self.length = count, length
        self.tokens = np.zeros((count, length), dtype=np.int32)
        self.cached = np.zeros(count, dtype=np.int32)
        self.known = np.zeros(count, dtype=np.int32)
        self.busy = np.zeros(count, dtype=np.bool_)
        self.stale = np.zeros(count, dtype=np.bool_)
        self._used = np.zeros(count, dtype=np.int64)
        self._clock = 0
        self._row_of: dict[str, int] = {}
        self._session_of: dict[int, str] = {}
        self._lost: OrderedDict[str, int] = OrderedDict()

    def find(self, prompt: TokenIds, session: str | None) -> Place | None:
        """The row for a prompt [n], or None while another request is still computing a prefix worth waiting for.

        There must be a row that is not busy.
        """
        own = self._row_of.get(session) if session is not None else None
        if own is not None and (mine := self._continues(own, prompt)):
            return Place(row=own, source=own, reused=mine, again=0, evicted=False)
        barred = self.stale
        if own is not None and not self.busy[own] and barred[own]:
            barred = barred.copy()
            barred[own] = False
        known = np.where(barred, 0, np.where(self.busy, self.known, self.cached))
        common = self._common(prompt, known)
        ready = np.minimum(common, self.cached)
        source = int(ready.argmax())
        coming = int(common.argmax())
        usable = len(prompt) - 1  # the last token is always fed: its output is what the next one is drawn from
        if min(int(common[coming]), usable) >= min(int(ready[source]), usable) + WORTH_WAITING:
            return None
        if own is not None and not self.busy[own]:
            row, evicted = own, False
        else:
            row = self._idlest(source, int(ready[source]))
            evicted = row in self._session_of
        reused = min(int(ready[source]), usable)
        if int(ready[row]) >= reused:
            source = row
        before = self._lost.get(session, 0) if session is not None else 0
        return Place(row=row, source=source, reused=reused, again=max(min(before, usable) - reused, 0), evicted=evicted)

    def _continues(self, own: int, prompt: TokenIds) -> int:
        """Tokens to reuse where a session's prompt [n] goes on from its whole row and is at most twice as long; else 0.

        No other row is looked at then: what one more might hold is little, and the search is not.
        """
        cached = int(self.cached[own])
        if self.busy[own] or not len(prompt) <= 2 * cached < 2 * len(prompt):
            return 0
        return cached if np.array_equal(self.tokens[own, :cached], prompt[:cached]) else 0

    def _common(self, prompt: TokenIds, known: np.ndarray[tuple[int], np.dtype[np.int32]]) -> np.ndarray:
        """Length of the prefix that each row shares with `prompt`, at most known[row]."""
        width = min(len(prompt), int(known.max()))
        if width == 0:
            return np.zeros(self.count, dtype=np.int32)
        differs = self.tokens[:, :width] != prompt[:width]
        first = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
        return np.minimum(first, known)

    def _idlest(self, source: int, shared: int) -> int:
        """The row to give away: of no session, not the source, empty, used before (memory is there), longest idle."""
        free = np.flatnonzero(~self.busy)
        owned = np.fromiter((row in self._session_of for row in free.tolist()), dtype=np.bool_, count=len(free))
        keep = (free == source) & (shared > 0)
        used = self._used[free]
        order = np.lexsort((used, used == 0, self.cached[free] > 0, keep, owned))
        return int(free[order[0]])

    def take(self, place: Place, prompt: TokenIds, session: str | None) -> None:
        """Begin a request in its row: the prompt is known, the reused part of it cached."""
        row = place.row
        if place.evicted:
            self._remember(self._session_of[row], int(self.cached[row]))
        if session is not None:
            self._lost.pop(session, None)
        self._unname(row)
        if session is not None:
            old = self._row_of.pop(session, None)
            if old is not None:
                del self._session_of[old]
            self._row_of[session], self._session_of[row] = row, session
        self.tokens[row, : len(prompt)] = prompt
        self.stale[row] = place.reused > 0 and self.stale[place.source]
        self.known[row], self.cached[row], self.busy[row] = len(prompt), place.reused, True

    def leave(self, row: int) -> None:
        """The request in `row` is over; what is cached stays."""
        self._clock += 1
        self._used[row], self.busy[row] = self._clock, False

    def release(self, session: str) -> None:
        """The session will not come back: its row may still serve as a prefix, and is given away first."""
        self._lost.pop(session, None)
        row = self._row_of.get(session)
        if row is not None:
            self._unname(row)
            if self.stale[row] and not self.busy[row]:
                self.cached[row], self.stale[row] = 0, False

    def age(self) -> None:
        """Other weights from now on: sessions go on from what they have, and nobody else does."""
        owned = np.zeros(self.count, dtype=np.bool_)
        owned[list(self._session_of)] = True
        kept = owned | self.busy
        self.cached[~kept] = 0
        self.stale = kept & (self.cached > 0)

    def drop(self) -> int:
        """Forget all keys and values (other weights); the tokens of running requests have to be computed again."""
        for session, row in self._row_of.items():
            if not self.busy[row]:
                self._remember(session, int(self.cached[row]))
        again = int(self.cached[self.busy].sum())
        self.cached[:] = 0
        self.stale[:] = False
        return again

    def _remember(self, session: str, cached: int) -> None:
        self._lost[session] = max(cached, self._lost.get(session, 0))
        while len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)

    def _unname(self, row: int) -> None:
        session = self._session_of.pop(row, None)
        if session is not None:
            del self._row_of[session]
