"""Whether the same calls on the same task get the same answers and the same pay, twice in one process."""

from __future__ import annotations

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Severity, Sighting, Tally
from askesis.audit.recordings import Seen, again, difference, recordings


async def run(ground: Ground) -> Sighting:
    """Play the oracle's and a random policy's episodes again, word for word."""
    kept = await recordings(ground)
    seen, severity = Tally(), "medium"
    for one, trace in zip(kept, await again(ground, kept), strict=False):
        if not trace.outcome.learnable:
            continue
        found = difference(Seen.of(one.trace), Seen.of(trace))
        if found is not None and found.kind == "reward":
            severity = "high"
        seen.add(found is not None, f"{one.by}, twice: {found.text if found else ''}", task=one.task.id)
    graded: Severity = "high" if severity == "high" else "medium"
    return seen.sighting(severity=graded)


PROBE = Probe(
    name="replay",
    axis="stability",
    flaw="not reproducible",
    severity="medium",
    about="the same calls on the same task get the same answers and the same reward",
    run=run,
    seconds=2.0,
)
