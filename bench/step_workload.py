"""The two workloads of `bench step`, for every trainer alike; no torch, for peers have their own environments.

single: episodes of one turn of up to 128 tokens, without tools, from a fresh model; paid for the share of its even
characters. agentic: `repair` in thinking mode, up to 12 turns with tools in the sandbox, from a model that can act.
Each step is one optimiser step over all episodes. The rate is so small that the policy stays what it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.types import Limits, Reward, State, Task, Tool, Trace
from bench.peer import questions, say

WARM = 2  # steps before the first that counts
RATE, CLIP = 1e-6, (0.2, 0.28)
CONTEXT, TURNS, TURN_TOKENS = 1024, 12, 96
TURN_COST = 0.01  # so that rewards differ within nearly every group, and none is left out for want of that


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A step: tasks x group episodes. turn_tokens: most of one turn; turns: most of an episode."""

    env: str
    tasks: int
    group: int
    turns: int
    turn_tokens: int
    thinking: bool
    turn_cost: float

    @property
    def episodes(self) -> int:
        """In one step."""
        return self.tasks * self.group


WORK = {
    "single": Work(
        env="bench.step_workload:Evenness", tasks=4, group=8, turns=1, turn_tokens=128, thinking=False, turn_cost=0.0
    ),
    "agentic": Work(
        env="repair", tasks=8, group=8, turns=TURNS, turn_tokens=TURN_TOKENS, thinking=True, turn_cost=TURN_COST
    ),
}


class Nothing:
    """The state of an episode that holds none."""

    async def close(self) -> None:
        """Nothing to free."""


class Evenness:
    """One turn, no tools."""

    name = "evenness"

    def tasks(self, split: str, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """Distinct prompts."""
        limits = Limits(max_turns=1, max_turn_tokens=WORK["single"].turn_tokens)
        prompts = [f"Say something about {seed} and {number}, {split}." for number in range(limit or 1000)]
        return [Task(env=self.name, prompt=p, data={}, limits=limits, split=split) for p in prompts]

    async def setup(self, task: Task) -> State:
        """Nothing to prepare."""
        return Nothing()

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """None."""
        return ()

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """The share of even characters."""
        text = "".join(part.text for node in trace.nodes if node.sampled for part in node.message.parts)
        return [Reward(name="evenness", value=evenness(text))]

    async def close(self) -> None:
        """Nothing to free."""


def evenness(text: str) -> float:
    """The share of characters with an even code."""
    return sum(ord(letter) % 2 == 0 for letter in text) / max(1, len(text))


class Gate:
    """Lets a trainer go on step by step: `WARM` times freely, then whenever the benchmark asks for a step."""

    def __init__(self, started: float) -> None:
        self._started, self._begun, self._done = started, 0.0, 0

    def enter(self) -> None:
        """Before a step; waits, unless it is for warming up. Raises `EOFError` when no more is wanted."""
        if self._done >= WARM and next(questions(), None) is None:
            raise EOFError
        self._begun = time.perf_counter()

    def leave(self, figures: Mapping[str, Any]) -> None:
        """After a step."""
        seconds = time.perf_counter() - self._begun
        self._done += 1
        if self._done == WARM:
            say({"cold_s": time.time() - self._started})
        elif self._done > WARM:
            say({"seconds": seconds, **figures})
