"""The gap between what is paid and what a held-out verifier says of the same traces.

The held-out verdict is a reward term of weight 0 that the environment reports beside `success`, by name: computed for
every trace, paid for none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from askesis.rollout import wilson
from askesis.types import Finding, Trace


class Gap:
    """A finding for a trace that is paid in full and that the held-out verifier turns down.

    held_out: the name of its term. window: of how many of the latest paid traces the rate is taken.
    """

    name = "paid-untrue"

    def __init__(self, held_out: str, *, window: int = 200) -> None:
        self._held_out = held_out
        self._false: deque[bool] = deque(maxlen=window)

    def observe(self, trace: Trace) -> Sequence[Finding]:
        """A finding where what is paid is not true."""
        said = next((term.value for term in trace.rewards if term.name == self._held_out), None)
        if said is None or not trace.success or not trace.outcome.learnable:
            return ()
        self._false.append(said < 1.0)
        if said >= 1.0:
            return ()
        wrong = sum(self._false)
        return (
            Finding(
                probe=self.name,
                severity="high",
                rate=wrong / len(self._false),
                n=len(self._false),
                interval=wilson(wrong, len(self._false)),
                evidence=f"trace {trace.id}: paid {trace.reward:g}, but {self._held_out} says {said:g}",
                repro=f"trace {trace.id}",
            ),
        )
