"""Doubles for the tests of rollout: an engine that speaks by a script, and a toy environment."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from askesis.chat import Qwen3Renderer, train_bpe
from askesis.types import (
    Completion,
    EngineError,
    Limits,
    Message,
    Outcome,
    Reward,
    Sampling,
    Task,
    Thinking,
    TokenIds,
    ToolCall,
    ToolResult,
    ToolSpec,
    assistant,
    ids,
)

ON, OFF = Thinking(enabled=True), Thinking(enabled=False)
RENDERER = Qwen3Renderer(train_bpe(["add 12 and 30, then submit", "Let me think."] * 3, 300))


def call(name: str, **arguments) -> ToolCall:
    return ToolCall(id="call_0", name=name, arguments=arguments)


def says(text: str = "", *calls: ToolCall, reasoning: str = "") -> Message:
    return assistant(text, reasoning=reasoning, tool_calls=calls)


@dataclass
class Request:
    """What an engine was asked, and what it gave."""

    tokens: TokenIds
    sampling: Sampling
    completion: Completion | None = None


class ScriptedEngine:
    """`script(turn, request)` gives a message, tokens, a completion or an error to raise; `seconds` it takes."""

    def __init__(self, script, *, seconds=0.0, slots=10**6, context_length=10**6):
        self.script, self.seconds, self.context_length = script, seconds, context_length
        self.version, self.busy_s, self.released = 0, 0.0, []
        self.requests: dict[str, list[Request]] = defaultdict(list)
        self._slots = asyncio.Semaphore(slots)

    async def generate(self, token_ids, sampling, *, session=None):
        request = Request(token_ids.copy(), sampling)
        self.requests[session].append(request)
        async with self._slots:
            seconds = self.seconds(request) if callable(self.seconds) else self.seconds
            if seconds:
                await asyncio.sleep(seconds)
                self.busy_s += seconds
            said = self.script(len(self.requests[session]) - 1, request)
        if isinstance(said, Exception):
            raise said
        request.completion = said if isinstance(said, Completion) else self.completion(said, sampling)
        return request.completion

    def completion(self, said, sampling):
        thinking = ON if isinstance(said, Message) and said.reasoning else OFF
        said = RENDERER.render_completion(said, thinking=thinking) if isinstance(said, Message) else ids(said)
        kept = said[: sampling.max_tokens]
        forced = np.zeros(len(kept), dtype=np.bool_)
        forced[1::5] = sampling.thinking is not None  # some tokens are forced, wherever a budget is set
        return Completion(
            token_ids=kept,
            logprobs=np.where(forced, 0, -np.arange(1, len(kept) + 1) / 7).astype(np.float32),
            forced=forced,
            finish_reason="stop" if len(kept) == len(said) else "length",
            policy_versions=np.full(len(kept), self.version, dtype=np.int32),
        )

    async def update_weights(self, weights, version):
        self.version = version

    def release(self, session):
        self.released.append(session)

    async def close(self):
        """Nothing to stop."""


def line(*messages: Message):
    """A script that says `messages` in turn."""
    return lambda turn, request: messages[turn]


@dataclass
class ToyState:
    closed: int = 0
    calls: list[str] = field(default_factory=list)

    async def close(self):
        self.closed += 1


NUMBER = {"type": "number"}


class ToyTool:
    def __init__(self, env, state, name, parameters):
        self.env, self.state = env, state
        self.spec = ToolSpec(name=name, description=name, parameters={"type": "object", **parameters})

    async def __call__(self, args, session):
        self.state.calls.append(self.spec.name)
        if self.spec.name == "add":
            return ToolResult(text=str(args["a"] + args["b"]))
        if self.spec.name == "wait":
            await asyncio.sleep(args["seconds"])
            return ToolResult(text="waited")
        if self.spec.name == "custom":
            return await self.env.custom(session)
        return ToolResult(text="submitted", end=Outcome(by="policy", reason="submitted"))


class ToyEnv:
    """add, wait, custom (whatever a test wants), submit. Each hook may be replaced by a test."""

    name = "toy"

    def __init__(self):
        self.states: list[ToyState] = []
        self.verified: list[str] = []

    def tasks(self, split, *, seed=0, limit=None):
        return [toy_task() for _ in range(limit or 1)]

    async def setup(self, task):
        self.states.append(ToyState())
        return self.states[-1]

    def tools(self, task, state):
        return [
            ToyTool(self, state, "add", {"properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]}),
            ToyTool(self, state, "wait", {"properties": {"seconds": NUMBER}}),
            ToyTool(self, state, "custom", {}),
            ToyTool(self, state, "submit", {}),
        ]

    async def custom(self, session):
        raise EngineError("not set up for this test")

    async def verify(self, trace, state):
        assert not state.closed
        self.verified.append(trace.id)
        return [Reward(name="success", value=float(trace.outcome.reason == "submitted"))]

    async def close(self):
        """Nothing is held."""


def toy_task(**limits) -> Task:
    return Task(env="toy", prompt="Add 12 and 30.", data={"answer": 42}, limits=Limits(**limits))
