"""A run over many machines: the recipe's `[cluster]`, as an environment and an engine that live elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from askesis.inference.actors import Actor, connect, require_ray
from askesis.inference.remote import MakeEngine
from askesis.loop.engines import routed
from askesis.loop.faults import FaultPlan
from askesis.loop.ranks import Ranks, free_port
from askesis.loop.recipe import ClusterSettings, Rollout
from askesis.train.processes import TrainerProcesses, TrainerSpec
from askesis.types import Engine, Env

_FROZEN = 10.0  # times `silent_s`: how long an injected fault has an actor hang
_CLOSE_S = 20.0  # for vLLM to end what it has started


class Cluster:
    """The Ray cluster of a run, joined. faults: what befalls its actors on purpose.

    Raises `MissingExtra` without Ray, `ConfigError` where there is no such cluster.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        self.faults: FaultPlan | None = None
        self._ranks: list[Ranks] = []
        self._own = connect(settings.address)

    def env(self, inner: Env, name: str, options: Mapping[str, Any]) -> Env:
        """The environment in actors; `inner` is the same one here."""
        from askesis.envs.remote import RemoteEnv

        settings = self.settings
        return RemoteEnv(
            inner,
            name,
            options,
            hosts=settings.envs,
            cpus=settings.env_cpus,
            silent_s=settings.silent_s,
            patience_s=settings.patience_s,
            before=self._before,
        )

    def engine(self, make: MakeEngine, rollout: Rollout) -> Engine:
        """Engines that `make` makes in actors, behind a router. They get their weights by updates."""
        from askesis.inference.remote import Depot, RemoteEngine

        settings, depot = self.settings, Depot()
        engines = [
            RemoteEngine(
                make,
                context_length=rollout.context_length,
                depot=depot,
                name=str(number),
                cpus=settings.engine_cpus,
                gpus=settings.engine_gpus,
                before=self._before,
                close_s=0.0 if rollout.engine == "embedded" else _CLOSE_S,
            )
            for number in range(settings.engines)
        ]
        return routed(engines, rollout, settings)

    def trainers(self, spec: TrainerSpec, count: int) -> TrainerProcesses:
        """A trainer's group over the machines. Raises `TrainerError` where there is no room for it."""
        settings, ray = self.settings, require_ray()
        host = ray.util.get_node_ip_address()
        ranks = Ranks(count, cpus=settings.trainer_cpus, gpus=settings.trainer_gpus, seconds=settings.patience_s)
        self._ranks.append(ranks)
        address = f"{host}:{free_port(host)}"
        group = TrainerProcesses(spec, address=address, words=ranks.last_words, lost=ranks.lost)
        try:
            ranks.begin(group.environment, threads=max(1, int(settings.trainer_cpus)))
        except BaseException:
            group.close()
            raise
        group.wait()
        return group

    async def _before(self, actor: Actor) -> None:
        """Let befall the actor what the plan has for it."""
        if self.faults is None:
            return
        met = self.faults.draw("node", actor.what)
        if met is None:
            return
        match met.kind:
            case "fail":
                actor.kill(restart=True)
            case "hang":
                actor.tell("freeze", _FROZEN * self.settings.silent_s)
            case "slow":
                actor.tell("freeze", met.slow_s)

    def close(self) -> None:
        """Leave the cluster, and end it if it is this process's own."""
        for ranks in self._ranks:
            ranks.close()
        if self._own:
            require_ray().shutdown()
