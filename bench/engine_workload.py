"""The two workloads of `bench engine`, for every engine alike; numpy only, for peers have their own environments.

sequences: 64 prompts of 16 to 32 tokens, each followed by exactly 128 sampled tokens.
conversation: 64 episodes of 6 turns; a prompt of 48 to 80 tokens; each turn samples until one of 15 stop tokens (about
one token in 40) or 24 tokens, then an observation of 24 tokens is appended. All at temperature 1, untruncated.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.peer import questions, say

SEQUENCES, NEW_TOKENS = 64, 128
EPISODES, TURNS, TURN_TOKENS, OBSERVATION = 64, 6, 24, 24
STOP = list(range(1, 16))


@dataclass(frozen=True)
class Conversation:
    """One episode: its prompt, and what is observed after each turn."""

    prompt: list[int]
    observations: list[list[int]]


def sequences(seed: int, vocab: int) -> list[list[int]]:
    """The prompts of the first workload."""
    rng = np.random.default_rng(seed)
    return [rng.integers(20, vocab, size=rng.integers(16, 33)).tolist() for _ in range(SEQUENCES)]


def conversations(seed: int, vocab: int) -> list[Conversation]:
    """The episodes of the second."""
    rng = np.random.default_rng(seed)
    return [
        Conversation(
            rng.integers(20, vocab, size=rng.integers(48, 81)).tolist(),
            [rng.integers(20, vocab, size=OBSERVATION).tolist() for _ in range(TURNS)],
        )
        for _ in range(EPISODES)
    ]


def serve(workloads: dict[str, Callable[[int], int]], started: float) -> None:
    """A peer's process: warm up on every workload, then run those that are asked for.

    A workload takes a seed and gives the number of sampled tokens.
    """
    for seed in (1, 2):
        for workload in workloads.values():
            workload(seed)
        if seed == 1:
            cold = time.time() - started
    gc.collect()
    gc.freeze()  # or the collector, of whichever engine, goes through all that was imported again and again
    say({"cold_s": cold})
    for asked in questions():
        begun = time.perf_counter()
        tokens = workloads[asked["workload"]](asked["seed"])
        say({"tokens": tokens, "seconds": time.perf_counter() - begun})
