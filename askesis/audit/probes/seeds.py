"""Whether tasks follow from the seed: the same for the same one, others for another."""

from __future__ import annotations

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Severity, Sighting, Skipped, Tally
from askesis.types import Split

_OTHERS = 4
_SPLITS: tuple[Split, ...] = ("train", "heldout")


async def run(ground: Ground) -> Sighting:
    """Draw the same tasks twice, and those of some other seeds."""
    same, other = Tally(), Tally()
    for split in _SPLITS:
        first = _ids(ground, split, ground.seed)
        if not first:
            continue
        for _ in range(2):
            again = _ids(ground, split, ground.seed)
            pairs = enumerate(zip(first, again, strict=False))
            at = next((n for n, (one, other) in pairs if one != other), min(len(first), len(again)))
            evidence = f"tasks({split!r}, seed={ground.seed}), asked twice, differ at place {at}"
            same.add(first != again, evidence)
        if len(first) < ground.count:
            continue  # all that there are: no seed can give others
        for seed in range(ground.seed + 1, ground.seed + 1 + _OTHERS):
            equal = _ids(ground, split, seed) == first
            other.add(equal, f"tasks({split!r}) are the same, in the same order, for seeds {ground.seed} and {seed}")
    if not same.n:
        raise Skipped("it has no tasks")
    severity: Severity = "high" if same.hits else "low"
    whole = Tally(same.hits + other.hits, same.n + other.n, same.evidence or other.evidence)
    return whole.sighting(severity=severity)


def _ids(ground: Ground, split: Split, seed: int) -> list[str]:
    return [task.id for task in ground.drawn(split, seed=seed)]


PROBE = Probe(
    name="seeds",
    axis="stability",
    flaw="seed not heeded",
    severity="low",
    about="the same seed gives the same tasks, another one others",
    run=run,
    seconds=1.0,
)
