"""`askesis.evaluate`: a checkpoint, or a scripted policy, on the held-out tasks of an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from askesis.agents import agent_for
from askesis.chat import EffortTable, effort_value, load_effort, resolve, save_effort
from askesis.envs import load_env
from askesis.loop.bundle import Bundle, load
from askesis.loop.curve import effort_table, joined, named_efforts
from askesis.loop.display import Display
from askesis.loop.evaluation import Exam, Examiner, demand_played, heldout_tasks
from askesis.loop.prepared import close_env, run_async
from askesis.loop.recipe import EvalSettings
from askesis.loop.results import Evaluation
from askesis.loop.threads import physical_cores
from askesis.rollout import Costs, EngineSpeakers, EpisodeSpec, PolicySpeakers, Progress, Speakers, TraceSink
from askesis.types import Agent, ConfigError, Env, Policy, Renderer, Thinking

Which = bool | Thinking | Literal["both"]
_SEED = EvalSettings().seed


def evaluate(
    checkpoint: str | Path | Bundle,
    *,
    env: str | Env,
    tasks: int = 300,
    thinking: Which = "both",
    budget: int | None = None,
    budgets: Sequence[int | None] | None = None,
    efforts: Sequence[str | float] = (),
    keep_efforts: bool = False,
    temperature: float = 1.0,
    seed: int = _SEED,
    agent: str | Agent = "",
    agent_options: Mapping[str, Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    context_length: int = 1024,
    slots: int = 64,
    concurrency: int = 256,
    threads: int | None = None,
    store: TraceSink | None = None,
    display: bool = False,
) -> Evaluation:
    """Success of a checkpoint on held-out tasks, with Wilson's 95% intervals, by thinking mode.

    checkpoint: a name, a folder, a run's folder, or what `load` gave. env: a name (made with `env_options`) or an
    environment, which stays open. thinking: one mode or `both`; budget: most tokens a turn may think. budgets: several
    of them (None: no bound); the tasks are played at each, and at what `low`, `medium` and `high` effort then mean.
    keep_efforts: write what efforts mean beside the checkpoint. efforts: play at these, by what was written there.
    agent: a name, which gets `agent_options`, or what `askesis.agents.load_agent` gave; unset, what the environment
    wants. temperature 0 is greedy. threads: of torch; None takes the physical cores. store: keeps the traces. display:
    show how far it is.

    Raises `CheckpointError`, `ConfigError`, `EnvError`.
    """
    bundle = checkpoint if isinstance(checkpoint, Bundle) else load(checkpoint)
    if efforts:
        asked = _by_effort(bundle, efforts, alone=thinking == "both" and budget is None and budgets is None)
    else:
        asked = {}
    if keep_efforts and budgets is None:
        raise ConfigError("evaluate: keep_efforts has no use without budgets: nothing is measured that could be kept")
    modes = tuple(dict.fromkeys(asked.values())) if asked else _modes(thinking, budget, budgets)
    if any(mode.effort is not None for mode in modes):
        modes = tuple(resolve(mode, load_effort(bundle.path), checkpoint=bundle.path) for mode in modes)
    found: list[EffortTable] = []

    def follow(evaluation: Evaluation) -> dict[str, Thinking]:
        """What the efforts of a sweep of budgets mean."""
        if budgets is None or len(modes) < 2:
            return asked
        found.append(effort_table(evaluation))
        return named_efforts(found[-1])

    longest = bundle.config.context_length
    if context_length > longest:
        raise ConfigError(f"context_length is {context_length}, but the model has positions for {longest} tokens")
    torch.set_num_threads(threads or physical_cores())

    async def sit() -> Evaluation:
        engine = bundle.engine(slots=slots, context_length=context_length)
        try:
            return await _sit(
                EngineSpeakers(engine),
                bundle.renderer,
                env,
                env_options,
                agent,
                agent_options,
                name=str(bundle.path),
                tasks=tasks,
                modes=modes,
                temperature=temperature,
                seed=seed,
                concurrency=concurrency,
                store=store,
                display=display,
                follow=follow,
            )
        finally:
            await engine.close()

    evaluation = run_async(sit)
    if keep_efforts:
        save_effort(found[-1] if found else effort_table(evaluation), bundle.path)
    return evaluation


def evaluate_policy(
    policy: Callable[[EpisodeSpec], Policy],
    *,
    env: str | Env,
    renderer: Renderer,
    name: str = "policy",
    tasks: int = 300,
    thinking: Which = False,
    seed: int = _SEED,
    agent: str | Agent = "",
    agent_options: Mapping[str, Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    concurrency: int = 256,
    store: TraceSink | None = None,
) -> Evaluation:
    """The same for a scripted policy (oracle, demonstrator, blind guesser): what is cheap, to compare with.

    policy: makes the policy of one episode, as in `lambda spec: env.guesser(spec.task, seed=spec.seed, edits=2)`.
    renderer: counts the tokens. Raises as `evaluate` does.
    """

    async def sit() -> Evaluation:
        return await _sit(
            PolicySpeakers(policy=policy, renderer=renderer),
            renderer,
            env,
            env_options,
            agent,
            agent_options,
            name=name,
            tasks=tasks,
            modes=_modes(thinking, None, None),
            temperature=1.0,
            seed=seed,
            concurrency=concurrency,
            store=store,
            display=False,
        )

    return run_async(sit)


async def _sit(
    speakers: Speakers,
    renderer: Renderer,
    env: str | Env,
    env_options: Mapping[str, Any] | None,
    agent: str | Agent,
    agent_options: Mapping[str, Any] | None,
    *,
    name: str,
    tasks: int,
    modes: tuple[Thinking, ...],
    temperature: float,
    seed: int,
    concurrency: int,
    store: TraceSink | None,
    display: bool,
    follow: Callable[[Evaluation], Mapping[str, Thinking]] = lambda evaluation: {},
) -> Evaluation:
    """follow: the efforts to play after the modes, by name; those whose mode was played already are only named."""
    place = load_env(env, **(env_options or {})) if isinstance(env, str) else env
    try:
        harness = agent_for(place, agent, **(agent_options or {})) if isinstance(agent, str) else agent
        exam = Exam(tasks=heldout_tasks(place, tasks, seed), modes=modes, temperatures=(temperature,), seed=seed)
        counts = [0, len(exam.tasks) * len(modes)]  # played before, and to play
        with Display(quiet=not display) as shown:

            def on_progress(progress: Progress) -> None:
                shown.progress("evaluating", counts[0] + progress.finished, counts[1])

            examiner = Examiner(
                renderer=renderer,
                env=place,
                agent=harness,
                costs=Costs(),
                concurrency=concurrency,
                store=store,
                on_progress=on_progress,
            )
            evaluation = await examiner.examine(speakers, exam, name=name)
            demand_played(evaluation)
            named = follow(evaluation)
            further = tuple(dict.fromkeys(mode for mode in named.values() if mode not in modes))
            if further:
                counts[:] = counts[1], counts[1] + len(exam.tasks) * len(further)
                second = await examiner.examine(speakers, replace(exam, modes=further), name=name)
                evaluation = joined(evaluation, second)
            return replace(evaluation, efforts={effort: mode.mode for effort, mode in named.items()})
    finally:
        if isinstance(env, str):
            await close_env(place)


def _by_effort(bundle: Bundle, efforts: Sequence[str | float], *, alone: bool) -> dict[str, Thinking]:
    """What each effort means, by what was measured of the checkpoint. alone: nothing else says how to think."""
    if not alone:
        raise ConfigError("evaluate: efforts stand for modes and budgets: give them without thinking, budget, budgets")
    table = load_effort(bundle.path)
    return {str(one): resolve(Thinking(effort=effort_value(one)), table, checkpoint=bundle.path) for one in efforts}


def _modes(thinking: Which, budget: int | None, budgets: Sequence[int | None] | None) -> tuple[Thinking, ...]:
    """Raises `ConfigError` for what is no mode, and for a budget that nothing would keep to."""
    for name, value in (("budget", budget), ("budgets", budgets)):
        if value is not None and (thinking is False or isinstance(thinking, Thinking)):
            raise ConfigError(f"evaluate: {name}={value} has no use with thinking={thinking}: no turn would keep to it")
    if budgets is not None and (budget is not None or not budgets):
        raise ConfigError(f"evaluate: budgets={list(budgets)}, budget={budget}: give one budget, or several")
    if isinstance(thinking, Thinking):
        return (thinking,)
    if not isinstance(thinking, bool) and thinking != "both":
        raise ConfigError(f"evaluate: thinking={thinking!r}, expected True, False, 'both' or a Thinking")
    bounded = tuple(Thinking(budget=one) for one in dict.fromkeys((budget,) if budgets is None else budgets))
    without = (Thinking(enabled=False),)
    return {"both": (*bounded, *without), True: bounded, False: without}[thinking]
