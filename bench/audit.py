"""How long `askesis audit repair` takes, all probes, when the time that there is does not cut any of them short.

ours: `seconds` of an audit (the median of some), `probes` that told (clean or found), and `cut`, those that said that
the time was up. ratio: 60 seconds over ours. Options: `times` (3), `env` (repair), `seconds` (what an audit may take,
60), `jobs` (2).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from typing import Any

from bench.result import Options, Result

GOAL = "the whole audit of `repair` within 60 seconds on two cores, no probe cut short"


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    from askesis.audit import audit

    name, most, jobs = options.values.get("env", "repair"), options.number("seconds", 60), options.number("jobs", 2)
    seconds, told, cut = [], [], []
    for _ in range(options.number("times", 3)):
        found = asyncio.run(audit(name, seconds=most, jobs=jobs))
        seconds.append(found.seconds)
        told.append(sum(line.verdict in ("clean", "found") for line in found.lines))
        cut.append(sum("time was up" in line.note or "not finished" in line.note for line in found.lines))
    ours = {"seconds": statistics.median(seconds), "probes": min(told), "cut": max(cut)}
    return Result(
        name="audit",
        command="python -m bench audit",
        goal=GOAL,
        ours=ours,
        peers={},
        spread={"askesis": {"seconds": (min(seconds), max(seconds))}},
        ratio=round(60 / ours["seconds"], 2),
        met=ours["seconds"] <= 60 and ours["cut"] == 0,
    )


def figure(kept: Mapping[str, Any]) -> str:
    """For docs/audit.md."""
    ours, (low, high) = kept["ours"], kept["spread"]["askesis"]["seconds"]
    machine = kept["machine"]
    return (
        f"The whole audit of `repair` took {ours['seconds']:.1f} seconds on {machine['cores']} cores "
        f"({low:.1f} to {high:.1f}; {machine['cpu']}, {kept['date']}, `{kept['command']}`): "
        f"{ours['probes']:.0f} probes told, {ours['cut']:.0f} were cut short."
    )
