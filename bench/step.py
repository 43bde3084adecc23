"""A whole reinforcement-learning step beside TRL's GRPOTrainer, both on the CPU: episodes, rewards, one optimiser step.

Two workloads (`bench/step_workload.py`): episodes of one turn without tools, and `repair` with tools in the sandbox.
Same weights and tokenizer, same prompts, environment, rewards, number of episodes and threads; the rate is so small
that both keep sampling from the same policy. `askesis` samples and trains in bfloat16 where the processor multiplies
it; float32, which recipes have unless they say otherwise, stands beside the peers, who get both as well. Each trainer
is a process of its own, warmed up, then they take turns, a step each. Our step is what passes until the next could
begin: traces stored, ledger and metrics written. Medians; the ratio is against the fastest of TRL's configurations on
each workload, and of these the lesser.

Options: `repeats` (5), `threads` (all cores), `workload` (single or agentic; default both), `checkpoint` (a folder, of
a model that can act in `repair`; default askesis-tiny), `peers` (comma-separated; default all but those in EXTRA).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peer import KNOWS_BFLOAT16, ROOT, Peer, start
from bench.result import Options, Result
from bench.step_workload import WORK

TRL = ROOT / ".venv-trl"
OURS = "askesis"
FLOAT = "askesis float32"
GOAL = 8.0
PEERS: dict[str, dict[str, Any]] = {  # TRL's configuration: what goes to GRPOConfig, and to loading the model
    "trl": {},
    "trl bfloat16": {"model": {"dtype": "bfloat16"}},
    "trl autocast": {"config": {"bf16": True}},
}
EXTRA: dict[str, dict[str, Any]] = {  # only when asked for by name: slower wherever they were tried
    "trl eager attention": {"model": {"attn_implementation": "eager"}},
    "trl compiled": {"config": {"torch_compile": True}},
    "trl static cache": {"config": {"cache_implementation": "static"}},
    "trl continuous batching": {"config": {"use_transformers_continuous_batching": True}},
}
FIGURES = ("seconds", "sample_s", "episodes", "turns", "sampled_tokens", "trained_tokens", "reward")


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    threads = options.number("threads", len(os.sched_getaffinity(0)))
    repeats = options.number("repeats", 5)
    workloads = [options.values["workload"]] if "workload" in options.values else list(WORK)
    asked = options.values.get("peers", ",".join(PEERS)).split(",")
    if not (TRL / ".ready").exists():
        raise SystemExit("bench step: TRL was not run, for want of an environment: `make venv-trl` makes it")
    ours: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {name: {} for name in (FLOAT, *asked)}
    spread: dict[str, dict[str, list[float]]] = {name: {} for name in (OURS, FLOAT, *asked)}
    notes = [f"{threads} threads each; {repeats} steps of each in turn; one optimiser step over all episodes of a step"]
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = _checkpoints(options.values.get("checkpoint", "askesis-tiny"), Path(scratch))
        for workload in workloads:
            configurations = {FLOAT: {}, **{name: (PEERS | EXTRA)[name] for name in asked}}
            found, cold = _measure(workload, configurations, checkpoints[workload], threads, repeats, Path(scratch))
            for who, steps in found.items():
                figures = ours if who == OURS else peers[who]
                for figure in FIGURES:
                    values = [step[figure] for step in steps]
                    figures[f"{workload}_{figure}"] = round(statistics.median(values), 4)
                    spread[who][f"{workload}_{figure}"] = [round(min(values), 4), round(max(values), 4)]
                figures[f"{workload}_cold_s"] = round(cold[who], 2)
            name = f"{workload}_seconds"
            best = min(asked, key=lambda who: peers[who][name])
            ratios.append(peers[best][name] / ours[name])
            exact = f"float32: {peers[best][name] / peers[FLOAT][name]:.2f} x"
            notes.append(f"{workload}: {ratios[-1]:.2f} x {best}; {exact}; {_tokens(workload, ours, peers[best])}")
    return Result(
        name="step",
        command="python -m bench step",
        goal=f"at least {GOAL:g} x faster than TRL on the lesser workload",
        ours=ours,
        peers=peers,
        spread=spread,
        ratio=round(min(ratios), 3),
        met=min(ratios) >= GOAL,
        notes=notes,
    )


def _tokens(workload: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """How much each did in a step."""
    sampled, trained = f"{workload}_sampled_tokens", f"{workload}_trained_tokens"
    return (
        f"a step sampled {ours[sampled]:,.0f} tokens and trained on {ours[trained]:,.0f}, "
        f"TRL's {theirs[sampled]:,.0f} and {theirs[trained]:,.0f}"
    )


def _measure(
    workload: str,
    configurations: Mapping[str, Mapping[str, Any]],
    checkpoint: Path,
    threads: int,
    repeats: int,
    scratch: Path,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """The figures of each step, by trainer; and how long each took to be warm. They start one after the other."""
    own = scratch / workload
    own.mkdir()
    peers: list[Peer] = []
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in (OURS, *configurations)}
    try:
        for name in steps:
            print(f"{workload}: ", end="", file=sys.stderr)
            peers.append(_start(name, workload, configurations.get(name, {}), checkpoint, threads, own))
        for _ in range(repeats):
            for peer in peers:
                steps[peer.name].append(peer.ask(step=True))
    finally:
        for peer in peers:
            peer.stop()
    return steps, {peer.name: peer.cold_s for peer in peers}


def _start(
    name: str, workload: str, configuration: Mapping[str, Any], checkpoint: Path, threads: int, scratch: Path
) -> Peer:
    arguments: Sequence[str] = [workload, str(checkpoint), str(threads), str(scratch / f"{name} run")]
    if name in (OURS, FLOAT):
        dtype = "bfloat16" if name == OURS and KNOWS_BFLOAT16 else "float32"
        command = [sys.executable, "-m", "bench.step_ours", *arguments, dtype]
    else:
        command = [str(TRL / "bin" / "python"), "-m", "bench.step_trl", *arguments, json.dumps(configuration)]
    return start(name, command, threads=threads, scratch=scratch)


def _checkpoints(name: str, scratch: Path) -> dict[str, Path]:
    """The model that can act, and one of its shape and tokenizer with fresh weights, which speaks at length."""
    from askesis.loop import load
    from askesis.loop.checkpoints import save_model
    from askesis.models import build

    able = load(name)
    fresh = build(able.config)
    fresh.initialise(0, 0.02)
    save_model(scratch / "fresh", fresh, able.renderer)
    return {"single": scratch / "fresh", "agentic": able.path}


def row(kept: Mapping[str, Any]) -> str:
    """The page's line."""
    ours, peers = kept["ours"], kept["peers"]
    parts = []
    for workload in WORK:
        name = f"{workload}_seconds"
        theirs = min(figures[name] for who, figures in peers.items() if who != FLOAT)
        parts.append(
            f"{workload}: {ours[name]:.2f} s, in float32 {peers[FLOAT][name]:.2f} s, TRL's GRPOTrainer {theirs:.2f} s"
        )
    goal = "met" if kept["met"] else "not met"
    return (
        f"- **A whole step of reinforcement** in bfloat16 ({'; '.join(parts)}): {kept['ratio']:.1f} x on the lesser; "
        f"goal 8: {goal}. `{kept['command']}`"
    )
