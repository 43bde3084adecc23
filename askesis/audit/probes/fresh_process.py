"""Whether tasks and episodes are the same in another process: another hash seed, time zone, locale and day."""

from __future__ import annotations

from askesis.audit.elsewhere import MANY_DAYS, OTHERWISE, played_elsewhere
from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped, Tally
from askesis.audit.recordings import Recording, Seen, difference, stable

_MOST = 16  # episodes


async def run(ground: Ground) -> Sighting:
    """Have the tasks drawn and recorded episodes played in such a process; where they differ, find out by what."""
    if not ground.name:
        raise Skipped("the environment has no name by which another process could load it")
    tasks = [task.id for task in ground.tasks]
    try:
        kept = await stable(ground)
    except Inconclusive:
        kept = []
    kept = kept[:: max(1, len(kept) // _MOST)]
    seen, kind = await _compared(ground, tasks, kept, later_s=MANY_DAYS)
    if not seen.hits:
        return seen.sighting()
    how = "another day"
    if (await _compared(ground, tasks, kept, later_s=0.0))[0].hits:
        how = f"the same clock, but {', '.join(f'{key}={value}' for key, value in OTHERWISE.items())}"
    seen.evidence = f"in another process, with {how}: {seen.evidence}"
    return seen.sighting(severity="medium" if kind == "observation" else "high")


async def _compared(ground: Ground, tasks: list[str], kept: list[Recording], *, later_s: float) -> tuple[Tally, str]:
    """Trials, and the gravest kind of difference."""
    theirs, episodes = await played_elsewhere(ground, kept, variables=OTHERWISE, later_s=later_s)
    seen, kind = Tally(), "observation"
    for place, task in enumerate(tasks):
        other = theirs[place] if place < len(theirs) else "none"
        if other != task:
            kind = "task"
        seen.add(other != task, f"at place {place} is task {other}, and not {task}", task=task)
    if seen.hits:
        return seen, kind
    for one, there in zip(kept, episodes, strict=True):
        if there.learnable:
            found = difference(Seen.of(one.trace), there)
            if found is not None and found.kind == "reward":
                kind = "reward"
            seen.add(found is not None, f"{one.by}, here and there: {found.text if found else ''}", task=one.task.id)
    return seen, kind


PROBE = Probe(
    name="fresh-process",
    axis="stability",
    flaw="depends on the process",
    severity="high",
    about="tasks, answers and rewards do not depend on hash seed, time zone, locale or day",
    run=run,
    seconds=4.0,
)
