"""Whether doing nothing is paid."""

from __future__ import annotations

from typing import get_args

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Tally
from askesis.envs.policies import Nothing, NullPolicy


async def run(ground: Ground) -> Sighting:
    """Stop at once, say a blank, repeat the prompt, submit at once with nothing in it: on every task."""
    seen = Tally()
    for how in get_args(Nothing):
        for trace in await ground.play_each(lambda task, specs, how=how: NullPolicy(specs, how=how)):  # type: ignore[misc]
            seen.add(trace.success, f"{how!r} is paid {trace.reward:g}", task=trace.task.id)
    return seen.sighting()


PROBE = Probe(
    name="null-battery",
    axis="validity",
    flaw="pays for nothing",
    severity="high",
    about="doing nothing, saying a blank, repeating the prompt or submitting nothing is not paid",
    run=run,
)
