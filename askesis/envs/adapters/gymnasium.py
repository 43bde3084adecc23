"""`gymnasium:FrozenLake-v1`: any environment with reset and step, by one tool. So too `gymnasium:file.py:Class`.

Registered ones of Gymnasium, and classes or functions that make such (`gymnasium:package.module:Class`): those of GEM,
and older ones whose `step` gives four values. It lives in another process. Whether a step that raises or hangs, or an
environment that dies, is the environment's failure or the policy's doing is found out by taking the same actions again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, get_args

from askesis.envs.adapters.stepping import (
    Judging,
    Pay,
    Raising,
    Step,
    SteppedEnv,
    SteppedState,
    Stepper,
    step_tool,
    stepped_state,
)
from askesis.envs.adapters.workers import Refused, Worker, Workers
from askesis.tools.rendering import bounded
from askesis.types import ConfigError, EnvError, Limits, MissingExtra, State, Task, Tool

INSTALL = "pip install 'askesis[gymnasium]'"
Observe = Literal["auto", "ansi", "values", "both"]
Unfinished = Literal["auto", "sum"]
_WORKER = "askesis.envs.adapters.gym_worker"
_STEPS = 100  # where the environment sets no limit of its own
_AT_ONCE = 50  # starts whose first observations are asked for in one request
_ABOUT = 3000  # characters of a docstring
_PLAYS, _PLAYED = 32, 1000  # episodes of random play that say what leaving one costs, and their steps together


@dataclass(slots=True)
class _Remote:
    """One episode in a worker."""

    workers: Workers
    worker: Worker
    id: int
    step_s: float
    closed: bool = False

    async def step(self, action: Any) -> Step:
        try:
            answer = await self.worker.asked({"op": "step", "id": self.id, "action": action}, self.step_s)
        except Refused as error:
            return Step(text=str(error), refused=True)
        return Step(**answer)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            if self.worker.alive:
                await self.worker.asked({"op": "close", "id": self.id}, self.step_s)
        except (EnvError, TimeoutError, Refused):
            pass  # it is gone with its process, or with the end of that
        finally:
            self.workers.give(self.worker)


class GymnasiumEnv(SteppedEnv):
    """An environment of the Gymnasium kind. Options:

    kwargs: arguments of the environment. vary: a function that gives those of one task (`module:function`, called with
    a `random.Random`); without it tasks differ by their seed alone. prompt: what the agent is told, in place of the
    environment's docstring; the first observation follows. actions: names of the actions of a discrete space. observe:
    `ansi` shows the environment's drawing as text, `values` its observation, `both` both, `auto` the drawing where
    there is one. show: a function of observation and info that gives the text. output: characters of an observation.
    tell_reward: say each step's reward.

    pay: `return` pays the sum of the environment's rewards times `scale`, `success` pays 1 for a success. success_at:
    the sum from which an episode is one (default: what the environment is registered with). success_key: of the last
    step's `info`, in place of that. unfinished: what an episode is paid at most that the environment did not end: a
    number; `auto`, the least that random play comes to, where that is below 0; or `sum`, whatever it was paid until
    then. raising: see `SteppedEnv`. oracle, demonstrator: functions of a task that give a policy or a list of actions.

    max_turns: assistant messages of an episode (default: the steps that the environment is registered with, else 100).
    max_turn_tokens: of one. step_s, start_s: seconds that a step may take, and a start. workers: processes that
    episodes share; 0 gives each its own. Raises `ConfigError` for what does not fit, `MissingExtra` without Gymnasium.
    """

    package = "gymnasium"

    def __init__(
        self,
        name: str,
        *,
        kwargs: Mapping[str, Any] | None = None,
        vary: str = "",
        prompt: str = "",
        actions: Sequence[str] = (),
        observe: Observe = "auto",
        show: str = "",
        output: int = 2_000,
        tell_reward: bool = True,
        pay: Pay = "return",
        scale: float = 1.0,
        success_at: float | None = None,
        unfinished: float | Unfinished = "auto",
        raising: Raising = "replay",
        success_key: str = "",
        oracle: str = "",
        demonstrator: str = "",
        max_turns: int | None = None,
        max_turn_tokens: int = 512,
        step_s: float = 10.0,
        start_s: float = 60.0,
        workers: int = 2,
    ) -> None:
        _checked(
            name,
            observe=observe,
            output=output,
            step_s=step_s,
            start_s=start_s,
            workers=workers,
            unfinished=unfinished,
        )
        if len({*actions}) != len(actions):
            raise ConfigError(f"gymnasium: actions={list(actions)}: expected names, each of them once")
        self._wanted = {
            "target": name,
            "observe": observe,
            "actions": list(actions),
            "success_key": success_key,
            "output": output,
            "show": show,
        }
        self._prompt, self._tell_reward = prompt, tell_reward
        self._step_s, self._start_s = step_s, start_s
        self._numbers = itertools.count()
        self._workers = Workers(_WORKER, f"gymnasium:{name}", workers)
        self._replays = Workers(_WORKER, f"gymnasium:{name}", 0)  # where a step that failed is tried again
        super().__init__(
            f"gymnasium:{name}",
            kwargs=kwargs,
            vary=vary,
            judging=Judging(
                pay=pay,
                scale=scale,
                success_at=success_at,
                unfinished=None if isinstance(unfinished, str) else unfinished,
                says=bool(success_key),
            ),
            limits=Limits(max_turn_tokens=max_turn_tokens, wall_s=1800.0, tool_s=step_s + 5.0),
            oracle=oracle,
            demonstrator=demonstrator,
            raising=raising,
        )
        try:
            self._described(success_at, max_turns)
            if unfinished == "auto" and pay == "return":
                self._judging = replace(self._judging, unfinished=self._least())
        except BaseException:
            self._workers.close()
            raise

    def _described(self, success_at: float | None, max_turns: int | None) -> None:
        """Make the environment once, and take from it what the options leave open."""
        kwargs = self._start(random.Random(0))["kwargs"]
        try:
            found = self._asked({"op": "describe", "wanted": self._wanted, "kwargs": kwargs})
        except (Refused, EnvError, TimeoutError) as error:
            raise ConfigError(f"environment {self.name!r} could not be made with {kwargs}: {error}") from error
        self._about = (self._prompt or bounded(found["about"], _ABOUT)).strip()
        self._schema: Mapping[str, Any] = found["schema"]
        if success_at is None and found["success_at"] is not None:
            self._judging = replace(self._judging, success_at=float(found["success_at"]))
        steps = max_turns or found["max_steps"] or _STEPS
        self._limits = replace(self._limits, max_turns=int(steps))

    def _least(self) -> float | None:
        """The least that random play comes to in as many steps as an agent has; None where that is not below 0."""
        rng = random.Random(f"{self.name}/unfinished")
        starts = [self._start(rng) for _ in range(_PLAYS)]
        asked = {"op": "returns", "wanted": self._wanted, "starts": starts, "most": _PLAYED}
        try:
            returns = self._asked(asked | {"steps": self._limits.max_turns})["returns"]
        except (Refused, EnvError, TimeoutError) as error:
            raise ConfigError(
                f"environment {self.name!r}: {error}, in the random play that says what an episode is paid that is not "
                "played to its end: set options.unfinished (a number, or 'sum' for what it was paid until then)"
            ) from error
        least = min(returns, default=0.0)
        return least if least < 0 else None

    def _asked(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked outside of episodes."""
        worker = self._workers.take()
        try:
            return worker.ask(asked, self._start_s)
        finally:
            self._workers.give(worker)

    def _told(self, starts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
        told: list[tuple[str, Mapping[str, Any]]] = []
        for at in range(0, len(starts), _AT_ONCE):
            part = starts[at : at + _AT_ONCE]
            try:
                texts = self._asked({"op": "firsts", "wanted": self._wanted, "starts": part})["texts"]
            except (Refused, TimeoutError) as error:
                raise EnvError(f"{self.name}: no first observations: {error}") from error
            for start, text in zip(part, texts, strict=True):
                told.append((f"{self._about}\n\n{text}".strip() or "Begin.", {**start, "first": text}))
        return told

    async def setup(self, task: Task) -> SteppedState:
        """The environment, reset by the task's seed.

        Raises `EnvError` where that fails, or shows something else than when the task was made.
        """
        missing = [key for key in ("seed", "kwargs", "first") if key not in task.data]
        if missing:
            raise EnvError(f"{self.name}: task {task.id} has no {', '.join(missing)} in its data; was it made here?")
        remote, schema = await self._opened(self._workers, task)
        return SteppedState(remote, schema=schema, tell_reward=self._tell_reward, raising=self._raising)

    async def _fresh(self, task: Task) -> Stepper:
        """In a process of its own, which may hang or die."""
        return (await self._opened(self._replays, task))[0]

    async def _opened(self, workers: Workers, task: Task) -> tuple[_Remote, Mapping[str, Any]]:
        """An episode in one of these processes, and the schema of its actions. Raises `EnvError`."""
        worker, number = workers.take(), next(self._numbers)
        remote = _Remote(workers, worker, number, self._step_s)
        asked = {"op": "open", "id": number, "wanted": self._wanted}
        try:
            found = await worker.asked(
                asked | {"kwargs": task.data["kwargs"], "seed": task.data["seed"]}, self._start_s
            )
            if found["text"] != task.data["first"]:
                raise EnvError(
                    f"{self.name}: reset(seed={task.data['seed']}) showed {found['text']!r:.200}, and "
                    f"{task.data['first']!r:.200} when the task was made: it does not follow its seed"
                )
        except (Refused, TimeoutError) as error:
            await remote.close()
            raise EnvError(f"{self.name}: task {task.id} could not be set up: {error}") from error
        except BaseException:
            await remote.close()
            raise
        return remote, found["schema"]

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """step."""
        state = stepped_state(state)
        return (step_tool(state, state.schema),)

    async def close(self) -> None:
        """Stop the processes."""
        self._workers.close()
        self._replays.close()


def _checked(
    name: str, *, observe: str, output: int, step_s: float, start_s: float, workers: int, unfinished: float | str
) -> None:
    if isinstance(unfinished, str) and unfinished not in get_args(Unfinished):
        raise ConfigError(f"gymnasium: unfinished={unfinished!r}: expected a number, 'auto' or 'sum'")
    if observe not in get_args(Observe):
        raise ConfigError(f"gymnasium: observe={observe!r}: expected one of {', '.join(get_args(Observe))}")
    if output < 1 or workers < 0 or not (step_s > 0 and start_s > 0):
        raise ConfigError(
            f"gymnasium: output={output}, step_s={step_s}, start_s={start_s}, workers={workers}: expected numbers "
            "above 0 (workers: 0 for one process an episode)"
        )
    if ":" not in name and find_spec("gymnasium") is None:
        raise MissingExtra(f"gymnasium:{name} needs the package gymnasium, which is not installed: {INSTALL}")
