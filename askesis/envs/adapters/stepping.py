"""Environments of the reset/step kind as tasks, one tool and a reward: what the adapters of such libraries share.

A task is a seed and arguments. What the environment pays is summed up here, in the trusted process; whoever steps it is
a `Stepper`, which stands for an environment that lives in another process or behind a URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from askesis.envs.adapters.hooks import hook, scripted
from askesis.envs.policies import RandomPolicy
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Outcome,
    Policy,
    Reward,
    Session,
    Split,
    State,
    Task,
    Thinking,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    user,
)

Pay = Literal["return", "success"]
Raising = Literal["replay", "end", "infrastructure"]
_HELDOUT = 8  # one start in so many is held out
_OTHERS = 4  # other actions that are tried where the first one of an episode has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step gave. success: what the environment itself says about it, where it says anything.

    refused: nothing was done, since the action is none; `text` says why.
    """

    text: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    refused: bool = False


class Stepper(Protocol):
    """One episode of somebody else's environment, after its reset."""

    async def step(self, action: Any) -> Step:
        """Take an action. Raises `EnvError` where the environment fails, `TimeoutError` where it does not answer."""
        ...

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        ...


@dataclass(slots=True)
class SteppedState:
    """One episode. returned: the sum of its rewards. schema: of its actions, where that is the episode's own.

    raising: see `SteppedEnv`. taken: the actions so far, without those that were refused. failed: what the environment
    did on the last of them in place of a step; empty for nothing.
    """

    stepper: Stepper
    schema: Mapping[str, Any] = field(default_factory=dict)
    tell_reward: bool = True
    raising: Raising = "replay"
    returned: float = 0.0
    taken: list[Any] = field(default_factory=list)
    last: Step | None = None
    failed: str = ""
    closed: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def steps(self) -> int:
        """How many there were, without one that has failed."""
        return len(self.taken) - bool(self.failed)

    @property
    def over(self) -> bool:
        """Whether the environment has ended the episode."""
        return self.last is not None and (self.last.terminated or self.last.truncated)

    async def act(self, action: Any) -> ToolResult:
        """Take an action; what the agent reads of it, and the outcome where the episode ends with it."""
        async with self._turn:
            if self.over or self.failed:
                return ToolResult(text="error: the episode is over", error=True)
            try:
                step = await taken(self.stepper, action)
            except (TimeoutError, EnvError) as error:
                self.taken.append(action)
                self.failed = str(error)
                return ToolResult(text="", error=True, end=self._failure(error))
            if step.refused:
                return ToolResult(text=f"error: {step.text}", error=True)
            self.taken.append(action)
            self.last, self.returned = step, self.returned + step.reward
        return ToolResult(text=self._told(step), end=_end(step))

    def _failure(self, error: Exception) -> Outcome:
        """Whose doing it is that the environment has failed, as far as is known before it is tried again."""
        late = isinstance(error, TimeoutError)
        if self.raising == "infrastructure":
            return Outcome(by="environment", reason="timeout" if late else "error", detail=self.failed)
        return Outcome(by="policy", reason="hung" if late else "raised", detail=self.failed)

    def _told(self, step: Step) -> str:
        parts = [step.text]
        if self.tell_reward:
            parts.append(f"reward: {step.reward:g}")
        if step.terminated or step.truncated:
            parts.append("The episode is over." if step.terminated else "The episode was cut off.")
        return "\n".join(part for part in parts if part)

    async def close(self) -> None:
        """Let go of the environment. Idempotent."""
        if not self.closed:
            self.closed = True
            await self.stepper.close()


async def taken(stepper: Stepper, action: Any) -> Step:
    """A step whose reward is a number. Raises as `Stepper.step` does, and `EnvError` for a reward that is none."""
    step = await stepper.step(action)
    if not math.isfinite(step.reward):
        raise EnvError(f"the reward of a step is {step.reward}")
    return step


def _end(step: Step) -> Outcome | None:
    if step.terminated:
        return Outcome(by="policy", reason="terminated")
    return Outcome(by="limit", reason="truncated") if step.truncated else None


@dataclass(frozen=True, slots=True)
class StepTool:
    """The tool that takes an action. argument: the name of the one argument that the action is; empty where the
    arguments together are the action."""

    state: SteppedState
    spec: ToolSpec
    argument: str = "action"

    def action(self, args: Mapping[str, Any]) -> Any:
        """What a call with these arguments does."""
        return args[self.argument] if self.argument else dict(args)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return await self.state.act(self.action(args))


@runtime_checkable
class Acting(Protocol):
    """A tool that takes an action."""

    def action(self, args: Mapping[str, Any]) -> Any:
        """What a call with these arguments does."""
        ...


def step_tool(state: SteppedState, schema: Mapping[str, Any], description: str = "Take a step.") -> StepTool:
    """`step(action)`, where `schema` is the action's."""
    parameters = {"type": "object", "properties": {"action": dict(schema)}, "required": ["action"]}
    if "$defs" in schema:  # references are read from the top
        action = {key: value for key, value in schema.items() if key != "$defs"}
        parameters |= {"properties": {"action": action}, "$defs": schema["$defs"]}
    return StepTool(state, ToolSpec(name="step", description=description, parameters=parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How an episode is paid and counted.

    pay: what the reward is: the sum of the environment's rewards (times `scale`), or success alone. success_at: the
    sum from which an episode counts as a success. says: the environment itself says whether it was one. Where there is
    neither, an episode succeeds that the environment ended and that was paid more than 0. No episode succeeds that the
    environment did not end. unfinished: what such a one is paid at most, in place of a higher sum, so that it does not
    pay to stop, or to make the environment fail, before a step costs; None pays the sum.
    """

    pay: Pay = "return"
    scale: float = 1.0
    success_at: float | None = None
    says: bool = False
    unfinished: float | None = None

    def __post_init__(self) -> None:
        if self.pay not in ("return", "success"):
            raise ConfigError(f"pay={self.pay!r}: expected 'return' (the environment's rewards) or 'success'")
        if not math.isfinite(self.scale) or (self.success_at is not None and math.isnan(self.success_at)):
            raise ConfigError(f"scale={self.scale}, success_at={self.success_at}: expected finite numbers")
        if self.unfinished is not None and not math.isfinite(self.unfinished):
            raise ConfigError(f"unfinished={self.unfinished}: expected a finite number")

    def rewards(self, state: SteppedState) -> list[Reward]:
        """`success` 1 or 0, `return` and the number of steps."""
        last = state.last
        if not state.over:
            success = False
        elif self.says:
            success = last is not None and bool(last.success)
        elif self.success_at is not None:
            success = state.returned >= self.success_at
        else:
            success = last is not None and last.terminated and state.returned > 0
        by_return = self.pay == "return"
        returned = state.returned
        if not state.over and self.unfinished is not None:
            returned = min(returned, self.unfinished)
        return [
            Reward(name="success", value=float(success), weight=0.0 if by_return else 1.0),
            Reward(name="return", value=returned, weight=self.scale if by_return else 0.0),
            Reward(name="steps", value=float(state.steps), weight=0.0),
        ]


class SteppedEnv:
    """What such environments have in common: their tasks, their verdict and their scripted policies.

    vary: names a function that gets a `random.Random` and gives the arguments of one task's environment, beside
    `kwargs`; tasks are then held out by their arguments, and by their seed elsewhere. oracle, demonstrator: name
    functions of a task (and, for the second, `seed` and options) that give a `Policy`, or a list of actions.

    raising: what becomes of an episode on an action of which the environment raises, hangs or dies, or gives a reward
    that is no number. `replay` takes the same actions again in a fresh one: where that fails at the same place, the
    policy has ended the episode, and is paid what it had; else the machinery has. `end` always takes it for the
    policy's doing, `infrastructure` never.
    """

    def __init__(
        self,
        name: str,
        *,
        kwargs: Mapping[str, Any] | None,
        vary: str,
        judging: Judging,
        limits: Limits,
        oracle: str,
        demonstrator: str,
        raising: Raising,
    ) -> None:
        if raising not in get_args(Raising):
            raise ConfigError(f"{name}: raising={raising!r}: expected one of {', '.join(get_args(Raising))}")
        self.name, self._raising = name, raising
        self.verify_s = 2 * limits.wall_s  # as much again as an episode may take, which a verdict may have to repeat
        self._passed: list[Any] = []  # an action that a fresh environment took, once there is one
        self._kwargs = dict(kwargs or {})
        self._vary: Callable[[random.Random], Mapping[str, Any]] | None = hook(vary, "vary") if vary else None
        self._judging, self._limits = judging, limits
        if oracle:
            self.oracle: Callable[[Task], Policy] = scripted(oracle, "oracle")
        if demonstrator:
            self.demonstrator: Callable[..., Policy] = scripted(demonstrator, "demonstrator")
        _plain(self._kwargs, f"{name}: kwargs")

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000), fewer where `vary` gives no more. Held out is what the hash of a start says."""
        wanted = 1000 if limit is None else limit
        rng, starts = random.Random(f"{self.name}/{split}/{seed}"), list[dict[str, Any]]()
        for _ in range(100 * wanted + 1000):
            if len(starts) == wanted:
                break
            start = self._start(rng)
            if (_number(start["kwargs"] if self._vary else start["seed"]) % _HELDOUT == 0) == (split == "heldout"):
                starts.append(start)
        return [
            Task(env=self.name, prompt=prompt, data=data, limits=self._limits, split=split)
            for prompt, data in self._told(starts)
        ]

    def _start(self, rng: random.Random) -> dict[str, Any]:
        """One start: its seed, and the arguments of the environment."""
        seed = rng.randrange(2**31)
        if self._vary is None:
            return {"seed": seed, "kwargs": self._kwargs}
        try:
            varied = dict(self._vary(random.Random(rng.randrange(2**62))))
        except Exception as error:
            raise EnvError(f"{self.name}: the function `vary` failed: {type(error).__name__}: {error}") from error
        _plain(varied, f"{self.name}: what `vary` gives")
        return {"seed": seed, "kwargs": self._kwargs | varied}

    def _told(self, starts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
        """The prompt and the data of each start."""
        raise NotImplementedError

    async def setup(self, task: Task) -> SteppedState:
        """The environment, at the beginning of a task. Raises `EnvError`."""
        raise NotImplementedError

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """Those that take actions, and others."""
        raise NotImplementedError

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success`, `return` and `steps`, as `Judging` has them; what the environment paid until the end, however that
        came. Raises `EnvError` where the environment failed, and not because of the actions."""
        own = stepped_state(state)
        await own.close()
        if not own.failed:
            self._passed = own.taken[:1] or self._passed
        elif own.raising == "replay":
            await self._blamed(trace.task, own)
        return self._judging.rewards(own)

    async def _blamed(self, task: Task, state: SteppedState) -> None:
        """Raise `EnvError` unless the actions are why the environment has failed: they make a fresh one fail at the
        same place, and not everything does."""
        if not await self._fails(task, state.taken):
            raise EnvError(f"{self.name}: it failed, and not when the same actions were taken again: {state.failed}")
        if len(state.taken) > 1:
            return  # those before the last did not
        for action in self._others(task, state):
            if action != state.taken[0] and await self._fails(task, [action]) is False:
                return
        raise EnvError(f"{self.name}: it fails on every first action that was tried: {state.failed}")

    async def _fails(self, task: Task, actions: Sequence[Any]) -> bool | None:
        """Whether a fresh environment fails on the last of these actions; None where it does not come to take it."""
        stepper = await self._fresh(task)
        try:
            for number, action in enumerate(actions, 1):
                try:
                    step = await taken(stepper, action)
                except (TimeoutError, EnvError):
                    return True if number == len(actions) else None
                if step.refused or (number < len(actions) and (step.terminated or step.truncated)):
                    return None
            return False
        finally:
            await stepper.close()

    async def _fresh(self, task: Task) -> Stepper:
        """An environment at the beginning of a task, of which no episode depends. Raises `EnvError`."""
        return (await self.setup(task)).stepper

    def _others(self, task: Task, state: SteppedState) -> Iterator[Any]:
        """Actions that a fresh environment should take: one that another did, and legal ones."""
        yield from self._passed
        tools = {one.spec.name: one for one in self.tools(task, state) if isinstance(one, Acting)}
        policy = RandomPolicy([one.spec for one in tools.values()], seed=0)
        for _ in range(_OTHERS):
            for call in policy.act([user(task.prompt)], Thinking()).tool_calls:
                yield tools[call.name].action(call.arguments)


def stepped_state(state: State) -> SteppedState:
    """The state that `setup` made. Raises `EnvError` for another."""
    if not isinstance(state, SteppedState):
        raise EnvError(f"got a state of type {type(state).__name__}, expected the one from `setup`")
    return state


def _number(value: Any) -> int:
    return int(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16], 16)


def _plain(value: Any, what: str) -> None:
    """Raise `ConfigError` for what is no plain JSON: it becomes part of a task."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: expected plain JSON values: {error}") from error
    if not same:
        raise ConfigError(f"{what}: expected plain JSON values (lists, no tuples; texts as keys), got {value!r:.200}")
