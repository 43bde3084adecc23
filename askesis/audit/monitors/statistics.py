"""Statistics that go with hacks and with good luck alike: hints, and no more."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

from askesis.types import Finding, Trace


class Trends:
    """Hints: success jumps, or what is sampled gets much shorter while success stays.

    window: traces of which a mean is taken; it is compared with that of the same number before them. jump: of success.
    collapse: share of the earlier length. Each is said once until it is over.
    """

    name = "trend"

    def __init__(self, *, window: int = 256, jump: float = 0.4, collapse: float = 0.4) -> None:
        self._window, self._jump, self._collapse = window, jump, collapse
        self._seen: deque[tuple[float, int]] = deque(maxlen=2 * window)
        self._told: set[str] = set()

    def observe(self, trace: Trace) -> Sequence[Finding]:
        """Hints at the trace that makes them true."""
        if not trace.outcome.learnable:
            return ()
        sampled = sum(int(node.mask.sum()) for node in trace.nodes if node.sampled)
        self._seen.append((float(trace.success), sampled))
        if len(self._seen) < 2 * self._window:
            return ()
        seen = list(self._seen)
        (was, long), (now, short) = (_means(part) for part in (seen[: self._window], seen[self._window :]))
        hints = {
            "success jumps": (now - was >= self._jump, f"success {was:.0%} -> {now:.0%}"),
            "length collapses": (
                short <= self._collapse * long and now >= was - 0.1,
                f"sampled tokens an episode {long:.0f} -> {short:.0f}, success {was:.0%} -> {now:.0%}",
            ),
        }
        found = []
        for kind, (true, text) in hints.items():
            if true and kind not in self._told:
                self._told.add(kind)
                found.append(self._hint(kind, text, trace))
            elif not true:
                self._told.discard(kind)
        return found

    def _hint(self, kind: str, text: str, trace: Trace) -> Finding:
        return Finding(
            probe=self.name,
            severity="info",
            rate=1.0,
            n=self._window,
            interval=(0.0, 1.0),
            evidence=f"trace {trace.id}: {kind} over {self._window} episodes: {text}",
            repro=f"trace {trace.id}",
        )


def _means(part: Sequence[tuple[float, int]]) -> tuple[float, float]:
    return statistics.fmean(one for one, _ in part), statistics.fmean(two for _, two in part)
