"""What probes stand on: the environment, some of its tasks, and episodes played on them by scripted policies.

Whatever a probe does is played through the real rollout, as a policy would: what it is paid, a policy would be paid.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from askesis.agents import load_agent
from askesis.audit.probe import Broken, Inconclusive, Skipped
from askesis.envs.policies import SUBMITS, NullPolicy
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, plain_renderer, run_episode, token_free
from askesis.types import (
    Env,
    Message,
    Policy,
    Split,
    State,
    Task,
    Thinking,
    ToolSpec,
    Trace,
    assistant,
)

MOST_WALL_S = 60.0  # of an episode
_AT_ONCE = 8
_FIRST = 20  # of many tasks

Actor = Callable[[Task, Sequence[ToolSpec]], Policy]
"""Makes the policy of one episode, given its task and what can be called in it."""


class Recited(Policy):
    """Says these messages, one after the other, whatever it hears; then it stops.

    helpers: what its sub-agents say, by what they have heard and said before; on anything else they stop.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self._left = list(messages)
        self.helpers: Mapping[str, Message] = {}

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next one."""
        return self._left.pop(0) if self._left else assistant()

    def sub_agent(self, name: str, specialist: str) -> Policy:
        """Goes by `helpers`."""
        return _Helper(self.helpers)


class _Helper(Policy):
    def __init__(self, known: Mapping[str, Message]) -> None:
        self._known = known

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        return self._known.get(_so_far(messages), assistant())


def _so_far(messages: Sequence[Message]) -> str:
    """A conversation as a key."""
    told = "\0".join(f"{message.role} {message.text}" for message in messages)
    return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()


@dataclass(slots=True)
class Ground:
    """One environment under audit.

    first: the split that episodes are played on; where it has no tasks, the other. count: how many tasks. seed: of all
    that is drawn. deadline: of the probe at hand, by `time.monotonic`. name, options: by which another process can load
    it; empty where it cannot. reference: a file of texts that its tasks should not repeat; empty for none.
    strangers: processes that this one had started before it was there, which are none of the environment's.
    helpers: what sub-agents said in the episodes that were played, for `Recited`.
    """

    env: Env
    seed: int = 0
    count: int = 12
    first: Split = "heldout"
    deadline: float = float("inf")
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""
    strangers: frozenset[int] = field(default_factory=lambda: children())
    specs: dict[str, Sequence[ToolSpec]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    helpers: dict[str, Message] = field(default_factory=dict)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def split(self, split: Split, *, seed: int | None = None, count: int | None = None) -> Sequence[Task]:
        """Some tasks of a split, for scripted policies: without bounds of tokens. Empty where it has none.

        Raises `Broken` where what comes are no tasks."""
        key = f"split {split} {seed} {count}"
        if key not in self.kept:
            found = self.drawn(split, seed=seed, count=count)
            self.kept[key] = [_bounded(token_free(task)) for task in found]
        tasks: Sequence[Task] = self.kept[key]
        return tasks

    def drawn(self, split: Split, *, seed: int | None = None, count: int | None = None) -> Sequence[Task]:
        """Tasks as the environment makes them, anew at each call. Raises `Broken`."""
        seed, count = self.seed if seed is None else seed, count or self.count
        where = f"tasks({split!r}, seed={seed}, limit={count})"
        try:
            found = list(self.env.tasks(split, seed=seed, limit=count))
        except Exception as error:
            raise Broken(f"{where} raised {type(error).__name__}: {error}") from error
        for task in found:
            if not isinstance(task, Task):
                raise Broken(f"{where} gave a {type(task).__name__}, expected a Task")
        return found

    def many(self, split: Split, most: int) -> Sequence[Task]:
        """`most` tasks as the environment makes them, or as many as can be made in a third of the time that is left: a
        probe that waits for more would be taken for an environment that hangs."""
        begun = time.monotonic()
        found = self.drawn(split, count=min(most, _FIRST))
        seconds = time.monotonic() - begun
        able = int(len(found) * self.left_s / (3 * seconds)) if self.left_s < float("inf") and seconds > 0 else most
        more = min(most, able)
        return self.drawn(split, count=more) if len(found) == _FIRST < more else found

    @property
    def tasks(self) -> Sequence[Task]:
        """Those that episodes are played on."""
        found = self.split(self.first) or self.split("train" if self.first == "heldout" else "heldout")
        if not found:
            raise Inconclusive("the environment has no tasks")
        return found

    def rng(self, *names: object) -> random.Random:
        """A source of chance of its own."""
        return random.Random("/".join(["audit", str(self.seed), *map(str, names)]))

    @property
    def left_s(self) -> float:
        """Seconds that the probe at hand still has."""
        return self.deadline - time.monotonic()

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def play(self, task: Task, actor: Actor, *, env: Env | None = None, seed: int = 0) -> Trace:
        """One episode."""
        told = _Telling(env or self.env)
        renderer = plain_renderer()
        speakers = PolicySpeakers(policy=lambda spec: self._taught(actor(spec.task, told.specs)), renderer=renderer)
        agent = load_agent(str(getattr(self.env, "harness", None) or "solo"))
        stage = Stage(speakers=speakers, renderer=renderer, env=told, agent=agent)
        spec = EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="audit", seed=seed)
        trace = await run_episode(spec, stage)
        self.specs[task.id] = told.specs
        for places in agents(trace)[1:]:
            messages = [trace.nodes[place].message for place in places]
            for at, place in enumerate(places):
                if trace.nodes[place].sampled:
                    self.helpers.setdefault(_so_far(messages[:at]), messages[at])
        return trace

    def _taught(self, policy: Policy) -> Policy:
        if isinstance(policy, Recited):
            policy.helpers = self.helpers
        return policy

    async def play_each(self, actor: Actor, tasks: Sequence[Task] | None = None, *, seed: int = 0) -> list[Trace]:
        """One episode on each task, some at once, in their order; fewer where the time is up, and none raises
        `Inconclusive`."""
        return await self.play_all([(task, actor) for task in (self.tasks if tasks is None else tasks)], seed=seed)

    async def play_all(self, pairs: Sequence[tuple[Task, Actor]], *, seed: int = 0, gaps: bool = False) -> list[Trace]:
        """One episode for each pair, as `play_each`; a task may be in several. Where the time is up, those are given
        that came before the first unfinished one; gaps: all that are finished."""
        found: list[Trace] = []
        for first in range(0, len(pairs), _AT_ONCE):
            if self.left_s <= 0 and found:
                break
            part = [
                asyncio.ensure_future(self.play(task, actor, seed=seed))
                for task, actor in pairs[first : first + _AT_ONCE]
            ]
            try:
                await asyncio.wait(part, timeout=max(0.0, min(self.left_s, threading.TIMEOUT_MAX)))
            finally:
                late = [one for one in part if not one.done()]
                for one in late:
                    one.cancel()
                await asyncio.gather(*late, return_exceptions=True)
            whole = part if gaps else part[: min(map(part.index, late), default=len(part))]
            found += [one.result() for one in whole if one not in late]
            if late:
                break
        if pairs and not found:
            raise Inconclusive("the time was up before an episode had ended")
        return found

    async def unpaid(self) -> list[Task]:
        """The tasks on which doing nothing is not paid: others tell nothing of what else is. Raises `Inconclusive`
        where there is none, or where the oracle, if there is one, does no better than doing nothing."""
        if "unpaid" not in self.kept:
            nothing = await self.play_each(lambda task, specs: NullPolicy(specs))
            self.kept["unpaid"] = [trace.task for trace in nothing if not trace.success]
        with contextlib.suppress(Skipped):
            await self.oracle()
        found: list[Task] = self.kept["unpaid"]
        if not found:
            raise Inconclusive("doing nothing is paid on every task")
        return found

    async def oracle(self) -> Sequence[Trace]:
        """The oracle's episodes, one a task. Raises `Skipped` where there is no oracle, `Inconclusive` where it does
        no better than doing nothing: then no other verdict could be trusted either."""
        if "oracle" not in self.kept:
            make: Any = getattr(self.env, "oracle", None)
            if make is None:
                raise Skipped("the environment has no oracle")
            traces = await self.play_each(lambda task, specs: make(task))
            nothing = await self.play_each(lambda task, specs: NullPolicy(specs))
            self.kept["oracle"] = traces, sum(t.success for t in traces), sum(t.success for t in nothing)
        traces, right, idle = self.kept["oracle"]
        if right <= idle:
            raise Inconclusive(f"the oracle succeeds in {right} of {len(traces)} episodes, doing nothing in {idle}")
        found: Sequence[Trace] = traces
        return found

    async def golden(self) -> list[Trace]:
        """The oracle's episodes that succeeded. Raises as `oracle`."""
        return [trace for trace in await self.oracle() if trace.success]

    async def tools(self, task: Task) -> Sequence[ToolSpec]:
        """What can be called on `task`."""
        if task.id not in self.specs:
            await self.play(task, lambda task, specs: NullPolicy(specs))
        return self.specs.get(task.id, ())


def children() -> frozenset[int]:
    """The processes that this one has started."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return frozenset(found)


def agents(trace: Trace) -> list[list[int]]:
    """The nodes of each agent's conversation, by their places: those of the one that began, then each sub-agent's. A
    conversation that goes on from fewer messages is the same agent's."""
    forks = {fork.root: fork for fork in trace.forks}
    whose: dict[int, int] = {}
    found: dict[int, list[int]] = {}
    for place, node in enumerate(trace.nodes):
        fork = forks.get(place)
        before = fork.origin if fork is not None and fork.kind == "compaction" else node.parent
        whose[place] = whose.get(before, place)
        found.setdefault(whose[place], []).append(place)
    return [found[first] for first in sorted(found)]


def said(trace: Trace) -> list[Message]:
    """What the policy of an episode said; without what its sub-agents did."""
    places = agents(trace)[0] if trace.nodes else []
    return [trace.nodes[place].message for place in places if trace.nodes[place].sampled]


def heard(trace: Trace) -> list[str]:
    """What tools told it, and then each of its sub-agents."""
    messages = [trace.nodes[place].message for places in agents(trace) for place in places]
    return [message.text for message in messages if message.role == "tool"]


def submits(specs: Sequence[ToolSpec]) -> ToolSpec | None:
    """The tool that submits, by its name."""
    return next((spec for name in SUBMITS for spec in specs if spec.name == name), None)


def _bounded(task: Task) -> Task:
    wall = min(task.limits.wall_s, MOST_WALL_S)
    return replace(task, limits=replace(task.limits, wall_s=wall, tool_s=min(task.limits.tool_s, wall)))


class _Telling:
    """The environment, noting what it offers: a policy is made right after that."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self.specs: Sequence[ToolSpec] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @property
    def name(self) -> str:
        return self._env.name

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        return self._env.tasks(split, seed=seed, limit=limit)

    async def setup(self, task: Task) -> State:
        return await self._env.setup(task)

    def tools(self, task: Task, state: State) -> Any:
        tools = self._env.tools(task, state)
        self.specs = [tool.spec for tool in tools]
        return tools

    async def verify(self, trace: Trace, state: State) -> Any:
        return await self._env.verify(trace, state)

    async def close(self) -> None:
        await self._env.close()
