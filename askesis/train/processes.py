"""A trainer whose work is done by a group of other processes: see `train.distributed`, and `train.worker`."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from askesis.train.losses import Loss
from askesis.types import AskesisError, CheckpointError, Floats, Sample

ADDRESS, KEY = "ASKESIS_TRAINER", "ASKESIS_TRAINER_KEY"
_LAST = 3000  # characters of what processes said that an error tells


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSpec:
    """What each process makes. checkpoint: a folder that all of them read; teacher: likewise.

    loss: a function that can be pickled, as those of `train.losses` and partials of them. optimisers, trainer: as of
    `Optimisers` and `Trainer`. compute: type of products, `bfloat16` say; parameters and optimiser are float32.
    """

    checkpoint: Path
    loss: Loss
    optimisers: Mapping[str, Any]
    trainer: Mapping[str, Any] = field(default_factory=dict)
    teacher: Path | None = None
    compute: str = "float32"


class TrainerProcesses:
    """`Trainer`'s door. The weights are elsewhere: `refresh` brings them into a model here.

    count: processes to start on this machine. address: HOST:PORT instead, to wait there for a group that others start
    (torchrun on several nodes, Ray): `environment` says what it needs, and `wait` waits. log: where started ones write;
    words: what those said last that others started.
    Raises `AskesisError` if the group cannot begin, and later where it ends or an order fails.
    """

    def __init__(
        self,
        spec: TrainerSpec,
        *,
        count: int = 0,
        address: str = "",
        log: Path | None = None,
        words: Callable[[], str] | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        if bool(count) == bool(address):
            raise AskesisError("TrainerProcesses: expected either count, of processes to start, or address, to wait at")
        self._spec, self._timeout_s, self._words = spec, timeout_s, words
        self._scratch = tempfile.TemporaryDirectory(prefix="askesis-trainer-")
        key = secrets.token_bytes(32)
        self._address = address or str(Path(self._scratch.name) / "orders")
        self._log = log or Path(self._scratch.name) / "log"
        self._listener = Listener(place(self._address), authkey=key)
        self.environment = {ADDRESS: self._address, KEY: key.hex()}
        self._group: subprocess.Popen[bytes] | None = None
        self._link: Connection[Any, Any] | None = None
        if count:
            self._start(count)
            self.wait()

    def _start(self, count: int) -> None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        with self._log.open("ab") as output:
            self._group = subprocess.Popen(
                [*torchrun, "-m", "askesis.train.worker"],
                env=os.environ | self.environment | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Until the group has joined and loaded its model. Raises `AskesisError` if that takes longer than it may."""
        taken: list[Connection[Any, Any]] = []

        def accept() -> None:
            with contextlib.suppress(OSError, EOFError):
                taken.append(self._listener.accept())

        waiting = threading.Thread(target=accept, daemon=True)
        waiting.start()
        until = time.monotonic() + self._timeout_s
        while not taken:
            waiting.join(0.1)
            if self._group is not None and self._group.poll() is not None:
                raise self._ended("before it began")
            if not taken and (time.monotonic() > until or not waiting.is_alive()):
                self.close()
                words = "" if self._words is None else f"; its last words:\n{self._words()}"
                raise AskesisError(f"no group of trainers came to {self._address} within {self._timeout_s:g} s{words}")
        self._link = taken[0]
        try:
            self._order("build", self._spec)
        except AskesisError:
            self.close()
            raise

    # -- orders ------------------------------------------------------------------------------------------------------

    def step(self, samples: Sequence[Sample], *, progress: float = 0.0, version: int | None = None) -> dict[str, float]:
        """As `Trainer.step`."""
        figures: dict[str, float] = self._order("step", samples, progress=progress, version=version)
        return figures

    def logprobs(self, samples: Sequence[Sample]) -> list[Floats]:
        """As `Trainer.logprobs`."""
        found: list[Floats] = self._order("logprobs", samples)
        return found

    def save(self, folder: Path) -> None:
        """As `Trainer.save`, into a folder that the group's first process sees."""
        self._order("save", folder)

    def load(self, folder: Path) -> None:
        """As `Trainer.load`, from a folder that all processes see. Weights are not part of it."""
        self._order("load", folder)

    def refresh(self, model: nn.Module) -> None:
        """Give a model here the group's weights. Raises `CheckpointError` where they are not its own."""
        path = Path(self._scratch.name) / "weights.safetensors"
        self._order("weights", path)
        wanted = dict(model.named_parameters())
        with safe_open(path, framework="pt") as file, torch.no_grad():
            if set(file.keys()) != set(wanted):
                raise CheckpointError("the trainers' weights are those of another model")
            for name, parameter in wanted.items():
                parameter.copy_(file.get_tensor(name))
        path.unlink()

    def close(self) -> None:
        """End the group that was started here; one that others started ends by itself."""
        for one in (self._link, self._listener):
            if one is not None:
                one.close()
        self._link = None
        if self._group is not None:
            try:
                self._group.wait(20)
            except subprocess.TimeoutExpired:
                self._group.terminate()
                self._group.wait()
        self._scratch.cleanup()

    def __enter__(self) -> TrainerProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _order(self, order: str, *given: Any, **named: Any) -> Any:
        if self._link is None:
            raise AskesisError("the group of trainers has ended")
        try:
            self._link.send((order, given, named))
            error, result = self._link.recv()
        except (EOFError, OSError) as gone:
            raise self._ended(f"at {order!r}") from gone
        if error is not None:
            raise (CheckpointError if error.startswith("CheckpointError") else AskesisError)(f"trainers: {error}")
        return result

    def _ended(self, when: str) -> AskesisError:
        if self._group is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._group.wait(20)
        said = "(they write elsewhere)" if self._words is None else self._words()
        if self._log.exists():
            said = self._log.read_text(errors="replace")[-_LAST:]
        self.close()
        return AskesisError(f"the group of trainers ended {when}; its last words:\n{said}")


def place(address: str) -> str | tuple[str, int]:
    """Where to listen or connect to: a path, or HOST:PORT."""
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() and "/" not in address else address
