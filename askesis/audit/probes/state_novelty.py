"""Whether what is heard depends on what is done, and how much there is to hear that was not yet heard."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped
from askesis.audit.recordings import Made, calls, recordings, settled

_LEAST = 4  # calls on a task
_SHARE = 0.8  # of tasks


async def run(ground: Ground) -> Sighting:
    """Look at the answers on each task, the oracle's and a random policy's together: one for each tool, or more?

    In the note: how many answers were new, and the share that an hour more would still find new (Good 1953).
    """
    by_task: dict[str, list[tuple[int, Made]]] = defaultdict(list)
    for one in await recordings(ground):
        by_task[one.task.id] += [(n, call) for n, call in enumerate(calls(one.trace)[:-1], 1)]
    every = [call for made in by_task.values() for _, call in made if call.text is not None]
    if not every:
        raise Skipped("nothing is heard before an episode ends")
    told = {task: made for task, made in by_task.items() if len(made) >= _LEAST and _repeated(made)}
    counts = Counter((call.name, call.text) for call in every)
    unseen = sum(count == 1 for count in counts.values()) / len(every)
    note = f"{len(counts)} different answers to {len(every)} calls; about {unseen:.0%} of further ones would be new"
    if not told:
        raise Inconclusive(f"too few calls on any one task to tell; {note}")
    mute = [task for task, made in told.items() if _mute(made)]
    found = len(mute) >= _SHARE * len(told)
    shown = {call.name: call.text for _, call in told[mute[0]]} if found else {}
    return Sighting(
        hits=len(mute) if found else 0,
        n=len(told),
        evidence=f"whatever is done on a task, each tool says the same: {_short(shown)}" if found else "",
        note=note,
        tasks=tuple(mute) if found else (),
    )


def _short(shown: Mapping[str, str | None]) -> dict[str, str]:
    return {name: (text or "")[:120] for name, text in shown.items()}


def _repeated(made: list[tuple[int, Made]]) -> bool:
    return max(Counter(call.name for _, call in made).values()) > 1


def _mute(made: list[tuple[int, Made]]) -> bool:
    """Whether each tool says the same each time, if only the count of calls so far is left out."""
    plain: dict[str, set[str]] = defaultdict(set)
    uncounted: dict[str, set[str]] = defaultdict(set)
    for number, call in made:
        text = settled(call.text or "")
        plain[call.name].add(text)
        uncounted[call.name].add(re.sub(rf"\b{number}\b", "~", text))
    return all(min(len(plain[name]), len(uncounted[name])) == 1 for name in plain)


PROBE = Probe(
    name="state-novelty",
    axis="coverage",
    flaw="answers tell nothing",
    severity="low",
    about="what tools say depends on what is done",
    run=run,
    seconds=1.0,
)
