"""What a run will do, resolved before the first token is sampled: lengths, tools, the first prompt, sizes, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from askesis.loop.fresh import ToolWatch
from askesis.loop.reception import reception_of
from askesis.loop.recipe import Recipe
from askesis.loop.stream import all_thinkings, derived_seed, limited, tasks_of
from askesis.rollout import EpisodeSpec, Roller, Speaker
from askesis.types import (
    Agent,
    Completion,
    ConfigError,
    EngineError,
    Env,
    EnvError,
    Message,
    OnTokens,
    Renderer,
    Sampling,
    Thinking,
    TokenIds,
    ToolSpec,
)

if TYPE_CHECKING:
    from askesis.models import ModelConfig

_PROBED = 16  # tasks of each split whose first prompt is made


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes, estimated: weights, gradients and optimiser state, the engine's cache, activations of one batch."""

    weights: int
    training: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.training + self.cache + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A resolved run.

    audit: what is made of the environment's audit. renderer: the family that writes its messages. longest_prompt:
    tokens, over `prompts` first prompts;
    longest_episode: what limits allow then.
    """

    env: str
    agent: str
    model: str
    renderer: str
    parameters: int
    tools: Sequence[ToolSpec]
    first_prompt: str
    longest_prompt: int
    prompts: int
    max_turns: int
    max_turn_tokens: int
    context_length: int
    episodes_per_step: int
    threads: int
    memory: Memory
    warnings: Sequence[str]
    audit: str = ""


async def survey(recipe: Recipe, env: Env, agent: Agent, renderer: Renderer) -> tuple[list[TokenIds], ToolWatch]:
    """First prompts of some tasks of both splits in every mode, made just as the run will make them.

    Raises `EnvError` if there are no tasks, one of them is in both splits, or cannot be set up.
    """
    shown = recipe.demonstrations
    modes = all_thinkings(shown.modes if shown else recipe.rollout.modes)
    reception = reception_of(agent, renderer)
    probed = _PROBED if reception is None else 1  # to start a program takes a while
    tasks = tasks_of(env, "train", seed=derived_seed(recipe.run.seed, "tasks", 0), limit=probed)
    if recipe.eval.tasks:
        known = {task.id for task in tasks}
        heldout = tasks_of(env, "heldout", seed=recipe.eval.seed, limit=probed)
        for task in heldout:
            if task.id in known:
                raise EnvError(
                    f"environment {env.name!r}: task {task.id} ({task.prompt[:60]!r}) is in 'train' and in 'heldout': "
                    "what it is trained on says nothing about what it has learned"
                )
        tasks += heldout
    probe, watched = _Probe(), ToolWatch(agent)
    specs = [
        EpisodeSpec(task=limited(task, recipe.rollout.limits), thinking=mode, group=f"{i}/{mode.mode}", seed=0)
        for i, task in enumerate(tasks)
        for mode in modes
    ]
    traces = await Roller(probe, renderer, env, watched, retries=0, reception=reception).run(specs)
    for trace in traces:
        outcome = trace.outcome
        if outcome.by == "engine" and _ENOUGH in outcome.detail:
            continue
        raise EnvError(
            f"environment {env.name!r}: an episode of task {trace.task.id} does not come to its first turn: "
            f"{outcome.by}, {outcome.reason}: {outcome.detail}"
        )
    return probe.prompts, watched


_ENOUGH = "the first prompt is all that was wanted"


class _Probe:
    """Speakers that note the first prompt and say nothing."""

    def __init__(self) -> None:
        self.prompts: list[TokenIds] = []

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        return _Silent(self.prompts)


class _Silent:
    context_length = 2**30

    def __init__(self, prompts: list[TokenIds]) -> None:
        self._prompts = prompts

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        self._prompts.append(np.array(tokens))
        raise EngineError(_ENOUGH)

    async def say(
        self,
        tokens: TokenIds,
        messages: Sequence[Message],
        thinking: Thinking,
        sampling: Sampling,
        *,
        branch: int,
        on_tokens: OnTokens,
    ) -> Completion:
        return await self.speak(tokens, messages, thinking, sampling)

    def spawn(self, name: str, specialist: str) -> Speaker:
        return self

    def close(self) -> None:
        """Nothing is held."""


async def make_plan(
    recipe: Recipe,
    *,
    env: Env,
    agent: Agent,
    renderer: Renderer,
    config: ModelConfig,
    model: str,
    threads: int,
    optimiser_floats: float,
    batch_tokens: int,
) -> Plan:
    """Resolve everything. optimiser_floats: numbers kept for each parameter; batch_tokens: most in one forward pass.

    Raises `ConfigError` where a length does not fit, `EnvError` where a task cannot be set up.
    """
    from askesis.models import count_parameters

    prompts, watched = await survey(recipe, env, agent, renderer)
    longest = max(len(prompt) for prompt in prompts)
    rollout = recipe.rollout
    limits = limited(tasks_of(env, "train", seed=recipe.run.seed, limit=1)[0], rollout.limits).limits
    warnings = _check_lengths(
        longest, rollout.context_length, config.context_length, limits.max_turns, limits.max_turn_tokens
    )
    parameters = count_parameters(config).total
    shown = recipe.demonstrations
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * rollout.context_length
    rows = max(rollout.slots, min(4 * rollout.slots, 2**30 // row))
    most = batch_tokens if rollout.context_length <= batch_tokens else 2 * rollout.context_length  # in a forward pass
    wide = config.num_hidden_layers * (8 * config.hidden_size + 3 * config.intermediate_size) + 2 * config.vocab_size
    return Plan(
        env=env.name,
        agent=agent.name,
        model=model,
        renderer=renderer.name,
        parameters=parameters,
        tools=watched.tools,
        first_prompt=renderer.decode(prompts[0]),
        longest_prompt=longest,
        prompts=len(prompts),
        max_turns=limits.max_turns,
        max_turn_tokens=limits.max_turn_tokens,
        context_length=rollout.context_length,
        episodes_per_step=shown.per_step if shown else rollout.tasks_per_step * rollout.group_size,
        threads=threads,
        memory=Memory(
            weights=4 * parameters * (2 if rollout.staleness else 1),
            training=int(4 * parameters * (1 + optimiser_floats)),
            cache=0 if shown and not recipe.eval.tasks else rows * row,
            activations=4 * wide * most,
        ),
        warnings=[*warnings, *_check_parts(longest, batch_tokens)],
    )


def _check_lengths(longest: int, context: int, positions: int, turns: int, turn_tokens: int) -> list[str]:
    """What may be cut short. Raises `ConfigError` for what cannot work at all."""
    if context > positions:
        raise ConfigError(
            f"rollout.context_length is {context}, but the model has positions for {positions} tokens; lower it"
        )
    if longest >= context:
        raise ConfigError(
            f"the longest first prompt has {longest} tokens, rollout.context_length is {context}: no room to answer"
        )
    if longest + turn_tokens > context:
        return [
            f"a first turn may be cut short: the longest prompt has {longest} tokens, a turn may take {turn_tokens}, "
            f"the context holds {context}"
        ]
    if longest + turns * turn_tokens > context:
        return [
            f"{turns} turns of {turn_tokens} tokens after a prompt of {longest} would not fit into {context}; episodes "
            "that get there end by the limit `context`"
        ]
    return []


def _check_parts(longest: int, batch_tokens: int) -> list[str]:
    """Whether what a group shares leaves room for what its episodes do not."""
    if 2 * longest <= batch_tokens:
        return []
    return [
        f"train.batch_tokens is {batch_tokens}, less than twice the longest prompt ({longest} tokens): what a group's "
        "episodes share is computed again in every part of a minibatch; raise it where memory allows"
    ]
