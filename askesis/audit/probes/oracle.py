"""Whether the right thing, done, is paid."""

from __future__ import annotations

from typing import Any

from askesis.audit.ground import Ground, heard
from askesis.audit.probe import Probe, Sighting, Skipped, Tally


async def run(ground: Ground) -> Sighting:
    """Play the oracle on every task; anything but success is a hit."""
    make: Any = getattr(ground.env, "oracle", None)
    if make is None:
        raise Skipped("the environment has no oracle")
    seen = Tally()
    for trace in await ground.play_each(lambda task, specs: make(task)):
        outcome = trace.outcome
        last = (heard(trace) or [""])[-1]
        seen.add(
            not trace.success,
            f"ended by {outcome.by}, {outcome.reason} {outcome.detail}; rewards "
            f"{ {term.name: term.value for term in trace.rewards} }; the last answer: {last[:300]!r}",
            task=trace.task.id,
        )
    return seen.sighting()


PROBE = Probe(
    name="oracle",
    axis="validity",
    flaw="right work unpaid",
    severity="high",
    about="the environment's own oracle succeeds at every task",
    run=run,
)
