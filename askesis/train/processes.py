"""A trainer whose work is done by a group of other processes: see `train.distributed`, and `train.worker`."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from askesis.train.door import Door
from askesis.train.link import Link, Silence
from askesis.train.losses import Loss
from askesis.types import AskesisError, CheckpointError, ConfigError, Floats, Sample

ADDRESS, KEY, WAIT = "ASKESIS_TRAINER", "ASKESIS_TRAINER_KEY", "ASKESIS_TRAINER_WAIT_S"
_LAST = 3000  # characters of what processes said that an error tells
_ENDS_S = 20.0  # until a group has ended by itself
_KILLS_S = 60.0  # until torchrun has killed what does not


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
    (torchrun on several nodes, Ray): `environment` says what it needs, and `wait` waits. key: a secret that those who
    start it know already, in hexadecimal digits. log: where started ones write;
    words: what those said last that others started; lost: whether one of them has ended, asked now and then while
    there is something to wait for.
    timeout_s: until the group is there. silent_s: seconds without a sign of life of its first process after which it is
    given up. wait_s: seconds that a process waits for the others on the way before it gives up, and all end.
    size: how many came, 0 before that.
    Raises `ConfigError` for an address that it cannot listen at, `AskesisError` if the group cannot begin, and later
    where it ends or an order fails. None waits for ever.
    """

    def __init__(
        self,
        spec: TrainerSpec,
        *,
        count: int = 0,
        address: str = "",
        key: str = "",
        log: Path | None = None,
        words: Callable[[], str] | None = None,
        lost: Callable[[], bool] | None = None,
        timeout_s: float = 600.0,
        silent_s: float = 120.0,
        wait_s: float = 1800.0,
    ) -> None:
        if bool(count) == bool(address):
            raise AskesisError("TrainerProcesses: expected either count, of processes to start, or address, to wait at")
        self._spec, self._timeout_s, self._silent_s = spec, timeout_s, silent_s
        self._words, self._lost, self._hangs = words, lost, False
        self._scratch = tempfile.TemporaryDirectory(prefix="askesis-trainer-")
        secret = bytes.fromhex(key) if key else secrets.token_bytes(32)
        self._address = address or str(Path(self._scratch.name) / "orders")
        self._log = log or Path(self._scratch.name) / "log"
        try:
            self._door = Door(self._address, secret)
        except ConfigError:
            self._scratch.cleanup()
            raise
        self.environment = {ADDRESS: self._address, KEY: secret.hex(), WAIT: f"{wait_s:g}"}
        self._group: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self.size = 0
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
                start_new_session=True,  # Ctrl-C is for who gives orders: the group is needed to end in order
            )

    def wait(self) -> None:
        """Until the group has joined and loaded its model. Raises `AskesisError` if that takes longer than it may."""
        until = time.monotonic() + self._timeout_s
        try:
            while (taken := self._door.come(0.1)) is None:
                if self._group is not None and self._group.poll() is not None:
                    raise self._ended("before it began")
                if time.monotonic() > until:
                    words = "" if self._words is None else f"; its last words:\n{self._words()}"
                    raise AskesisError(
                        f"no group of trainers came to {self._address} within {self._timeout_s:g} s{words}"
                    )
            self._link = Link(taken, silent_s=self._silent_s)
            self.size = self._order("build", self._spec)
        except BaseException:
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
        """Give a model here the group's weights, which come over the connection, from whichever machine.

        Raises `CheckpointError` where they are not its own. Where the group ends on the way, some are new and some old.
        """
        wanted = dict(model.named_parameters())
        there = self._order("shapes")
        if {name: shape for name, (shape, _) in there.items()} != {n: tuple(p.shape) for n, p in wanted.items()}:
            raise CheckpointError("the trainers' weights are those of another model")
        with self._asking("weights") as link, torch.no_grad():
            link.send(("weights", (), {}))
            error, _ = link.receive(look=self._look)
            if error is None:
                for name, (shape, dtype) in there.items():
                    here = torch.empty(shape, dtype=dtype)
                    link.receive_tensor(here, look=self._look)
                    wanted[name].copy_(here)
                error, _ = link.receive(look=self._look)
        _demand(error)

    def close(self) -> None:
        """End the group that was started here; one that others started ends by itself."""
        for one in (self._link, self._door):
            if one is not None:
                one.close()
        self._link = None
        if self._group is not None:
            try:
                self._group.wait(0.0 if self._hangs else _ENDS_S)
            except subprocess.TimeoutExpired:
                self._group.terminate()
                try:
                    self._group.wait(_KILLS_S)
                except subprocess.TimeoutExpired:
                    self._group.kill()
                    self._group.wait()
        self._scratch.cleanup()

    def __enter__(self) -> TrainerProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _order(self, order: str, *given: Any, **named: Any) -> Any:
        with self._asking(order) as link:
            link.send((order, given, named))
            error, result = link.receive(look=self._look)
        _demand(error)
        return result

    @contextlib.contextmanager
    def _asking(self, order: str) -> Iterator[Link]:
        """The connection. Where it fails, or waiting is cut short, the group ends, and why is said."""
        if self._link is None:
            raise AskesisError("the group of trainers has ended")
        try:
            yield self._link
        except Silence:
            self._hangs = True
            raise self._ended(f"at {order!r}, after no sign of life for {self._silent_s:g} s") from None
        except (EOFError, OSError) as gone:
            self._hangs = isinstance(gone, BlockingIOError)  # it takes nothing
            raise self._ended(f"at {order!r}") from gone
        except BaseException:  # an answer may come that nobody waits for, and would be taken for the next order's
            self._hangs = True  # it may be long at what it was ordered
            self.close()
            raise

    def _look(self) -> None:
        """Raise `EOFError` where a process has ended and the first does not know of it."""
        if (self._group is not None and self._group.poll() is not None) or (self._lost is not None and self._lost()):
            raise EOFError

    def _ended(self, when: str) -> AskesisError:
        if self._group is not None and not self._hangs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._group.wait(_ENDS_S)
        said = "(they write elsewhere)" if self._words is None else self._words()
        if self._log.exists():
            said = self._log.read_text(errors="replace")[-_LAST:]
        self.close()
        return AskesisError(f"the group of trainers ended {when}; its last words:\n{said}")


def _demand(error: str | None) -> None:
    """Raise what the group says of an order."""
    if error is not None:
        raise (CheckpointError if error.startswith("CheckpointError") else AskesisError)(f"trainers: {error}")
