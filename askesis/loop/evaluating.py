"""`askesis.evaluate`: a checkpoint, or a scripted policy, on the held-out tasks of an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from askesis.agents import load_agent
from askesis.envs import load_env
from askesis.loop.bundle import Bundle, load
from askesis.loop.display import Display
from askesis.loop.evaluation import Exam, Examiner, demand_played, heldout_tasks
from askesis.loop.prepared import close_env, run_async
from askesis.loop.recipe import EvalSettings
from askesis.loop.results import Evaluation
from askesis.loop.threads import physical_cores
from askesis.rollout import Costs, EngineSpeakers, EpisodeSpec, PolicySpeakers, Progress, Speakers, TraceSink
from askesis.types import ConfigError, Env, Policy, Renderer, Thinking

Which = bool | Thinking | Literal["both"]
_SEED = EvalSettings().seed


def evaluate(
    checkpoint: str | Path | Bundle,
    *,
    env: str | Env,
    tasks: int = 300,
    thinking: Which = "both",
    budget: int | None = None,
    temperature: float = 1.0,
    seed: int = _SEED,
    agent: str = "solo@1",
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
    environment, which stays open. thinking: one mode or `both`; budget: most tokens a turn may think. temperature 0 is
    greedy. threads: of torch; None takes the physical cores. store: keeps the traces. display: show how far it is.

    Raises `CheckpointError`, `ConfigError`, `EnvError`.
    """
    bundle = checkpoint if isinstance(checkpoint, Bundle) else load(checkpoint)
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
                name=str(bundle.path),
                tasks=tasks,
                modes=_modes(thinking, budget),
                temperature=temperature,
                seed=seed,
                concurrency=concurrency,
                store=store,
                display=display,
            )
        finally:
            await engine.close()

    return run_async(sit)


def evaluate_policy(
    policy: Callable[[EpisodeSpec], Policy],
    *,
    env: str | Env,
    renderer: Renderer,
    name: str = "policy",
    tasks: int = 300,
    thinking: Which = False,
    seed: int = _SEED,
    agent: str = "solo@1",
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
            name=name,
            tasks=tasks,
            modes=_modes(thinking, None),
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
    agent: str,
    *,
    name: str,
    tasks: int,
    modes: tuple[Thinking, ...],
    temperature: float,
    seed: int,
    concurrency: int,
    store: TraceSink | None,
    display: bool,
) -> Evaluation:
    harness = load_agent(agent)
    place = load_env(env, **(env_options or {})) if isinstance(env, str) else env
    try:
        exam = Exam(tasks=heldout_tasks(place, tasks, seed), modes=modes, temperatures=(temperature,), seed=seed)
        of = len(exam.tasks) * len(modes)
        with Display(quiet=not display) as shown:

            def on_progress(progress: Progress) -> None:
                shown.progress("evaluating", progress.finished, of)

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
            return evaluation
    finally:
        if isinstance(env, str):
            await close_env(place)


def _modes(thinking: Which, budget: int | None) -> tuple[Thinking, ...]:
    """Raises `ConfigError` for what is no mode, and for a budget that nothing would keep to."""
    if budget is not None and (thinking is False or isinstance(thinking, Thinking)):
        raise ConfigError(f"evaluate: budget={budget} has no use with thinking={thinking}: no turn would keep to it")
    if isinstance(thinking, Thinking):
        return (thinking,)
    if not isinstance(thinking, bool) and thinking != "both":
        raise ConfigError(f"evaluate: thinking={thinking!r}, expected True, False, 'both' or a Thinking")
    wanted = (True, False) if thinking == "both" else (thinking,)
    return tuple(Thinking(enabled=enabled, budget=budget if enabled else None) for enabled in wanted)
