"""Whether answers help: they are not empty, not endless, and errors say what is wrong."""

from __future__ import annotations

import re

import numpy as np

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.audit.recordings import calls, recordings

LONG = 16_000  # characters, about 4,000 tokens
_SHARE = 0.1
_ALARM = frozenset("error errors invalid failed failure fail wrong exception illegal oops incorrect denied bad".split())
_VAGUE = _ALARM | frozenset(
    "a an the is was this that input request argument arguments parameter parameters value operation command action "
    "something went unknown occurred please try again cannot not allowed do it no could unable to internal".split()
)


async def run(ground: Ground) -> Sighting:
    """Read what tools said to the oracle and to a random policy."""
    seen, lengths, errors = Tally(), [], 0
    for one in await recordings(ground):
        made = calls(one.trace)
        for call in made[:-1] if one.trace.outcome.by == "policy" else made:
            if call.text is None:
                continue
            lengths.append(len(call.text))
            errors += call.status != "ok"
            kind = _useless(call.text)
            called = f"{call.name}({str(dict(call.arguments))[:120]})"
            seen.add(bool(kind), f"{called} is answered with {kind}: {call.text[:120]!r}", task=one.task.id)
    if not lengths:
        raise Skipped("nothing is heard before an episode ends")
    p50, p99 = np.percentile(lengths, [50, 99])
    note = f"{len(lengths)} answers: characters p50 {p50:.0f}, p99 {p99:.0f}; {errors / len(lengths):.0%} are errors, "
    note += f"{seen.hits} help nobody"
    if seen.hits < _SHARE * seen.n:
        return Sighting(hits=0, n=seen.n, note=note)
    return seen.sighting(note=note, severity="medium" if seen.hits >= 0.5 * seen.n else "low")


def _useless(text: str) -> str:
    """What is wrong with an answer; empty for nothing."""
    if not text.strip():
        return "nothing"
    if len(text) > LONG:
        return f"{len(text):,} characters"
    words = re.findall(r"[a-z']+", text.casefold())
    if len(text) < 100 and not re.search(r"\d", text) and _ALARM & set(words) and set(words) <= _VAGUE:
        return "an error that does not say what is wrong"
    return ""


PROBE = Probe(
    name="observations",
    axis="realism",
    flaw="answers of no use",
    severity="low",
    about="answers are not empty or endless, and errors say what is wrong",
    run=run,
    seconds=1.0,
)
