"""Tokens a second of the embedded engine beside transformers' `generate` and vLLM, all on the CPU.

One run, the same weights, prompts and sampling (`bench/engine_workload.py`), each peer in a process of its own, warmed
up, then taking turns; the figures are medians. Every peer gets the same number of threads, may compile, and runs in the
type it is fastest at. Ours gives the log-probability of every token; the peers are spared that. The ratio is against
the best peer of each workload, and of these the lesser.

Options: `repeats` (5), `threads` (all cores), `size` (small: about 1 M parameters, medium: about 5 M; without it both,
and the lesser ratio counts), `peers` (comma-separated; default all).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.engine_workload import MARK
from bench.result import Options, Result

ROOT = Path(__file__).resolve().parent.parent
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
WORKLOADS = ("sequences", "conversation")
OURS = "askesis"
GOAL = 3.0
PEERS = {  # who, and in which type; bfloat16 too, since it is faster where the processor knows it
    OURS: ("askesis", "float32"),
    "transformers": ("transformers", "float32"),
    "transformers bfloat16": ("transformers", "bfloat16"),
    "transformers compiled": ("transformers-compiled", "float32"),
    "vllm float32": ("vllm", "float32"),
    "vllm bfloat16": ("vllm", "bfloat16"),
}
EXTRA = {  # only when asked for by name
    "askesis torch": ("askesis-torch", "float32"),
    "askesis torch compiled": ("askesis-torch-compiled", "float32"),
}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384},
    "medium": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 768},
}


@dataclass
class Peer:
    """A process that runs workloads, and what it has measured: tokens a second."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    cold_s: float = 0.0
    rates: dict[str, list[float]] = field(default_factory=lambda: {workload: [] for workload in WORKLOADS})

    def answer(self) -> dict[str, float]:
        """The next line of the protocol."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                found: dict[str, float] = json.loads(line.removeprefix(MARK))
                return found
        raise SystemExit(f"bench engine: {self.name} ended early:\n{self.log.read_text()[-3000:]}")

    def measure(self, workload: str, seed: int) -> None:
        """One timed run."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"workload": workload, "seed": seed}) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        self.rates[workload].append(answer["tokens"] / answer["seconds"])


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    threads = options.number("threads", len(os.sched_getaffinity(0)))
    repeats = options.number("repeats", 5)
    sizes = [options.values["size"]] if "size" in options.values else list(SIZES)
    known = PEERS | EXTRA
    asked = options.values["peers"].split(",") if "peers" in options.values else list(PEERS)
    notes = [f"{threads} threads each; {repeats} interleaved repeats after two for warming up; peers give no logprobs"]
    if not VLLM.exists() and any(known[name][0] == "vllm" for name in asked):
        asked = [name for name in asked if known[name][0] != "vllm"]
        notes.append("vllm was not run: `make venv-vllm` makes its environment")
    ours: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {name: {} for name in asked if name != OURS}
    spread: dict[str, dict[str, list[float]]] = {name: {} for name in asked}
    ratios = []
    for size in sizes:
        for peer in _measure(size, [OURS, *peers], known, threads, repeats):
            figures = ours if peer.name == OURS else peers[peer.name]
            for workload, rates in peer.rates.items():
                name = f"{size}_{workload}_tokens_per_s"
                figures[name] = round(statistics.median(rates), 1)
                spread.setdefault(peer.name, {})[name] = [round(min(rates), 1), round(max(rates), 1)]
            figures[f"{size}_cold_s"] = round(peer.cold_s, 2)
        for workload in WORKLOADS:
            name = f"{size}_{workload}_tokens_per_s"
            rivals = {who: found[name] for who, found in peers.items() if not who.startswith(OURS)}
            best = max(rivals, key=lambda who: rivals[who])
            ratios.append(ours[name] / rivals[best])
            notes.append(f"{size}, {workload}: {ratios[-1]:.2f} x {best}")
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


def _measure(size: str, names: list[str], known: dict[str, tuple[str, str]], threads: int, repeats: int) -> list[Peer]:
    """Start the peers one after the other (each warms up alone), then let them take turns."""
    peers: list[Peer] = []
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        _checkpoint(size, checkpoint)
        try:
            for name in names:
                who, dtype = known[name]
                print(f"{size}: {name} starts and warms up", file=sys.stderr, flush=True)
                peers.append(_start(name, who, dtype, checkpoint, threads, Path(scratch)))
            for repeat in range(repeats):
                for workload in WORKLOADS:
                    for peer in peers:
                        peer.measure(workload, 100 + repeat)
        finally:
            for peer in peers:
                peer.process.kill()
                peer.process.wait()
    return peers


def _start(name: str, who: str, dtype: str, checkpoint: Path, threads: int, scratch: Path) -> Peer:
    if who == "vllm":
        command = [str(VLLM), "-m", "bench.vllm_peer", str(checkpoint), str(threads), dtype]
    else:
        command = [sys.executable, "-m", "bench.engine_peer", who, str(checkpoint), str(threads), dtype]
    # empty caches: what an engine compiles is part of its cold start
    own = scratch / name.replace(" ", "-")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "XDG_CACHE_HOME": str(own / "cache")}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"), "VLLM_CACHE_ROOT": str(own / "vllm")}
    log = own.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    peer = Peer(name, process, log)
    peer.cold_s = peer.answer()["cold_s"]
    return peer


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
