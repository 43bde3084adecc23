"""Everything that a run needs, made from its recipe: environment, agent, model, renderer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from askesis.agents import agent_for, load_agent
from askesis.chat import ChatRenderer, load_renderer
from askesis.envs import load_env
from askesis.envs.remote import RemoteEnv
from askesis.inference.remote import embedded
from askesis.loop import checkpoints
from askesis.loop.cluster import Cluster
from askesis.loop.engines import embedded_options, make_engine, vllm_elsewhere
from askesis.loop.faults import FaultPlan, FaultyEngine
from askesis.loop.fresh import fresh_model, learn_tokenizer
from askesis.loop.reception import reception_of
from askesis.loop.recipe import Recipe
from askesis.loop.source import demonstrate
from askesis.loop.threads import physical_cores
from askesis.models import ModelConfig, Qwen3, load_checkpoint
from askesis.rollout import Costs, EpisodeOptions, Reception
from askesis.types import Agent, ConfigError, Engine, Env, EnvError

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Prepared:
    """What a recipe names, made. source: the folder the model came from, None for a fresh one. threads: in all. faults:
    those that are put into the engine."""

    recipe: Recipe
    env: Env
    agent: Agent
    model: Qwen3
    renderer: ChatRenderer
    source: Path | None
    threads: int
    faults: FaultPlan | None = None
    cluster: Cluster | None = None

    @property
    def config(self) -> ModelConfig:
        """The model's dimensions."""
        return self.model.config

    @property
    def engine_threads(self) -> int:
        """Threads that sample: all, where sampling and training take turns."""
        rollout = self.recipe.rollout
        if not rollout.staleness:
            return self.threads
        return rollout.threads or max(1, self.threads // 2)

    @property
    def trainer_threads(self) -> int:
        """Threads that compute gradients."""
        return max(1, self.threads - self.engine_threads) if self.recipe.rollout.staleness else self.threads

    def engine(self) -> Engine:
        """The engine that the recipe asks for, on this model; or several elsewhere, which get its weights sent."""
        rollout, cluster = self.recipe.rollout, self.recipe.cluster
        if self.cluster is None or not cluster.engines:
            engine = make_engine(rollout, self.model, self.source, threads=self.engine_threads, cluster=cluster)
        else:
            threads = max(1, int(cluster.engine_cpus))
            if rollout.engine == "embedded":
                make = embedded(self.config, **embedded_options(rollout, threads=threads))
            else:
                make = vllm_elsewhere(rollout, self.model, self.source, threads=threads)
            engine = self.cluster.engine(make, rollout)
        return engine if self.faults is None else FaultyEngine(engine, self.faults)

    def sent(self) -> Mapping[str, Any]:
        """What an update has to bring to the engine: the weights, or nothing where it has the trainer's own."""
        rollout = self.recipe.rollout
        several = len(rollout.vllm.urls) > 1 or (self.cluster is not None and self.recipe.cluster.engines > 0)
        if not several and not rollout.staleness:
            return {}
        # a matrix that is tied comes once: in a cluster's store two names of it would be two matrices
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def options(self, *, temperature: float) -> EpisodeOptions:
        """How episodes are sampled, and when the machinery counts as hanging."""
        times = self.recipe.rollout.timeouts
        return EpisodeOptions(
            temperature=temperature,
            setup_s=times.setup_s,
            engine_s=times.engine_s,
            verify_s=times.verify_s,
            close_s=times.close_s,
        )

    @property
    def reception(self) -> Reception | None:
        """Where episodes are found by the agent's program, if it is one."""
        return reception_of(self.agent, self.renderer)

    def costs(self) -> Costs:
        """What thinking and turns cost."""
        reward = self.recipe.reward
        return Costs(
            thinking_token=reward.thinking_cost,
            turn=reward.turn_cost,
            on_success_only=reward.on_success_only,
            most=reward.most,
        )


async def prepare(recipe: Recipe, *, checkpoint: Path | None = None) -> Prepared:
    """Make what the recipe names. checkpoint: load the model from there instead (a run that goes on).

    Sets torch's threads. Raises `ConfigError`, `CheckpointError`, `EnvError`; the caller closes `env`.
    """
    threads = recipe.run.threads or physical_cores()
    torch.set_num_threads(threads)
    if recipe.agent.name:
        load_agent(recipe.agent.name, **recipe.agent.options)  # what is wrong with it is said before anything is loaded
    fresh = recipe.model.init is not None and checkpoint is None
    folder = None if fresh else checkpoint or checkpoints.resolve(recipe.model.checkpoint)
    env = load_env(recipe.env.name, **recipe.env.options)
    cluster: Cluster | None = None
    try:
        cluster = Cluster(recipe.cluster) if recipe.cluster.address else None
        if cluster is not None and recipe.cluster.envs:
            env = cluster.env(env, recipe.env.name, recipe.env.options)
        agent = agent_for(env, recipe.agent.name, **recipe.agent.options)
        if recipe.demonstrations is not None:
            demonstrate(recipe, env)
        if folder is None:
            assert recipe.model.init is not None
            learnt = await learn_tokenizer(recipe, env, agent)
            model = fresh_model(recipe.model.init, learnt, recipe.run.seed)
            renderer: ChatRenderer = learnt
        else:
            renderer = load_renderer(folder)
            model, _ = load_checkpoint(folder)
        _demand_reach(recipe, agent, renderer)
        if isinstance(env, RemoteEnv):
            await env.ready(recipe.cluster.patience_s)
    except BaseException:
        await close_env(env)
        if cluster is not None:
            cluster.close()
        raise
    return Prepared(
        recipe=recipe,
        env=env,
        agent=agent,
        model=model,
        renderer=renderer,
        source=folder,
        threads=threads,
        cluster=cluster,
    )


def _demand_reach(recipe: Recipe, agent: Agent, renderer: ChatRenderer) -> None:
    """Raise `ConfigError` for an agent whose program would have to reach this machine from another."""
    if recipe.cluster.address and recipe.cluster.envs and reception_of(agent, renderer) is not None:
        raise ConfigError(
            f"agent {agent.name!r} is a program that speaks to a gateway in this process, which a sandbox on another "
            "machine does not reach; set cluster.envs = 0"
        )


async def close_prepared(prepared: Prepared) -> None:
    """Close the environment, and leave the cluster. Raises `EnvError` where the environment cannot be closed."""
    try:
        await close_env(prepared.env)
    finally:
        if prepared.cluster is not None:
            prepared.cluster.close()


async def close_env(env: Env) -> None:
    """Close an environment. Raises `EnvError` where that fails."""
    try:
        await env.close()
    except Exception as error:
        raise EnvError(f"environment {env.name!r}: close() failed: {type(error).__name__}: {error}") from error


def run_async(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """`await main()` from code that is not asynchronous, also inside a notebook, whose event loop is running."""
    if not _loop_runs():
        return asyncio.run(main())
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(main()))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="askesis")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
