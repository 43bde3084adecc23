"""A process of a trainer's group. Started by torchrun; takes orders from a `TrainerProcesses`:

    ASKESIS_TRAINER=HOST:PORT ASKESIS_TRAINER_KEY=HEX torchrun --nproc-per-node 8 -m askesis.train.worker

The first process is connected to who gives orders, and tells the others. Whoever knows the key may have any code run
here, as with every pickle: the key is a secret, and the network between them trusted.
"""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from askesis.train.distributed import Group, ShardedTrainer, full_weights, join, load_sharded
from askesis.train.optimisers import Optimisers
from askesis.train.processes import ADDRESS, KEY, TrainerSpec, place
from askesis.types import AskesisError


class Worker:
    """What can be ordered."""

    def __init__(self, group: Group, spec: TrainerSpec) -> None:
        compute = None if spec.compute == "float32" else getattr(torch, spec.compute)
        self._group = group
        self._model = load_sharded(spec.checkpoint, group, compute=compute)
        teacher = None
        if spec.teacher is not None:
            teacher = load_sharded(spec.teacher, group, compute=compute).requires_grad_(False)
        optimisers = Optimisers(self._model, **spec.optimisers)
        settings = {**spec.trainer, "teacher": teacher, "optimisers": optimisers, "loss": spec.loss}
        self._trainer = ShardedTrainer(self._model, group=group, **settings)

    def obey(self, order: str, *given: Any, **named: Any) -> Any:
        """Do it. What a `Trainer` does, and `weights`."""
        if order == "weights":
            return self._weights(*given)
        if order not in ("step", "logprobs", "save", "load"):
            raise AskesisError(f"a trainer's process was ordered to {order!r}, which it does not know")
        return getattr(self._trainer, order)(*given, **named)

    def _weights(self, path: Path) -> None:
        """All of them, in a file."""
        found = full_weights(self._model, self._group)
        if self._group.rank == 0:
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)


def main() -> None:
    """Until who gives orders is gone."""
    if missing := [name for name in (ADDRESS, KEY) if name not in os.environ]:
        raise SystemExit(f"askesis.train.worker: {' and '.join(missing)} not set; a TrainerProcesses says to what")
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    group = join()
    link: Connection[Any, Any] | None = None
    if group.rank == 0:
        link = Client(place(os.environ[ADDRESS]), authkey=bytes.fromhex(os.environ[KEY]))
    worker: Worker | None = None
    while (asked := group.told(_next(link))) is not None:
        order, given, named = asked
        error: str | None = None
        result: Any = None
        try:
            if worker is None:
                worker = Worker(group, *given)
            else:
                result = worker.obey(order, *given, **named)
        except AskesisError as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
        except Exception:  # said to who ordered it, and then the group ends
            traceback.print_exc()
            raise
        errors = group.collected(error)
        if link is not None:
            link.send((next((one for one in errors if one), None), result))
        if len({one is None for one in errors}) > 1:
            sys.exit(f"askesis.train.worker: some processes failed and others did not: {errors}")
    group.leave()


def _next(link: Connection[Any, Any] | None) -> Any:
    """The next order; None at the end, and in all processes but the first."""
    if link is None:
        return None
    try:
        return link.recv()
    except (EOFError, ConnectionError):
        return None


if __name__ == "__main__":
    main()
