"""Tokens a second of the embedded engine beside transformers' `generate` and vLLM, all on the CPU.

One run, the same weights, prompts and sampling (`bench/engine_workload.py`), each peer in a process of its own, warmed
up, then taking turns; the figures are medians. Every peer gets the same number of threads, may compile, and runs in
float32 and in bfloat16, as ours does; `askesis` is in bfloat16 where the processor multiplies it, and in float32, which
training samples in, stands beside the peers. Ours gives the log-probability of every token; the peers are spared that.
The ratio is against the best peer of each workload, and of these the lesser.

Options: `repeats` (5), `threads` (all cores), `size` (small: about 1 M parameters, medium: about 5 M; without it both,
and the lesser ratio counts), `peers` (comma-separated; default all).
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peer import KNOWS_BFLOAT16, ROOT, Peer, start
from bench.result import Options, Result

VLLM = ROOT / ".venv-vllm"
WORKLOADS = ("sequences", "conversation")
OURS = "askesis"
FLOAT = "askesis float32"
GOAL = 3.0


@dataclass(frozen=True)
class Kind:
    """An engine and how it is run. extra: further arguments of its process."""

    who: str
    dtype: str = "float32"
    extra: tuple[str, ...] = ()


# everyone in both types: bfloat16 is the faster where the processor multiplies it
PEERS = {
    OURS: Kind("askesis", "bfloat16" if KNOWS_BFLOAT16 else "float32"),
    FLOAT: Kind("askesis"),
    "transformers": Kind("transformers"),
    "transformers bfloat16": Kind("transformers", "bfloat16"),
    "transformers compiled": Kind("transformers-compiled"),
    "transformers compiled bfloat16": Kind("transformers-compiled", "bfloat16"),
    "vllm float32": Kind("vllm"),
    "vllm bfloat16": Kind("vllm", "bfloat16"),
}
EXTRA = {  # only when asked for by name
    "askesis torch": Kind("askesis-torch"),
    "askesis torch compiled": Kind("askesis-torch-compiled"),
    "vllm eager": Kind("vllm", extra=("enforce_eager=1",)),
}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384},
    "medium": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 768},
}


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    threads = options.number("threads", len(os.sched_getaffinity(0)))
    repeats = options.number("repeats", 5)
    sizes = [options.values["size"]] if "size" in options.values else list(SIZES)
    known = PEERS | EXTRA
    asked = [name for name in options.values.get("peers", ",".join(PEERS)).split(",") if name != OURS]
    notes = [f"{threads} threads each; {repeats} interleaved repeats after two for warming up; peers give no logprobs"]
    missing = [name for name in asked if known[name].who == "vllm" and not (VLLM / ".ready").exists()]
    if missing:
        notes.append(f"{', '.join(missing)}: not run, for want of an environment: `make venv-vllm` makes it")
        print(notes[-1], file=sys.stderr)
    asked = [name for name in asked if name not in missing]
    if not asked:
        raise SystemExit("bench engine: there is no peer to compare with")
    ours: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {name: {} for name in asked}
    spread: dict[str, dict[str, list[float]]] = {name: {} for name in (OURS, *asked)}
    ratios = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            _checkpoint(size, Path(scratch) / "checkpoint")
            kinds = {name: known[name] for name in (OURS, *asked)}
            rates, cold = _measure(size, kinds, threads, repeats, Path(scratch))
        for who, found in rates.items():
            figures = ours if who == OURS else peers[who]
            for workload, values in found.items():
                name = f"{size}_{workload}_tokens_per_s"
                figures[name] = round(statistics.median(values), 1)
                spread[who][name] = [round(min(values), 1), round(max(values), 1)]
            figures[f"{size}_cold_s"] = round(cold[who], 2)
        for workload in WORKLOADS:
            name = f"{size}_{workload}_tokens_per_s"
            rivals = {who: found[name] for who, found in peers.items() if known[who].who.startswith(("trans", "vllm"))}
            best = max(rivals, key=lambda who: rivals[who])
            ratios.append(ours[name] / rivals[best])
            exact = f"; float32: {peers[FLOAT][name] / rivals[best]:.2f} x" if FLOAT in peers else ""
            notes.append(f"{size}, {workload}: {ratios[-1]:.2f} x {best}{exact}")
    return Result(
        name="engine",
        command="python -m bench engine",
        goal=f"at least {GOAL:g} x the best peer on the lesser workload",
        ours=ours,
        peers=peers,
        spread=spread,
        ratio=round(min(ratios), 3),
        met=min(ratios) >= GOAL,
        notes=notes,
    )


def _measure(
    size: str, kinds: dict[str, Kind], threads: int, repeats: int, scratch: Path
) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Tokens a second of each run, by engine and workload; and how long each took to be warm.

    They start one after the other (each warms up alone), then take turns.
    """
    rates: dict[str, dict[str, list[float]]] = {name: {workload: [] for workload in WORKLOADS} for name in kinds}
    peers: list[Peer] = []
    try:
        for name, kind in kinds.items():
            print(f"{size}: ", end="", file=sys.stderr)
            peers.append(_start(name, kind, scratch / "checkpoint", threads, scratch))
        for repeat in range(repeats):
            for workload in WORKLOADS:
                for peer in peers:
                    answer = peer.ask(workload=workload, seed=100 + repeat)
                    rates[peer.name][workload].append(answer["tokens"] / answer["seconds"])
    finally:
        for peer in peers:
            peer.stop()
    return rates, {peer.name: peer.cold_s for peer in peers}


def _start(name: str, kind: Kind, checkpoint: Path, threads: int, scratch: Path) -> Peer:
    arguments = [str(checkpoint), str(threads), kind.dtype, *kind.extra]
    if kind.who == "vllm":
        command = [str(VLLM / "bin" / "python"), "-m", "bench.vllm_peer", *arguments]
    else:
        command = [sys.executable, "-m", "bench.engine_peer", kind.who, *arguments]
    return start(name, command, threads=threads, scratch=scratch)


def _checkpoint(size: str, folder: Path) -> None:
    from askesis.models import ModelConfig, build, save_checkpoint

    config = ModelConfig(
        vocab_size=600,
        num_key_value_heads=SIZES[size]["num_attention_heads"] // 2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        **SIZES[size],
    )
    model = build(config)
    model.initialise(0, 0.05)
    save_checkpoint(model, folder)


def row(kept: Mapping[str, Any]) -> str:
    """The page's line."""
    ours, peers = kept["ours"], kept["peers"]
    parts = []
    for workload in WORKLOADS:
        name = f"small_{workload}_tokens_per_s"
        rivals = {who: figures[name] for who, figures in peers.items() if name in figures and who != FLOAT}
        best = max(rivals, key=lambda who: rivals[who])
        rate, exact = ours[name], peers[FLOAT][name]
        parts.append(
            f"{workload}: {rate:,.0f} tokens a second, {rate / rivals[best]:.1f} x {best}; in float32 {exact:,.0f}, "
            f"{exact / rivals[best]:.1f} x"
        )
    goal = "met" if kept["met"] else "not met"
    return (
        f"- **Sampling** in bfloat16 ({'; '.join(parts)}; one million parameters, {kept['machine']['cores']} cores). "
        f"The least of two sizes and two workloads is {kept['ratio']:.2f} x the best peer; goal 3: {goal}. "
        f"`{kept['command']}`"
    )
