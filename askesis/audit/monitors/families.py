"""Families of winning traces: a way of winning that spreads and that is shorter than all others is worth a look."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from askesis.types import Finding, Trace


class Families:
    """A hint when most of the latest wins go one way that took a small part of them before.

    A way is the sequence of tools that were called, repetitions as one. window: how many of the latest wins are looked
    at, and how many before them. share: of the latest wins that one way must have; before: the most that it may have
    had. Said once for each way.
    """

    name = "shortcut-family"

    def __init__(self, *, window: int = 64, share: float = 0.6, before: float = 0.15) -> None:
        self._window, self._share, self._before = window, share, before
        self._wins: deque[tuple[str, ...]] = deque(maxlen=2 * window)
        self._told: set[tuple[str, ...]] = set()

    def observe(self, trace: Trace) -> Sequence[Finding]:
        """A hint at the trace that makes a way the usual one."""
        if not trace.success or not trace.outcome.learnable:
            return ()
        self._wins.append(way(trace))
        wins = list(self._wins)
        latest, earlier = wins[-self._window :], wins[: -self._window]
        if len(earlier) < self._window:
            return ()
        one, count = Counter(latest).most_common(1)[0]
        old = sum(win == one for win in earlier) / len(earlier)
        if one in self._told or count < self._share * len(latest) or old > self._before:
            return ()
        self._told.add(one)
        return (
            Finding(
                probe=self.name,
                severity="low",
                rate=count / len(latest),
                n=len(latest),
                interval=(old, count / len(latest)),
                evidence=f"trace {trace.id}: {' > '.join(one) or 'no call at all'} is {count} of the latest "
                f"{len(latest)} wins, and was {old:.0%} of those before",
                repro=f"trace {trace.id}",
            ),
        )


def way(trace: Trace) -> tuple[str, ...]:
    """The tools that were called, in order, neighbours of one name as one."""
    found: list[str] = []
    for event in trace.tool_events:
        if not found or found[-1] != event.name:
            found.append(event.name)
    return tuple(found)
