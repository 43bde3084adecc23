"""Training throughput: tokens a second and MFU of Qwen3's shapes with random weights, beside TRL; and the engine's.

Equal tokens a step, float32 parameters with products in bfloat16 by autocast, fused AdamW, loss on every token.
`packed`: sequences with nothing in common, which TRL's SFTTrainer gets too, all of one length, so that it pads nothing;
`tree`: groups of 8 that share a quarter, which counts for every sequence in tokens a second, and once in MFU. MFU:
operations that a forward and backward pass need (nothing that is computed again counts), over what the device can do:
by its maker's data sheet, or where the device is not known by products measured here. Each is a process of its own,
warmed up; then they take turns. The ratio is packed against the fastest of TRL's configurations. What cannot run (for
want of memory, or of a package) is left out, and said so.

Options: `device` (cuda where there is a GPU, else cpu), `sizes` (on a GPU 0.6B,1.7B,4B; else tiny), `repeats` (5),
`threads` (all cores; on a CPU), `peers` (of PEERS), `compile` (1: our feed-forward layers and norms through
torch.compile), `recompute` (1: activation checkpointing, for all), `dtype` (bfloat16), `micro` (tokens in one pass).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.peer import KNOWS_BFLOAT16, Peer, start
from bench.result import Options, Result
from bench.throughput_workload import PEAKS

GOAL_MFU, GOAL = 0.45, 2.0
OURS = ("packed", "tree", "engine")
PEERS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl compiled": {"config": {"torch_compile": True}},
    "trl liger": {"config": {"use_liger_kernel": True}},  # needs liger-kernel, and a GPU
    "trl flash": {"attention": "flash_attention_2"},  # needs flash-attn, and a GPU
}


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    device = options.values.get("device", "cuda" if torch.cuda.is_available() else "cpu")
    sizes = options.values.get("sizes", "tiny" if device == "cpu" else "0.6B,1.7B,4B").split(",")
    dtype = options.values.get("dtype", "bfloat16" if device == "cuda" or KNOWS_BFLOAT16 else "float32")
    threads, repeats = options.number("threads", len(os.sched_getaffinity(0))), options.number("repeats", 5)
    asked = options.values.get("peers", "trl,trl compiled" if device == "cuda" else "trl").split(",")
    common: dict[str, Any] = {"threads": threads, "dtype": dtype, "recompute": options.number("recompute", 0)}
    common |= {"micro": int(options.values["micro"])} if "micro" in options.values else {}
    found: dict[str, dict[str, float]] = {"askesis": {}, **{name: {} for name in asked}}
    spread: dict[str, dict[str, list[float]]] = {name: {} for name in found}
    notes, ratios = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        limit, source = _peak(device, dtype, threads, Path(scratch))
        notes.append(f"{device}, {dtype}: the device does {limit / 1e12:.3g} TFLOP a second ({source})")
        for size in sizes:
            steps, failed = _measure(size, device, common, asked, options.number("compile", 0), repeats, Path(scratch))
            notes += [f"{size}, {who}: not run: {why}" for who, why in failed.items()]
            for who, taken in steps.items():
                name, prefix = ("askesis", f"{size}_{who}") if who in OURS else (who, f"{size}_packed")
                for figure, values in _figures(taken, limit).items():
                    found[name][f"{prefix}_{figure}"] = float(f"{statistics.median(values):.4g}")
                    spread[name][f"{prefix}_{figure}"] = [float(f"{f(values):.4g}") for f in (min, max)]
            key = f"{size}_packed_tokens_s"
            theirs = [found[name][key] for name in asked if key in found[name]]
            if key in found["askesis"] and theirs:
                ratios[size] = found["askesis"][key] / max(theirs)
                notes.append(f"{size}: packed {ratios[size]:.2f} x the fastest of TRL's")
    if not ratios:
        raise SystemExit("bench throughput: nothing to compare:\n" + "\n".join(notes))
    judged = "1.7B" if "1.7B" in ratios else next(iter(ratios))
    mfu = found["askesis"][f"{judged}_packed_mfu"]
    return Result(
        name="throughput",
        command="python -m bench throughput",
        goal=f"at 1.7B on a GPU {GOAL_MFU:.0%} MFU, and {GOAL:g} x TRL",
        ours=found["askesis"],
        peers={name: found[name] for name in asked if found[name]},
        spread={name: ranges for name, ranges in spread.items() if ranges},
        ratio=round(ratios[judged], 3),
        met=device == "cuda" and judged == "1.7B" and mfu >= GOAL_MFU and ratios[judged] >= GOAL,
        notes=notes,
    )


def _figures(taken: list[dict[str, float]], limit: float) -> dict[str, list[float]]:
    figures = {
        "tokens_s": [step["tokens"] / step["seconds"] for step in taken],
        "seconds": [s["seconds"] for s in taken],
    }
    if "operations" in taken[0]:
        figures["mfu"] = [step["operations"] / step["seconds"] / limit for step in taken]
        figures["computed_tokens"] = [step["computed"] for step in taken]
    return figures


def _measure(
    size: str,
    device: str,
    common: Mapping[str, Any],
    asked: list[str],
    compiled: int,
    repeats: int,
    scratch: Path,
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Steps by who took them, and why others took none. On a GPU one after the other, for each may need its memory."""
    steps: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    own = scratch / size
    own.mkdir()
    peers: list[Peer] = []

    def ask(peer: Peer) -> None:
        try:
            steps.setdefault(peer.name, []).append(peer.ask(step=True))
        except SystemExit as died:
            steps.pop(peer.name, None)
            failed[peer.name] = _why(died)

    try:
        for name in (*OURS, *asked):
            given = {**common, **(PEERS.get(name) or {})} | ({"compile": compiled} if name in OURS else {})
            who = name if name in OURS else "trl"
            command = [sys.executable, "-m", "bench.throughput_peer", who, size, device, json.dumps(given)]
            try:
                peers.append(start(name, command, threads=int(common["threads"]), scratch=own))
            except SystemExit as died:
                failed[name] = _why(died)
                continue
            if device == "cuda":
                for _ in range(repeats):
                    if name not in failed:
                        ask(peers[-1])
                peers.pop().stop()
        for _ in range(repeats if peers else 0):
            for peer in peers:
                if peer.name not in failed:
                    ask(peer)
    finally:
        for peer in peers:
            peer.stop()
    return steps, failed


def _why(died: SystemExit) -> str:
    """The last line of a peer's last words."""
    lines = [line.strip() for line in str(died).splitlines() if line.strip()]
    print(died, file=sys.stderr)
    return lines[-1][:200]


def _peak(device: str, dtype: str, threads: int, scratch: Path) -> tuple[float, str]:
    """What the device can do, and who says so."""
    if device == "cuda" and dtype == "bfloat16":
        name = torch.cuda.get_device_name()
        for part, limit in PEAKS.items():
            if part in name:
                return limit, f"{name}, data sheet"
    given = json.dumps({"threads": threads, "dtype": dtype})
    command = [sys.executable, "-m", "bench.throughput_peer", "peak", "tiny", device, given]
    peer = start("peak", command, threads=threads, scratch=scratch)
    peer.stop()
    return peer.cold_s, "large products, measured"


def table(kept: Mapping[str, Any]) -> str:
    """The page's table."""
    lines = ["| shape | | tokens a second | MFU |", "|---|---|---|---|"]
    rows = {"askesis": kept["ours"], **kept["peers"]}
    for who, figures in rows.items():
        for key, value in figures.items():
            if key.endswith("_tokens_s"):
                size, kind = key.removesuffix("_tokens_s").split("_")
                mfu = figures.get(f"{size}_{kind}_mfu")
                lines.append(f"| {size} | {who}, {kind} | {value:,.0f} | {'' if mfu is None else f'{mfu:.0%}'} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in kept["notes"])])
