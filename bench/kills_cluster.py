"""A Ray cluster on this machine for `bench kills`: a head that takes nothing, and two nodes that hold the actors."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.kills_store import Moment

NODES, CPUS = 2, 2
ENGINE, ENV = b"ray::EngineHost", b"ray::EnvHost"  # what Ray calls an actor's process


def ray_is_there() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("ray") is not None


class Machines:
    """Started when it is entered."""

    def __enter__(self) -> Machines:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(NODES):
            self._cluster.add_node(num_cpus=CPUS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._cluster.shutdown()

    def settings(self) -> dict[str, Any]:
        """The recipe's table."""
        return {
            **{"address": self._cluster.address, "envs": 1, "engines": 2, "silent_s": 20.0},
            **{"env_cpus": 0.5, "engine_cpus": 0.5},
        }

    def actors(self, *names: bytes) -> list[int]:
        """The processes that hold an actor of a run."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if file.read_bytes().startswith(names or (ENGINE, ENV)) and self._has(int(file.parent.name)):
                    found.append(int(file.parent.name))
        return found

    def _has(self, pid: int) -> bool:
        """Whether it belongs to this cluster, and not to another one on this machine."""
        session = self._cluster.head_node.get_session_dir_path().encode()
        with suppress(OSError):
            while pid > 1:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if session in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return stat[0] not in ("Z", "X")
                pid = int(stat[1])
        return False

    def kill(self, kind: str, rng: random.Random, moment: Callable[[], Moment]) -> Moment | None:
        """Kill an engine's process or a node, in whose place another is added. moment: where the run is.

        What that says just before; None where there is no engine now.
        """
        engines = self.actors(ENGINE)
        if not engines:
            return None
        hit = moment()
        if kind == "engine":
            with suppress(ProcessLookupError):
                os.kill(rng.choice(engines), signal.SIGKILL)
            return hit
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id))
        self._cluster.remove_node(rng.choice(nodes), allow_graceful=False)
        self._cluster.add_node(num_cpus=CPUS)
        return hit
