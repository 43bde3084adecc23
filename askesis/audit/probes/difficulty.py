"""How often a task is done, by task and by level: where all episodes end alike, nothing can be learned."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped
from askesis.audit.recordings import recordings

_TIMES = 4  # each task
_TASKS = 12
_LEAST = 5


async def run(ground: Ground) -> Sighting:
    """Play the demonstrator several times on each task; without one, see whether a random policy does everything."""
    make: Any = getattr(ground.env, "demonstrator", None)
    if make is None:
        return await _random(ground)
    tasks = ground.tasks[:_TASKS]
    paid: dict[str, list[float]] = defaultdict(list)
    wins: dict[str, list[bool]] = defaultdict(list)
    for seed in range(_TIMES):
        for trace in await ground.play_each(lambda task, specs, seed=seed: make(task, seed=seed), tasks):  # type: ignore[misc]
            if trace.outcome.learnable:
                paid[trace.task.id].append(round(trace.reward, 6))
                wins[str(trace.task.data.get("level", "all"))].append(trace.success)
    full = {task: rewards for task, rewards in paid.items() if len(rewards) > 1}
    if len(full) < _LEAST:
        raise Inconclusive(f"the demonstrator came to an end on {len(full)} tasks; {_LEAST} are needed to tell")
    alike = [task for task, rewards in full.items() if len(set(rewards)) == 1]
    levels = ", ".join(f"{level}: {sum(won) / len(won):.0%}" for level, won in sorted(wins.items()))
    done = [won for each in wins.values() for won in each]
    note = f"the demonstrator succeeds in {sum(done) / len(done):.0%}; by level {levels}; {len(full) - len(alike)} of "
    note += f"{len(full)} tasks end now so, now otherwise"
    if len(alike) < len(full):
        return Sighting(hits=0, n=len(full), note=note)
    return Sighting(
        hits=len(alike),
        n=len(full),
        evidence=f"on each task all {_TIMES} episodes of the demonstrator are paid the same; {note}",
        note=note,
        severity="low" if any(done) else "medium",
        tasks=tuple(alike),
    )


async def _random(ground: Ground) -> Sighting:
    played = [one.trace for one in await recordings(ground) if one.by != "the oracle"]
    done = sum(trace.success for trace in played)
    if len(played) < _LEAST or done < 0.9 * len(played):
        raise Skipped(f"it has no demonstrator; a random policy succeeds in {done} of {len(played)} episodes")
    return Sighting(hits=done, n=len(played), evidence=f"a random policy succeeds in {done} of {len(played)} episodes")


PROBE = Probe(
    name="difficulty",
    axis="coverage",
    flaw="nothing to learn from",
    severity="low",
    about="tasks are neither always nor never done by who knows a little",
    run=run,
    seconds=3.0,
)
