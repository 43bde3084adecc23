"""What `bench schedule` runs on: a trace of agentic episodes, and a machine with a scripted engine, in virtual time.

The trace is made by a fixed seed: 320 groups of 8 episodes, each turn with the tokens that are decoded and the seconds
that its tool then takes, long-tailed both. The machine decodes `SLOTS` requests at `RATE` tokens a second each (prefill
is free), stops for `UPDATE_S` at an update of the weights, and trains a step in `TRAIN_S`. Episodes are played by the
real rollout code; only the model's words, the tools and the trainer are scripted, and sleeping takes no time.
"""

from __future__ import annotations

import asyncio
import csv
import heapq
import io
import math
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.rollout import EpisodeOptions, EpisodeSpec, Roller
from askesis.types import (
    Completion,
    Limits,
    Message,
    Outcome,
    Reward,
    Sampling,
    Session,
    Task,
    Thinking,
    TokenIds,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trace,
    assistant,
)

GROUPS, SIZE, PER_STEP = 320, 8, 8
SLOTS, RATE, FLYING = 64, 50.0, 256
TRAIN_S, UPDATE_S = 20.0, 1.0
MODE = Thinking(enabled=False)

T = TypeVar("T")
Turns = Sequence[tuple[int, float]]
"""An episode: tokens decoded and seconds of the tool, turn by turn."""


def trace_text() -> str:
    """The trace as a table: group, episode, turn, tokens, tool_s. The same every time, to the byte."""
    rng = random.Random(20261123)
    sigma = math.log(30) / 2.326  # lognormal with p99 = 30 x median
    file = io.StringIO(newline="")
    out = csv.writer(file)
    out.writerow(["group", "episode", "turn", "tokens", "tool_s"])
    for group in range(GROUPS):
        difficulty = rng.lognormvariate(0, 0.6)
        slow = rng.random() < 0.03
        for episode in range(SIZE):
            turns = max(1, min(40, round(6 * difficulty * rng.lognormvariate(0, 0.5))))
            for turn in range(turns):
                tokens = max(8, min(2048, round(rng.lognormvariate(math.log(110), 0.9))))
                tool = 0.0 if turn == turns - 1 else rng.lognormvariate(math.log(0.4), sigma) * (3 if slow else 1)
                out.writerow([group, episode, turn, tokens, f"{min(tool, 60):.4f}"])
    return file.getvalue()


def episodes() -> list[Turns]:
    """The trace by episode: those of group g are 8 g to 8 g + 7."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(GROUPS * SIZE)]
    for row in csv.DictReader(io.StringIO(trace_text())):
        found[int(row["group"]) * SIZE + int(row["episode"])].append((int(row["tokens"]), float(row["tool_s"])))
    return found


# -- time ------------------------------------------------------------------------------------------------------------


class _Instant(selectors.SelectSelector):
    """Nothing is waited for but the loop's own clock, which a wait moves on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("virtual time stands still: everybody waits and nothing is due")
        self.now += max(0.0, timeout)
        return []


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """`await main()` in a loop in which sleeping takes no time."""
    selector = _Instant()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    result: list[T] = []

    async def kept() -> None:  # asyncio makes a text of what the main task gives
        result.append(await main())

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(kept())
    return result[0]


# -- the machine -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Machine:
    """The scripted engine's slots and clock. by_priority: it serves the lowest `Sampling.priority` first, else whoever
    came first. decoded: when each turn was, for which group, and its tokens."""

    by_priority: bool
    version: int = 0
    decoded: list[tuple[float, int, int]] = field(default_factory=list)
    _free: int = SLOTS
    _line: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)
    _came: int = 0
    _stopped_s: float = 0.0  # of all updates that are over
    _resumed: asyncio.Event | None = None  # while one is on

    async def decode(self, tokens: int, priority: int, group: int) -> tuple[int, int]:
        """Wait for a slot and decode; the versions that sampled the first and the last token."""
        await self._slot(priority)
        try:
            await self._running_again()
            began = self.version
            end = self._clock() + tokens / RATE
            while (left := end - self._clock()) > 1e-9:
                if self._resumed is not None:
                    await self._running_again()
                else:
                    await asyncio.sleep(left)
            self.decoded.append((asyncio.get_running_loop().time(), group, tokens))
            return began, self.version
        finally:
            self._leave()

    async def update(self) -> None:
        """Weights of the next version: nothing decodes meanwhile."""
        self._resumed = asyncio.Event()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(UPDATE_S)
        self._stopped_s += asyncio.get_running_loop().time() - began
        self.version += 1
        resumed, self._resumed = self._resumed, None
        resumed.set()

    def _clock(self) -> float:
        """Seconds in which it decoded; not asked for while it is stopped, but by who then waits."""
        return asyncio.get_running_loop().time() - self._stopped_s

    async def _running_again(self) -> None:
        while self._resumed is not None:
            await self._resumed.wait()

    async def _slot(self, priority: int) -> None:
        if self._free:
            self._free -= 1
            return
        self._came += 1
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (priority if self.by_priority else 0, self._came, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        while self._line:
            _, _, future = heapq.heappop(self._line)
            if not future.done():
                future.set_result(None)
                return
        self._free += 1


# -- what plays ------------------------------------------------------------------------------------------------------

RENDERER = Qwen3Renderer(train_bpe(["work, then done"] * 3, 300))
_WORKS = RENDERER.render_completion(
    assistant("", tool_calls=(ToolCall(id="call_0", name="work", arguments={}),)), thinking=MODE
)
_DONE = RENDERER.render_completion(assistant("done"), thinking=MODE)


@dataclass(frozen=True, slots=True)
class ScriptedSpeakers:
    """The model: says what the trace has, in as many seconds as the trace's tokens take. Its own tokens are few."""

    machine: Machine
    trace: Sequence[Turns]

    def open(self, spec: EpisodeSpec, episode: str) -> _ScriptedSpeaker:
        """Of one attempt."""
        return _ScriptedSpeaker(self.machine, self.trace[spec.seed], spec.seed // SIZE)


@dataclass(slots=True)
class _ScriptedSpeaker:
    machine: Machine
    turns: Turns
    group: int
    taken: int = 0
    context_length: int = 2**20

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        count, _ = self.turns[self.taken]
        self.taken += 1
        first, last = await self.machine.decode(count, sampling.priority, self.group)
        said = _DONE if self.taken == len(self.turns) else _WORKS
        versions = np.full(len(said), first, dtype=np.int32)
        versions[-1] = last
        return Completion(
            token_ids=said,
            logprobs=np.full(len(said), -1.0, dtype=np.float32),
            forced=np.zeros(len(said), dtype=np.bool_),
            finish_reason="stop",
            policy_versions=versions,
        )

    async def say(self, *args: Any, **named: Any) -> Completion:
        raise NotImplementedError("nobody listens here")

    def spawn(self, name: str, specialist: str) -> _ScriptedSpeaker:
        raise NotImplementedError("nobody has sub-agents here")

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _State:
    calls: int = 0

    async def close(self) -> None:
        """Nothing is held."""


_SPEC = ToolSpec(name="work", description="Work.", parameters={"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class _Work:
    """The tool: takes as long as the trace says."""

    trace: Sequence[Turns]
    state: _State
    spec: ToolSpec = _SPEC

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        _, seconds = self.trace[session.seed][self.state.calls]
        self.state.calls += 1
        await asyncio.sleep(seconds)
        return ToolResult(text="worked")


@dataclass(frozen=True, slots=True)
class TraceEnv:
    """The environment: one task a group."""

    trace: Sequence[Turns]
    name: str = "trace"

    def tasks(self, split: str, *, seed: int = 0, limit: int | None = None) -> list[Task]:
        """Not asked for here."""
        return []

    async def setup(self, task: Task) -> _State:
        return _State()

    def tools(self, task: Task, state: _State) -> list[_Work]:
        return [_Work(self.trace, state)]

    async def verify(self, trace: Trace, state: _State) -> list[Reward]:
        assert trace.outcome == Outcome(by="policy", reason="stopped"), trace.outcome
        return [Reward(name="success", value=1.0)]

    async def close(self) -> None:
        """Nothing is held."""


def roller(machine: Machine, trace: Sequence[Turns]) -> Roller:
    """The real roller over the scripted parts."""
    return Roller(
        ScriptedSpeakers(machine, trace),
        RENDERER,
        TraceEnv(trace),
        load_agent("solo"),
        concurrency=FLYING,
        options=EpisodeOptions(engine_s=1e6),
    )


def specs(group: int) -> list[EpisodeSpec]:
    """The episodes of a group; their seeds are their places in the trace."""
    limits = Limits(max_turns=100, tool_s=1e4, wall_s=1e6)
    task = Task(env="trace", prompt="Work.", data={"group": group}, limits=limits)
    return [
        EpisodeSpec(task=task, thinking=MODE, group=f"g{group:04d}", seed=group * SIZE + place) for place in range(SIZE)
    ]
