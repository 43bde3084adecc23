"""Policies that no model speaks for, over the tasks of an environment: what an oracle, a blind or an idle one gets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from askesis.agents import agent_for
from askesis.envs.policies import NullPolicy, RandomPolicy
from askesis.loop.evaluation import Exam, Examiner, demand_played
from askesis.loop.recipe import EvalSettings
from askesis.loop.results import Evaluation
from askesis.loop.stream import derived_seed, tasks_of
from askesis.rollout import Costs, EpisodeSpec, PolicySpeakers, TraceSink, plain_renderer, token_free
from askesis.types import (
    Agent,
    ConfigError,
    Env,
    Message,
    Policy,
    Reward,
    Specialist,
    Split,
    State,
    Task,
    Thinking,
    Tool,
    ToolSpec,
    Trace,
    nearest,
)

Actor = Callable[[EpisodeSpec, Sequence[ToolSpec]], Policy]
"""Makes the policy of one episode, given what the agent can call in it."""

_SEED = EvalSettings().seed
_ANYBODY = "*"


def actor(env: Env, name: str) -> Actor:
    """A policy by name: `oracle` and `demonstrator` as the environment has them, `random`, `null` (stops at once), or
    `null:HOW` as `NullPolicy` has it. Raises `ConfigError` for no such policy."""
    kind, _, how = name.partition(":")
    if kind == "null":
        return lambda spec, tools: NullPolicy(tools, how=how or "stop")  # type: ignore[arg-type]
    if name == "random":
        return lambda spec, tools: RandomPolicy(tools, seed=spec.seed)
    known = ("oracle", "demonstrator", "random", "null")
    if name not in known:
        raise ConfigError(f"no policy {name!r}{nearest(name, known)}: expected one of {', '.join(known)}")
    made: Any = getattr(env, name, None)
    if made is None:
        raise ConfigError(f"environment {env.name!r} has no {name}")
    if name == "oracle":
        return lambda spec, tools: made(spec.task)
    return lambda spec, tools: made(spec.task, seed=spec.seed)


async def play_policy(
    env: Env,
    policy: str | Actor,
    *,
    tasks: int | Sequence[Task] = 200,
    split: Split = "heldout",
    seed: int = _SEED,
    thinking: Thinking | None = None,
    agent: Agent | None = None,
    concurrency: int = 32,
    store: TraceSink | None = None,
) -> Evaluation:
    """Success of a scripted policy with its 95% interval, in `.rows[0].summary`. The environment stays open.

    policy: as in `actor`, or a function. tasks: how many of `split`, or which. thinking: none unless given. agent: the
    harness; None for the one that the environment wants. store: gets the traces. Bounds of tokens do not hold: what a
    policy writes has no tokens of its own. Raises `ConfigError`, and `EnvError` where no episode comes to an end that
    says something about the policy.
    """
    made = actor(env, policy) if isinstance(policy, str) else policy
    chosen = tasks_of(env, split, seed=seed, limit=tasks) if isinstance(tasks, int) else tasks
    agent = agent or agent_for(env)
    told = _Telling(env, agent, {})
    examiner = Examiner(
        renderer=plain_renderer(),
        env=told,
        agent=agent,
        costs=Costs(),
        concurrency=concurrency,
        store=store,
    )
    speakers = PolicySpeakers(
        policy=lambda spec: _Told(made, spec, told.specs[spec.task.id]), renderer=plain_renderer()
    )
    exam = Exam(
        tasks=[token_free(task) for task in chosen],
        modes=(thinking or Thinking(enabled=False),),
        temperatures=(1.0,),
        seed=seed,
    )
    evaluation = await examiner.examine(speakers, exam, name=policy if isinstance(policy, str) else "policy")
    demand_played(evaluation)
    return evaluation


class _Told(Policy):
    """A policy that knows what it can call, as a sub-agent too."""

    def __init__(self, made: Actor, spec: EpisodeSpec, offered: Mapping[str, Sequence[ToolSpec]], at: str = "") -> None:
        self._made, self._spec, self._offered = made, spec, offered
        self._policy = made(spec, offered[at])
        self._spawned = itertools.count(1)

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """What it says."""
        return self._policy.act(messages, thinking)

    def sub_agent(self, name: str, specialist: str) -> Policy:
        """As it says itself, else a fresh one, drawn anew."""
        make = getattr(self._policy, "sub_agent", None)
        if make is not None:
            made: Policy = make(name, specialist)
            return made
        spec = replace(self._spec, seed=derived_seed(self._spec.seed, "sub-agent", next(self._spawned)))
        return _Told(self._made, spec, self._offered, specialist or _ANYBODY)


@dataclass(frozen=True, slots=True)
class _Telling:
    """The environment, and what was last offered in an episode of each task, to its own agent (under "") and to each
    specialist (a sub-agent that none foresees: under `_ANYBODY`): a policy is made right after that."""

    env: Env
    agent: Agent
    specs: dict[str, Mapping[str, Sequence[ToolSpec]]]

    def __getattr__(self, name: str) -> Any:  # what not every environment has: specialists, an opening, replies
        return getattr(self.env, name)

    @property
    def name(self) -> str:
        return self.env.name

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        return self.env.tasks(split, seed=seed, limit=limit)

    async def setup(self, task: Task) -> State:
        return await self.env.setup(task)

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        tools = self.env.tools(task, state)
        specs = {tool.spec.name: tool.spec for tool in tools}
        foreseen = self.specialists(task, state)
        theirs = {name for one in foreseen for name in one.tools}
        offers: Any = getattr(self.agent, "offers", None)
        own = [spec for name, spec in specs.items() if name not in theirs]
        found = {"": [*own, *(() if offers is None else offers(foreseen))], _ANYBODY: own}
        self.specs[task.id] = found | {one.name: [specs[name] for name in one.tools] for one in foreseen}
        return tools

    def specialists(self, task: Task, state: State) -> Sequence[Specialist]:
        foresees: Any = getattr(self.env, "specialists", None)
        return () if foresees is None else foresees(task, state)

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        return await self.env.verify(trace, state)

    async def close(self) -> None:
        await self.env.close()
