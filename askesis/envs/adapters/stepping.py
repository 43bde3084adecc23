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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from askesis.envs.adapters.hooks import hook, scripted
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
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
)

Pay = Literal["return", "success"]
_HELDOUT = 8  # one start in so many is held out


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
    """One episode. returned: the sum of its rewards. schema: of its actions, where that is the episode's own."""

    stepper: Stepper
    schema: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Tool] = ()
    tell_reward: bool = True
    returned: float = 0.0
    steps: int = 0
    last: Step | None = None
    closed: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def over(self) -> bool:
        """Whether the environment has ended the episode."""
        return self.last is not None and (self.last.terminated or self.last.truncated)

    async def act(self, action: Any) -> ToolResult:
        """Take an action; what the agent reads of it, and the outcome where the episode ends with it."""
        async with self._turn:
            if self.over:
                return ToolResult(text="error: the episode is over", error=True)
            try:
                step = await self.stepper.step(action)
            except TimeoutError as error:
                return ToolResult(text="", error=True, end=_failed("timeout", error))
            except EnvError as error:
                return ToolResult(text="", error=True, end=_failed("error", error))
            if step.refused:
                return ToolResult(text=f"error: {step.text}", error=True)
            if not math.isfinite(step.reward):
                return ToolResult(text="", error=True, end=_failed("error", f"the reward of a step is {step.reward}"))
            self.last, self.steps, self.returned = step, self.steps + 1, self.returned + step.reward
        return ToolResult(text=self._told(step), end=_end(step))

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


def _failed(reason: str, error: object) -> Outcome:
    return Outcome(by="environment", reason=reason, detail=str(error))


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

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return await self.state.act(args[self.argument] if self.argument else dict(args))


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
    pay to stop before a step costs; None pays the sum.
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
    ) -> None:
        self.name = name
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

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success`, `return` and `steps`, as `Judging` has them; what the environment paid until the end, however that
        came."""
        await state.close()
        return self._judging.rewards(stepped_state(state))


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
