"""The processes of a trainer's group, started by Ray: one actor a process, on the machines of a cluster.

What they do is `askesis.train.worker`, as under torchrun. The first is on the machine of the run, since it reads the
run's checkpoints and writes them; the others need only reach it. A process that is lost ends its group, and the run
with it, in order: a group of any size goes on from the last checkpoint.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from askesis.inference.actors import Actor, Answer, Gone, Mortal, answer, require_ray
from askesis.inference.parents import end_with_parent
from askesis.types import TrainerError

_LAST = 2000  # characters of what a process said
_LOOK_S = 10.0  # between looks at whether all are there
_ANSWER_S = 60.0  # that an actor on a busy machine may take to say so


class RankHost(Mortal):
    """An actor with one process of a group."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the actor lives

    async def place(self) -> Answer:
        """This machine's address, and a port of it that is free."""

        async def look() -> tuple[str, int]:
            address: str = require_ray().util.get_node_ip_address()
            return address, free_port(address)

        return await answer(look())

    async def begin(self, environment: Mapping[str, str]) -> Answer:
        """Start the process with these variables beside this actor's own (which say which GPU it may use)."""

        async def start() -> int:
            return self._start(environment)

        return await answer(start())

    def _start(self, environment: Mapping[str, str]) -> int:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "askesis.train.worker"],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,  # no process of a group outlives its actor
        )
        return self._process.pid

    async def state(self) -> Answer:
        """Its exit code, None while it runs, and its last words."""

        async def look() -> tuple[int | None, str]:
            code = None if self._process is None else self._process.poll()
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - _LAST))
            return code, self._log.read().decode("utf-8", "replace").strip()

        return await answer(look())

    async def stop(self) -> Answer:
        """Kill the process."""

        async def kill() -> None:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

        return await answer(kill())


def free_port(address: str) -> int:
    """A port of this machine's `address` that nobody listens at."""
    with socket.socket() as found:
        found.bind((address, 0))
        port: int = found.getsockname()[1]
        return port


class Ranks:
    """`count` processes of a group, in actors. cpus, gpus: of each; the first one's CPUs are not counted.

    Raises `TrainerError` where the cluster has no room for them within `seconds`.
    """

    def __init__(self, count: int, *, cpus: float, gpus: float, seconds: float) -> None:
        self._seconds, self._looked = seconds, time.monotonic()
        self._actors = [
            Actor(
                RankHost,
                what=f"trainer {rank}",
                cpus=cpus if rank else 0.0,
                gpus=gpus,
                again=False,
                here=rank == 0,
            )
            for rank in range(count)
        ]

    def begin(self, environment: Mapping[str, str], *, threads: int) -> None:
        """Start all of them, with these variables."""
        try:
            host, port = self._actors[0].asked("place", seconds=self._seconds)
            for rank, actor in enumerate(self._actors):
                own = {
                    "RANK": str(rank),
                    "LOCAL_RANK": "0",
                    "WORLD_SIZE": str(len(self._actors)),
                    "MASTER_ADDR": host,
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": str(threads),
                }
                actor.asked("begin", {**environment, **own}, seconds=self._seconds)
        except Gone as error:
            self.close()
            raise TrainerError(
                f"the cluster has no room for {len(self._actors)} trainers within {self._seconds:g} s ({error}); see "
                "`ray status`, and lower train.processes or cluster.trainer_cpus"
            ) from error

    def lost(self) -> bool:
        """Whether one of them has ended; looked at now and then, however often it is asked."""
        if time.monotonic() - self._looked < _LOOK_S:
            return False
        try:
            return any(actor.asked("state", seconds=_ANSWER_S)[0] is not None for actor in self._actors)
        except Gone:
            return True
        finally:
            self._looked = time.monotonic()

    def last_words(self) -> str:
        """What each process said last, and how it ended."""
        told = []
        for rank, actor in enumerate(self._actors):
            try:
                code, words = actor.asked("state", seconds=10.0)
                told.append(f"trainer {rank} ({'running' if code is None else f'exit code {code}'}): {words}")
            except Gone as error:
                told.append(str(error))
        return "\n".join(told)

    def close(self) -> None:
        """End them all."""
        for actor in self._actors:
            actor.kill(restart=False)
