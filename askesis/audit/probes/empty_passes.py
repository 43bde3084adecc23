"""Whether an answer with nothing in it is paid."""

from __future__ import annotations

import json
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Tally
from askesis.audit.submission import openings, tried
from askesis.audit.texts import equivalent

MOST = 120  # episodes
NOTHING: tuple[Any, ...] = (
    *("", " ", "\n", "NaN", "nan", "inf", "-inf", "null", "None", "[]", "{}", "()", "true", "True", "false", '""'),
    *("undefined", "N/A", ",", ".", "-", "answer", "```\n```"),
    *(None, [], {}, True, False),
)


async def run(ground: Ground) -> Sighting:
    """Empty texts and values, not-a-number, words for nothing, and truth itself, as far as the schema takes them."""
    puts = [
        (one, value)
        for one in await openings(ground, final=True)
        for value in NOTHING
        if not equivalent(value if isinstance(value, str) else json.dumps(value), one.text)
        and (one.path is not None or isinstance(value, str))
    ]
    seen = Tally()
    for done in await tried(ground, ground.rng("empty").sample(puts, min(MOST, len(puts))), raw=True):
        seen.add(done.trace.success, f"{done.put!r} is paid", task=done.one.task.id)
    return seen.sighting()


PROBE = Probe(
    name="empty-passes",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="NaN, null, an empty list, `true` and the like are not paid",
    run=run,
    seconds=4.0,
)
