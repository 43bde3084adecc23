"""The stream of prompts: which task stands at which place, in which thinking mode.

A pure function of the recipe and the place, so that a resumed run needs to know nothing but how far it had got (which
the ledger says).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from askesis.audit import impossible
from askesis.loop.recipe import LimitOverrides, Mode
from askesis.types import AskesisError, ConfigError, Env, EnvError, Split, Task, Thinking


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A task at its place in the stream. draws: how often it was drawn before, and neither trained nor dropped."""

    position: int
    task: Task
    thinking: Thinking
    draws: int = 0

    @property
    def group(self) -> str:
        """The name of the group of episodes that it makes; unique along a lineage."""
        return f"g{self.position:07d}" + (f".{self.draws}" if self.draws else "")


def derived_seed(*parts: object) -> int:
    """A seed of 63 bits out of any parts: those that differ in one share nothing."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()) >> 1


def thinkings_of(mode: Mode) -> list[Thinking]:
    """The mode as values that travel: one for each of its budgets."""
    budgets = (mode.budget,) if mode.budgets is None else mode.budgets
    return [
        Thinking(enabled=mode.thinking, budget=None if budget == "none" else budget, episode_budget=mode.episode_budget)
        for budget in budgets
    ]


def all_thinkings(modes: Iterable[Mode]) -> list[Thinking]:
    """Every mode and budget once, in the order of the recipe."""
    return list(dict.fromkeys(thinking for mode in modes for thinking in thinkings_of(mode)))


def limited(task: Task, overrides: LimitOverrides) -> Task:
    """The task with the limits that the recipe sets."""
    changes = overrides.model_dump(exclude_none=True)
    if not changes:
        return task
    return replace(task, limits=replace(task.limits, **changes))


def tasks_of(env: Env, split: Split, *, seed: int, limit: int) -> list[Task]:
    """The first `limit` of what `env.tasks` gives.

    Raises `EnvError` where that fails, gives something else than tasks, or nothing.
    """
    where = f"environment {env.name!r}: tasks({split!r}, seed={seed}, limit={limit})"
    try:
        tasks = list(islice(env.tasks(split, seed=seed, limit=limit), limit))
    except AskesisError:
        raise
    except Exception as error:
        raise EnvError(f"{where} failed: {type(error).__name__}: {error}") from error
    if not tasks:
        raise EnvError(f"environment {env.name!r} has no tasks in its {split!r} split")
    for task in tasks:
        if not isinstance(task, Task):
            raise EnvError(f"{where} gave a {type(task).__name__}, expected askesis.types.Task")
    return tasks


class ModeDeal:
    """Deals thinking modes and budgets out to places, so that after any number of places each has had its share.

    As near as can be: places are dealt to the mode that is furthest behind; ties go to the one named first.
    """

    def __init__(self, modes: Sequence[Mode]) -> None:
        total = sum(mode.share for mode in modes)
        self._modes = [
            (thinking, mode.share / total / len(budgets))
            for mode in modes
            for budgets in (thinkings_of(mode),)
            for thinking in budgets
        ]
        self._counts = [0] * len(self._modes)
        self._dealt: list[Thinking] = []

    def __getitem__(self, position: int) -> Thinking:
        while len(self._dealt) <= position:
            place = len(self._dealt) + 1
            behind = [share * place - count for (_, share), count in zip(self._modes, self._counts, strict=True)]
            chosen = max(range(len(behind)), key=lambda i: (round(behind[i], 9), -i))
            self._counts[chosen] += 1
            self._dealt.append(self._modes[chosen][0])
        return self._dealt[position]


class PromptStream:
    """Prompts by place. The environment is asked for `pool` tasks at a time, each time with another seed.

    An environment with fewer tasks gives those it has, in an order that changes from pass to pass. canaries: share of
    the places at which an impossible twin of the task stands.
    """

    def __init__(
        self,
        env: Env,
        modes: Sequence[Mode],
        *,
        pool: int,
        seed: int,
        limits: LimitOverrides,
        split: Split = "train",
        canaries: float = 0.0,
    ) -> None:
        self._env, self._pool, self._seed, self._limits, self._split = env, pool, seed, limits, split
        self._deal, self._canaries = ModeDeal(modes), canaries
        self._passes: dict[int, list[Task]] = {}
        self._length = 0

    def take(self, position: int, count: int) -> list[Prompt]:
        """The prompts at `position` and after it. Raises `EnvError` if the environment has none."""
        return [
            Prompt(position=at, task=self._task(at), thinking=self._deal[at])
            for at in range(position, position + count)
        ]

    def _task(self, position: int) -> Task:
        if not self._length:
            self._length = len(self._tasks(0))  # every pass is taken to be as long as the first
        number, place = divmod(position, self._length)
        tasks = self._tasks(number)
        task = tasks[place % len(tasks)]
        if derived_seed(self._seed, "canary", position) >= self._canaries * 2**63:
            return task
        twin = impossible(self._env, task)
        if twin is None:
            raise ConfigError(
                f"monitors.canaries: environment {self._env.name!r} has no impossible twins: task {task.id} has no "
                "value that decides under a name that is known. Give the environment a method impossible(task)"
            )
        return twin

    def _tasks(self, number: int) -> list[Task]:
        if number not in self._passes:
            seed = derived_seed(self._seed, "tasks", number)
            tasks = tasks_of(self._env, self._split, seed=seed, limit=self._pool)
            random.Random(seed).shuffle(tasks)
            self._passes = {number: [limited(task, self._limits) for task in tasks]}
        return self._passes[number]
