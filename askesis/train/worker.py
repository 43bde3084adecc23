"""A process of a trainer's group. Started by torchrun; takes orders from a `TrainerProcesses`:

    ASKESIS_TRAINER=HOST:PORT ASKESIS_TRAINER_KEY=HEX torchrun --nproc-per-node 8 -m askesis.train.worker

The first process is connected to who gives orders, and tells the others. Whoever knows the key may have any code run
here, as with every pickle: the key is a secret, and the network between them trusted.
"""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from contextlib import nullcontext
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import Any

import torch

from askesis.train.distributed import Group, ShardedTrainer, full_weights, join, load_sharded
from askesis.train.door import place
from askesis.train.link import Link, Silence
from askesis.train.optimisers import Optimisers
from askesis.train.processes import ADDRESS, KEY, WAIT, TrainerSpec
from askesis.types import AskesisError

_PATIENCE_S = 600.0  # that who gives orders has to take what was asked for
_NOTHING = "nothing yet"


class Worker:
    """What can be ordered. link: of the first process, with who gives orders."""

    def __init__(self, group: Group, link: Link | None, spec: TrainerSpec) -> None:
        compute = None if spec.compute == "float32" else getattr(torch, spec.compute)
        self._group, self._link = group, link
        self._model = load_sharded(spec.checkpoint, group, compute=compute)
        teacher = None
        if spec.teacher is not None:
            teacher = load_sharded(spec.teacher, group, compute=compute).requires_grad_(False)
        optimisers = Optimisers(self._model, **spec.optimisers)
        settings = {**spec.trainer, "teacher": teacher, "optimisers": optimisers, "loss": spec.loss}
        self._trainer = ShardedTrainer(self._model, group=group, **settings)

    def obey(self, order: str, *given: Any, **named: Any) -> Any:
        """Do it. What a `Trainer` does, `shapes` and `weights`."""
        match order:
            case "shapes":
                return {name: (tuple(one.shape), one.dtype) for name, one in self._model.named_parameters()}
            case "weights":
                return self._weights()
            case "step" | "logprobs" | "save" | "load":
                return getattr(self._trainer, order)(*given, **named)
        raise AskesisError(f"a trainer's process was ordered to {order!r}, which it does not know")

    def _weights(self) -> None:
        """All of them, one after the other, to who asked, and before the first that there is no error."""
        begun = False
        try:
            for _, tensor in full_weights(self._model, self._group):
                if self._link is not None:
                    if not begun:
                        self._link.send((None, None))
                    self._link.send_tensor(tensor)
                begun = True
        except AskesisError as error:
            if begun:  # an answer now would be taken for numbers: the group ends instead
                raise RuntimeError("a weight that could not be sent") from error
            raise


def main() -> None:
    """Until who gives orders is gone."""
    if missing := [name for name in (ADDRESS, KEY) if name not in os.environ]:
        raise SystemExit(f"askesis.train.worker: {' and '.join(missing)} not set; a TrainerProcesses says to what")
    key, wait_s = _told()
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    group = join(timeout_s=wait_s)
    link: Link | None = None
    if group.rank == 0:
        link = Link(_called(os.environ[ADDRESS], key, wait_s), silent_s=_PATIENCE_S)
    worker: Worker | None = None
    while True:
        asked = _next(link, wait_s / 4)
        error: str | None = None
        result: Any = None
        with nullcontext() if link is None else link.alive():
            if (asked := group.told(asked)) is None:
                break
            if asked == _NOTHING:
                continue
            order, given, named = asked
            try:
                if worker is None:
                    worker, result = Worker(group, link, *given), group.size
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


def _told() -> tuple[bytes, float]:
    """The key, and for how many seconds a process waits for the others."""
    try:
        key = bytes.fromhex(os.environ[KEY])
    except ValueError:  # without what it is: a secret
        sys.exit(f"askesis.train.worker: {KEY} is not made of pairs of hexadecimal digits; give it the run's")
    said = os.environ.get(WAIT, "1800")
    try:
        wait_s = float(said)
    except ValueError:
        wait_s = math.nan
    if not 0 < wait_s < math.inf:
        sys.exit(f"askesis.train.worker: {WAIT} is {said!r}; expected a number of seconds above 0, or unset it")
    return key, wait_s


def _called(address: str, key: bytes, within: float) -> Connection[Any, Any]:
    """Who gives orders, who may not be there yet: a run comes to its trainer when it has samples."""
    until = time.monotonic() + within / 2  # for as long as the others wait for what is said then
    while True:
        try:
            return Client(place(address), authkey=key)
        except AuthenticationError:
            sys.exit(f"askesis.train.worker: the run at {address} has another key; set {KEY} to the same in both")
        except (EOFError, AssertionError):
            sys.exit(
                f"askesis.train.worker: what listens at {address} hung up or is no run; see that {ADDRESS} is the "
                "run's train.address and that the run goes on, and start the trainers again"
            )
        except (ValueError, OverflowError) as error:
            sys.exit(f"askesis.train.worker: {ADDRESS} is {address!r}; expected HOST:PORT or a socket's path ({error})")
        except OSError as error:  # nobody yet, no way there yet, a name that nobody knows yet
            if time.monotonic() > until:
                sys.exit(
                    f"askesis.train.worker: nobody gives orders at {address}, for {within / 2:g} s ({error}); see that "
                    f"the run is there and {ADDRESS} is its train.address"
                )
            time.sleep(1.0)


def _next(link: Link | None, within: float) -> Any:
    """The next order, or that there is none yet; None at the end, and in all processes but the first."""
    if link is None:
        return None
    try:
        return link.receive(within=within)
    except Silence:  # the others wait for no longer than they do on a step's way
        return _NOTHING
    except (EOFError, OSError):
        return None


if __name__ == "__main__":
    main()
