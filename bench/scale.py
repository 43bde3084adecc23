"""What an episode costs the one thread that plays all of them: 10 to 10,000 at once, with a scripted engine.

Every episode takes `turns` turns (8) of some 40 tokens, each of which calls a tool whose result is some 40 tokens long,
is set up, verified and closed: agent, session, renderer, tokenizer, parsing, schema check, tool call, token record,
roller and the scheduler that a training run takes its groups from, all of it the real code. The engine and the tool
answer after a second each of virtual time, so that all episodes are in flight at once.

ours: at each number N of episodes, `cpu_ms_per_turn_N`, the median of some runs of at least 5,000 turns, and
`kib_per_episode_N`, what is allocated when all are in their last turn, counted by tracemalloc in a run of its own and
divided by N. `cpu_ms_per_turn`, `kib_per_episode`: the greatest of them; `flat`, `flat_memory`: the greatest over the
least. ratio: 0.3 ms over ours. Options: `times` (3), `most` (10000: the greatest N).
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.rollout import EpisodeOptions, EpisodeSpec, Roller, Scheduler
from askesis.types import (
    Completion,
    Limits,
    Message,
    OnTokens,
    Reward,
    Sampling,
    Session,
    Task,
    Thinking,
    TokenIds,
    Tool,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trace,
    assistant,
)
from bench.result import Options, Result
from bench.schedule_machine import in_virtual_time

GOAL = "at most 0.3 ms of CPU a turn and 64 KiB an episode, flat (a fifth apart at most) from 10 to 10,000 at once"
FLAT = 1.2
TURNS, MODE = 8, Thinking(enabled=False)
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}, "line": {"type": "integer"}}}
RESULT = "line 12: def total(items):\nline 13:     return sum(item.price * item.count for item in items)"
RENDERER = Qwen3Renderer(train_bpe([RESULT, "read_file path line shop/basket.py the file says"] * 3, 400))
CALL = ToolCall(id="call_0", name="read", arguments={"path": "shop/basket.py", "line": 12})


def _completion(message: Message) -> Completion:
    said = RENDERER.render_completion(message, thinking=MODE)
    return Completion(
        token_ids=said,
        logprobs=np.full(len(said), -1.0, dtype=np.float32),
        forced=np.zeros(len(said), dtype=np.bool_),
        finish_reason="stop",
        policy_versions=np.zeros(len(said), dtype=np.int32),
    )


_CALLS = _completion(assistant("Let me look.", tool_calls=(CALL,)))
_DONE = _completion(assistant("It is the sum of what is in the basket."))


class ScriptedEngine:
    """Calls the tool, seven times out of eight. It holds nothing of an episode but how often it has asked."""

    context_length = 2**20

    def __init__(self) -> None:
        self._asked: dict[str | None, int] = {}
        self._waiting: list[asyncio.Future[None]] = []

    async def generate(
        self, token_ids: TokenIds, sampling: Sampling, *, session: str | None = None, on_tokens: OnTokens | None = None
    ) -> Completion:
        """The next turn of `session`, after a second, with all that wait for theirs: an engine works in batches."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(1.0, self._answer)
        self._waiting.append(answered := loop.create_future())
        await answered
        asked = self._asked[session] = self._asked.get(session, 0) + 1
        said = _DONE if asked == TURNS else _CALLS
        return Completion(
            token_ids=said.token_ids.copy(),
            logprobs=said.logprobs.copy(),
            forced=said.forced.copy(),
            finish_reason="stop",
            policy_versions=said.policy_versions.copy(),
        )

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def update_weights(self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "") -> None:
        """There are none."""

    def release(self, session: str) -> None:
        """Forget it."""
        self._asked.pop(session, None)

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class _Read:
    spec: ToolSpec = field(default_factory=lambda: ToolSpec(name="read", description="Read.", parameters=PARAMETERS))

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        await asyncio.sleep(1.0)
        return ToolResult(text=f"line {session.seed}: {RESULT}")


class _State:
    async def close(self) -> None:
        """Nothing is held."""


class ScriptedEnv:
    """One tool."""

    name = "scripted"
    _tool = _Read()

    def tasks(self, split: str, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """Not asked for here."""
        return []

    async def setup(self, task: Task) -> _State:
        return _State()

    def tools(self, task: Task, state: _State) -> Sequence[Tool]:
        return [self._tool]

    async def verify(self, trace: Trace, state: _State) -> list[Reward]:
        assert trace.turns == TURNS and trace.outcome.by == "policy", trace.outcome
        return [Reward(name="success", value=1.0)]

    async def close(self) -> None:
        """Nothing is held."""


def _drawn(count: int) -> list[list[EpisodeSpec]]:
    """The episodes, in groups of eight."""
    limits = Limits(max_turns=TURNS, wall_s=1e6, tool_s=100.0)
    prompts = [f"What does total() in shop/basket{number}.py return?" for number in range(-(-count // 8))]
    tasks = [Task(env="scripted", prompt=prompt, limits=limits) for prompt in prompts]
    specs = [EpisodeSpec(task=tasks[i // 8], thinking=MODE, group=f"g{i // 8}", seed=i) for i in range(count)]
    return [specs[first : first + 8] for first in range(0, count, 8)]


async def _played(count: int, *, at: float = 0.0) -> float:
    """Play so many episodes at once. at: when to ask for the bytes that are allocated, in virtual seconds; those."""
    roller = Roller(
        ScriptedEngine(), RENDERER, ScriptedEnv(), load_agent("solo"), concurrency=count,
        options=EpisodeOptions(engine_s=1e6),
    )  # fmt: skip
    groups, allocated, before = _drawn(count), 0.0, 0
    wanted = len(groups)
    if at:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]

    def draw(most: int) -> list[list[EpisodeSpec]]:
        drawn = groups[:most]
        del groups[:most]
        return drawn

    def look() -> None:
        nonlocal allocated
        gc.collect()
        allocated = float(tracemalloc.get_traced_memory()[0] - before)

    if at:
        asyncio.get_running_loop().call_later(at, look)
    scheduler = Scheduler(roller, draw=draw, per_step=wanted, staleness=0)
    taken = await scheduler.take()
    assert taken is not None and len(taken.groups) == wanted and roller.progress.finished == count
    await scheduler.shutdown()
    return allocated


def cpu_ms(count: int) -> float:
    """CPU milliseconds a turn with so many episodes at once."""
    rounds = max(1, 5_000 // (count * TURNS))

    async def main() -> None:
        for _ in range(rounds):
            await _played(count)

    begun = time.process_time()
    in_virtual_time(main)
    return 1e3 * (time.process_time() - begun) / (rounds * count * TURNS)


def kib(count: int) -> float:
    """KiB an episode when so many are in their last turn."""
    tracemalloc.start()
    try:
        return in_virtual_time(lambda: _played(count, at=2 * TURNS - 1.5)) / count / 1024
    finally:
        tracemalloc.stop()


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    most, times = options.number("most", 10_000), options.number("times", 3)
    counts = [count for count in (10, 100, 1_000, 10_000) if count <= most]
    cpu_ms(100)  # all is imported, all caches are warm
    ours: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    for count in counts:
        found = [cpu_ms(count) for _ in range(times)]
        ours[f"cpu_ms_per_turn_{count}"] = round(statistics.median(found), 4)
        spread[f"cpu_ms_per_turn_{count}"] = (round(min(found), 4), round(max(found), 4))
        ours[f"kib_per_episode_{count}"] = round(kib(count), 1)
    turns = [ours[f"cpu_ms_per_turn_{count}"] for count in counts]
    sizes = [ours[f"kib_per_episode_{count}"] for count in counts]
    cpu, memory, flat, flat_memory = max(turns), max(sizes), max(turns) / min(turns), max(sizes) / min(sizes)
    return Result(
        name="scale",
        command="python -m bench scale",
        goal=GOAL,
        ours={
            "cpu_ms_per_turn": cpu,
            "kib_per_episode": memory,
            "flat": round(flat, 3),
            "flat_memory": round(flat_memory, 3),
            **ours,
        },
        peers={},
        spread={"askesis": spread},
        ratio=round(0.3 / cpu, 3),
        met=cpu <= 0.3 and memory <= 64 and max(flat, flat_memory) <= FLAT,
        notes=[
            "one thread; sandboxes, the store and the engine's own work are not part of it; the engine answers all "
            "that wait for it at once"
        ],
    )


def table(kept: Mapping[str, Any]) -> str:
    """For docs/scheduling.md."""
    ours, machine = kept["ours"], kept["machine"]
    counts = [key.rpartition("_")[2] for key in ours if key.startswith("cpu_ms_per_turn_")]
    rows = [
        f"| {int(count):,} | {ours[f'cpu_ms_per_turn_{count}']:.2f} | {ours[f'kib_per_episode_{count}']:.0f} |"
        for count in counts
    ]
    return "\n".join(
        [
            "| episodes at once | CPU ms a turn | KiB an episode |",
            "|---|---|---|",
            *rows,
            "",
            f"Goal: {kept['goal']}: {'met' if kept['met'] else 'not met'}. {machine['cpu']}, one thread, "
            f"{kept['date']}, `{kept['command']}`.",
        ]
    )
