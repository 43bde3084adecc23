"""Whether who does everything right has turns, tokens and time to spare."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np

from askesis.audit.ground import Ground, said
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped, Tally
from askesis.audit.recordings import attempts
from askesis.types import Limits, Trace

_TOKEN = 4.0  # characters, roughly, of English and of JSON
_MUCH = 0.5


async def run(ground: Ground) -> Sighting:
    """What the oracle uses of each limit: of turns and tokens in nine tasks of ten, of seconds in half of them."""
    traces = await attempts(ground)
    if not traces:
        raise Skipped("the environment has no oracle")
    limits = {task.id: task.limits for task in [*ground.drawn("heldout"), *ground.drawn("train")]}
    used: dict[str, list[float]] = defaultdict(list)
    for trace in traces:
        if trace.outcome.learnable and trace.task.id in limits:
            for name, share in _used(trace, limits[trace.task.id]).items():
                used[name].append(share)
    if not used:
        raise Inconclusive("no episode of the oracle's comes to an end of its own")
    shares = {
        name: float(np.percentile(values, 50 if "second" in name else 90)) for name, values in sorted(used.items())
    }
    seen = Tally()
    for name, share in shares.items():
        seen.add(share > _MUCH, f"the oracle needs {share:.0%} of {name}")
    note = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())
    return seen.sighting(severity="medium" if max(shares.values()) > 0.9 else "low", note=f"the oracle uses {note}")


def _used(trace: Trace, limits: Limits) -> dict[str, float]:
    tokens = [
        (len(message.text) + sum(len(json.dumps([call.name, dict(call.arguments)])) for call in message.tool_calls))
        / _TOKEN
        for message in said(trace)
    ]
    calls = [event.seconds for event in trace.tool_events]
    found = {
        "the turns (max_turns)": trace.turns / limits.max_turns,
        "a turn's tokens, about (max_turn_tokens)": max(tokens, default=0.0) / limits.max_turn_tokens,
        "the seconds (wall_s)": (trace.timing.setup_s + trace.timing.tool_s) / limits.wall_s,
        "a call's seconds (tool_s)": max(calls, default=0.0) / limits.tool_s,
    }
    if limits.max_tokens is not None:
        found["all tokens, about (max_tokens)"] = sum(tokens) / limits.max_tokens
    if trace.outcome.by == "limit":
        found["a limit, which ended it"] = 1.0
    return found


PROBE = Probe(
    name="limits",
    axis="realism",
    flaw="limits too tight",
    severity="low",
    about="the oracle needs no more than half of the turns, tokens and seconds that there are",
    run=run,
    seconds=1.0,
)
