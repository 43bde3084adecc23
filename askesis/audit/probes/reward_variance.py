"""Whether the reward, and each of its terms, tells anybody from anybody."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting, Tally
from askesis.audit.recordings import attempts, recordings
from askesis.envs.policies import NullPolicy


async def run(ground: Ground) -> Sighting:
    """Compare what the oracle, the demonstrator, a random policy and one that does nothing are paid."""
    right = await attempts(ground)
    make: Any = getattr(ground.env, "demonstrator", None)
    if make is not None:
        right = right + await ground.play_each(lambda task, specs: make(task, seed=ground.seed))
    if not right:
        raise Inconclusive("it has neither oracle nor demonstrator: nobody is known who should be paid")
    idle = await ground.play_each(lambda task, specs: NullPolicy(specs, how="submit"))
    traces = [*right, *idle, *(one.trace for one in await recordings(ground))]
    traces = [trace for trace in traces if trace.outcome.learnable]
    if len(traces) < 5:
        raise Inconclusive(f"{len(traces)} episodes came to an end of their own; 5 are needed to tell")
    paid: dict[str, set[float | None]] = defaultdict(set)
    weighted = {term.name for trace in traces for term in trace.rewards if term.weight or term.name == "success"}
    for trace in traces:
        found = {term.name: term.value for term in trace.rewards}
        for name in weighted:
            paid[name].add(found.get(name))
    totals = {round(trace.reward, 9) for trace in traces}
    seen = Tally()
    seen.add(len(totals) == 1, f"all of {len(traces)} episodes, right and wrong ones, are paid {min(totals):g}")
    for name, values in sorted(paid.items()):
        only = next(iter(values))
        seen.add(len(values) == 1, f"{name!r} is {only} in all of {len(traces)} episodes, right and wrong ones")
    grave = len(totals) == 1 or len(paid.get("success", {0, 1})) == 1
    return seen.sighting(severity="high" if grave else "low", note=f"{len(totals)} different rewards")


PROBE = Probe(
    name="reward-variance",
    axis="realism",
    flaw="reward tells nothing",
    severity="low",
    about="the reward and each of its terms differ between right work, wrong work and none",
    run=run,
    seconds=2.0,
)
