"""Trained tokens a second of a real run as its tools grow slow, synchronous and with rollout running ahead.

`repair` with askesis-tiny, as `recipes/repair.toml` trains it but for the rate, which is so small that the policy stays
what it is: every run is given the same work. Before each call of a tool a wait is put in (lognormal, a 99th percentile
of 30 medians, the mean as said). A run lasts `seconds` of training; of those that run ahead, the steps in which the
versions are still filling up are left out. Runs of all kinds take turns, `repeats` times; figures are medians. ratio:
trained tokens a second at the longest latency over those without any, at staleness `ahead`.

Options: `repeats` (3), `seconds` (45), `ahead` (8), `latencies` (0,50,100,200 milliseconds), `staleness` (0,8), `tasks`
(8, of a step; each is played eight times).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from askesis import train
from askesis.loop import RunResult
from bench.result import Options, Result

GOAL = 0.95
ENV = f"{Path(__file__).with_name('latency_env.py')}:Slowed"


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    seconds, repeats = float(options.values.get("seconds", "45")), options.number("repeats", 3)
    latencies = [int(part) for part in options.values.get("latencies", "0,50,100,200").split(",")]
    allowed = [int(part) for part in options.values.get("staleness", "0,8").split(",")]
    tasks = options.number("tasks", 8)
    found: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for staleness in allowed:
            for latency in latencies:
                for name, value in _once(staleness, latency, seconds, repeat, tasks).items():
                    found.setdefault(name, []).append(value)
    medians = {name: round(statistics.median(values), 4) for name, values in found.items()}
    kept = {
        staleness: medians[f"tokens_per_s_s{staleness}_{latencies[-1]}ms"]
        / medians[f"tokens_per_s_s{staleness}_{latencies[0]}ms"]
        for staleness in allowed
    }
    ours = medians | {f"kept_s{staleness}": round(share, 4) for staleness, share in kept.items()}
    ratio = kept[max(allowed)]
    return Result(
        name="latency",
        command="python -m bench latency",
        goal=f"at staleness {max(allowed)} at least {GOAL:.0%} of the trained tokens a second are kept from no latency "
        f"to a mean of {latencies[-1]} ms",
        ours=ours,
        peers={},
        spread={"askesis": {name: (round(min(v), 4), round(max(v), 4)) for name, v in found.items()}},
        ratio=round(ratio, 4),
        met=ratio >= GOAL,
        notes=[f"{repeats} runs of {seconds:g} s each; the synchronous run keeps {kept[min(allowed)]:.0%}"],
    )


def _once(staleness: int, latency: int, seconds: float, seed: int, tasks: int) -> dict[str, float]:
    """The figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            {
                "run": {"name": "latency", "minutes": seconds / 60, "seed": seed, "out": folder},
                "env": {"name": ENV, "options": {"mean_s": latency / 1000}},
                "rollout": {"tasks_per_step": tasks, "group_size": 8, "staleness": staleness},
                "train": {"optimizer": "adamw", "lr": 1e-9, "minibatches": 2},
                "eval": {"tasks": 0},
                "checkpoint": {"every_steps": 1000},
                "log": {"tensorboard": False},
            },
            display=False,
        )
    figures = _figures(result, staleness)
    name = f"s{staleness}_{latency}ms"
    told = ", ".join(f"{key} {value:,.3g}" for key, value in figures.items())
    print(f"staleness {staleness}, {latency} ms, seed {seed}: {told}", file=sys.stderr, flush=True)
    return {f"{key}_{name}": value for key, value in figures.items()}


def _figures(result: RunResult, staleness: int) -> dict[str, float]:
    steady = [record for record in result.history if record.step > staleness + 1]
    if not steady:
        raise SystemExit(f"bench latency: only {result.steps} steps in {result.seconds:.0f} s; give more `seconds`")
    lasted = sum(record.lasted_s for record in steady)
    return {
        "tokens_per_s": sum(record.trained_tokens for record in steady) / lasted,
        "sampled_per_s": sum(record.sampled_tokens for record in steady) / lasted,
        "waited_share": sum(record.sample_s for record in steady) / lasted,
        "staleness": statistics.mean(record.staleness for record in steady),
        "groups_given_up": sum(record.given_up for record in steady),
        "steps": len(steady),
    }


def table(kept: Mapping[str, Mapping[str, float]]) -> str:
    """The page's table."""
    ours = kept["ours"]
    names = [name.removeprefix("tokens_per_s_") for name in ours if name.startswith("tokens_per_s_")]
    allowed = sorted({int(name.split("_")[0][1:]) for name in names})
    latencies = sorted({int(name.split("_")[1][:-2]) for name in names})
    lines = ["| mean wait of a tool | " + " | ".join(f"staleness {one}" for one in allowed) + " |"]
    lines.append("|---" * (len(allowed) + 1) + "|")
    for latency in latencies:
        cells = [f"{ours[f'tokens_per_s_s{one}_{latency}ms']:,.0f}" for one in allowed]
        lines.append(f"| {latency} ms | " + " | ".join(cells) + " |")
    lines.append("| kept | " + " | ".join(f"{ours[f'kept_s{one}']:.0%}" for one in allowed) + " |")
    return "\n".join(lines)


def row(kept: Mapping[str, Mapping[str, float]]) -> str:
    """The page's line."""
    ours = kept["ours"]
    shares = {name: value for name, value in ours.items() if name.startswith("kept_s")}
    told = ", ".join(f"{value:.0%} at staleness {name.removeprefix('kept_s')}" for name, value in shares.items())
    goal = "met" if kept["met"] else "not met"
    most = max(int(name.removeprefix("kept_s")) for name in shares)
    speeds = [value for name, value in ours.items() if name.startswith(f"tokens_per_s_s{most}_")]
    return (
        f"- **Tools that grow slow** (no wait to the longest, a real run): {told} of the trained tokens a second are "
        f"kept (least of all waits {min(speeds) / speeds[0]:.0%}); goal 95%: {goal}. `{kept['command']}`"
    )
