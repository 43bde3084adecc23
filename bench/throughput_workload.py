"""The shapes, batches and sums of `bench throughput`, for every trainer alike; numpy only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.peer import questions, say

SHAPES: dict[str, dict[str, Any]] = {  # arXiv 2505.09388, table 1; `tiny` is for trying the command on a CPU
    "tiny": {"layers": 4, "heads": 4, "kv": 2, "head": 32, "hidden": 128, "inner": 512, "vocab": 2048},
    "0.6B": {"layers": 28, "heads": 16, "kv": 8, "head": 128, "hidden": 1024, "inner": 3072, "vocab": 151_936},
    "1.7B": {"layers": 28, "heads": 16, "kv": 8, "head": 128, "hidden": 2048, "inner": 6144, "vocab": 151_936},
    "4B": {"layers": 36, "heads": 32, "kv": 8, "head": 128, "hidden": 2560, "inner": 9728, "vocab": 151_936},
}
LENGTH = {"cpu": 512, "cuda": 4096}  # tokens of a sequence
TOKENS = {"cpu": 4096, "cuda": 65_536}  # of a step
MICRO = {"cpu": 4096, "cuda": 16_384}  # tokens in one forward pass, unless said otherwise
GROUP, PROMPT = 8, 4  # sequences that share a prompt, which is a quarter of each, in the tree workload
PEAKS = {  # dense bfloat16, floating-point operations a second, by the makers' data sheets; a part of the device's name
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
}


def sequences(kind: str, device: str, vocab: int, seed: int) -> list[np.ndarray]:
    """Of one step: `packed`: with nothing in common; `tree`: in groups that begin alike."""
    rng = np.random.default_rng(seed)
    length, count = LENGTH[device], TOKENS[device] // LENGTH[device]
    made = [rng.integers(0, vocab, length).astype(np.int32) for _ in range(count)]
    if kind == "tree":
        for number, one in enumerate(made):
            one[: length // PROMPT] = made[number // GROUP * GROUP][: length // PROMPT]
    return made


def operations(shape: Mapping[str, int], tokens: float, pairs: float, scored: float) -> float:
    """Floating-point operations of a forward and backward pass: 6 a weight and token; a pair of query and key 12 a
    number of a head's. tokens: that go through the layers; pairs: that attention looks at; scored: that carry loss.

    Nothing that is computed again counts.
    """
    hidden, queries = shape["hidden"], shape["heads"] * shape["head"]
    keys = shape["kv"] * shape["head"]
    layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * shape["inner"]
    attention = 12.0 * shape["layers"] * queries * pairs
    return 6.0 * (shape["layers"] * layer * tokens + hidden * shape["vocab"] * scored) + attention


def serve(step: Callable[[int], Mapping[str, float]], ready: float) -> None:
    """A peer's process: two steps to be warm, then one whenever it is asked."""
    step(0), step(1)
    say({"cold_s": time.time() - ready})
    for number, _ in enumerate(questions(), 2):
        say(step(number))
