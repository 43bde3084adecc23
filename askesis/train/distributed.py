"""The trainer as a group of processes: parameters, gradients and optimiser sharded over them by FSDP2.

Every process is given the same samples and makes the same parts of them; each works on its own, and what a loss divides
by is counted over all. So a step does what it does in one process, however many there are. Source: arXiv 2304.11277;
`fully_shard` of torch.

Start one process a device with torchrun, or whatever sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT:

    group = join()
    model = load_sharded(folder, group)
    trainer = ShardedTrainer(model, group=group, loss=loss, optimisers=Optimisers(model, ...))

`askesis.train.worker` does that and takes orders; `askesis.train.processes` starts it and gives them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from askesis.models import CausalLM, Experts, Qwen3, empty, fill, read_config
from askesis.train import shards
from askesis.train.trainer import STATE, Trainer
from askesis.types import AskesisError, CheckpointError

T = TypeVar("T")
P = TypeVar("P")

_SET = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """The processes that train together. words: how they tell each other what is no tensor on a device."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh
    words: dist.ProcessGroup

    def collected(self, value: Any) -> list[Any]:
        """What each process has, by rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.words)
        return found

    def told(self, value: Any = None) -> Any:
        """What the first process has to say."""
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self.words)
        return said[0]

    def leave(self) -> None:
        """The end."""
        dist.destroy_process_group()


def join(*, timeout_s: float = 1800.0) -> Group:
    """Join the group that the environment names: over NCCL where there are GPUs, else over gloo.

    timeout_s: how long a process waits for the others before it gives up. Raises `AskesisError` outside of a group.
    """
    if missing := [name for name in _SET if name not in os.environ]:
        raise AskesisError(
            f"no group of trainers: {', '.join(missing)} not set; start it with torchrun "
            "(python -m torch.distributed.run --nproc-per-node N -m askesis.train.worker)"
        )
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    wait = timedelta(seconds=timeout_s)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=wait)
    size = dist.get_world_size()
    return Group(
        rank=dist.get_rank(),
        size=size,
        device=device,
        mesh=init_device_mesh(device.type, (size,)),
        words=cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=wait)),
    )


def shard(model: CausalLM, group: Group, *, compute: torch.dtype | None = None) -> CausalLM:
    """Shard `model` in place over the group, layer by layer. Make optimisers after it, for parameters are others then.

    compute: of products, activations and what is sent for them, bfloat16 say; parameters, gradients and optimiser stay
    what they are. Raises `AskesisError` for a model that is not one of our own.
    """
    if not isinstance(model, Qwen3):
        raise AskesisError(f"a {type(model).__name__} cannot be sharded: only Askesis' own Qwen3 models can, so far")
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32 if compute else None)
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, Experts):
                module.every = True  # the same gradients are there in all processes, whichever experts were chosen
        fully_shard(layer, mesh=group.mesh, mp_policy=policy)
    fully_shard(model, mesh=group.mesh, mp_policy=policy, reshard_after_forward=False)  # for `logits`
    return model


def load_sharded(folder: str | Path, group: Group, *, compute: torch.dtype | None = None) -> CausalLM:
    """A checkpoint of ours, sharded: each process keeps its own rows of it. Raises `CheckpointError`.

    Parameters are float32. Memory is touched only where rows come to lie, and for a layer at a time before.
    """
    model = shard(empty(read_config(folder)), group, compute=compute)
    fill(cast(Qwen3, model), folder, put=lambda mine, whole: shards.local(mine).copy_(shards.own(whole, mine)))
    return model


def full_weights(model: CausalLM, group: Group) -> Iterator[tuple[str, Tensor]]:
    """All parameters by name, whole, on the first process's CPU, one after the other; others get empty ones.

    All processes go through all of it. Memory is taken for one at a time.
    """
    for name, parameter in model.named_parameters():
        yield name, _kept(parameter.detach(), group)


def take_weights(model: CausalLM, weights: Mapping[str, Tensor]) -> None:
    """Give a sharded model weights that every process has, whole and by name. Raises `CheckpointError`."""
    for name, parameter in model.named_parameters():
        if name not in weights or weights[name].shape != parameter.shape:
            raise CheckpointError(f"weights for the group lack {name} {list(parameter.shape)}")
        with torch.no_grad():
            shards.local(parameter).copy_(shards.own(weights[name], parameter))


class ShardedTrainer(Trainer):
    """`Trainer` in every process of a group; each call is made in all of them, with the same arguments.

    model: as `shard` left it; optimisers: made after that. `save` writes what a trainer in one process would, so that a
    run may go on with another number of processes. Its state is read by all processes from where the first wrote it.
    """

    def __init__(self, model: CausalLM, *, group: Group, **settings: Any) -> None:
        """settings: as of `Trainer`, which see."""
        for one in (model, settings.get("teacher")):
            if one is not None and not isinstance(one, FSDPModule):
                raise AskesisError("ShardedTrainer: a model is not sharded; call shard(model, group) before")
        if settings.get("lora") is not None:
            raise AskesisError("ShardedTrainer: adapters (lora) are for a trainer in one process so far")
        super().__init__(model, **settings | {"backend": "torch", "threads": 1})
        self._group, self._idle = group, False
        self._together = group.size  # parts of even size, as many for each
        self._sharded = [cast(FSDPModule, one) for one in (model, self.teacher) if one is not None]

    # -- learning ----------------------------------------------------------------------------------------------------

    def _side_by_side(self, work: Callable[[P], T], parts: Sequence[P]) -> Iterable[T]:
        """What came of every part, in their order, whoever worked on it.

        All meet in every layer, so all work on as many parts: who has one less does another's again, to no effect.
        """
        own = list(parts[self._group.rank :: self._group.size])
        done = [work(part) for part in own]
        rounds = -(-len(parts) // self._group.size)
        if len(own) < rounds:
            self._idle = True
            work(parts[0])
            self._idle = False
        for model in self._sharded:  # after a forward pass alone the root would keep the weights as they are now
            model.reshard()
        found = self._group.collected(_mapped(done, _plain))
        here = functools.partial(Tensor.to, device=self._device)
        return [_mapped(found[n % self._group.size][n // self._group.size], here) for n in range(len(parts))]

    def _slopes(self, loss: Tensor) -> Sequence[Tensor]:
        """Into the parameters; FSDP2 adds up the processes' means."""
        factor = 0.0 if self._idle else float(self._group.size)
        (loss * factor).backward()  # type: ignore[no-untyped-call]
        return ()

    def _take(self, gradients: Sequence[Tensor]) -> None:
        """They are there."""
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _clip(self) -> float:
        """As `Trainer._clip`, of the whole gradient."""
        gradients = [shards.local(p.grad) for p in self._parameters if p.grad is not None]
        square = torch.stack([g.double().square().sum() for g in gradients]).sum()
        dist.all_reduce(square)
        norm = float(square.sqrt())
        if 0.0 < self._grad_clip < norm < math.inf:
            torch._foreach_mul_(gradients, self._grad_clip / norm)
        return norm

    # -- going on ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """As `Trainer.save`; the first process writes. One tensor at a time is whole on the devices, all on its CPU."""
        state: dict[str, Any] = {"optimisers": self.optimisers.state_dict(), "steps": self._steps}
        if self.teacher is not None:
            state["teacher"] = self.teacher.state_dict()
        state = _mapped(state, functools.partial(_kept, group=self._group))
        if self._group.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / STATE)
        dist.barrier(group=self._group.words)

    def load(self, folder: Path) -> None:
        """As `Trainer.load`, of a group of any size or of a single process."""
        try:
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
            self.optimisers.load_state_dict(self._sharded_states(state["optimisers"]))
            if self.teacher is not None:
                take_weights(self.teacher, state["teacher"])
            self._steps = int(state["steps"])
        except Exception as error:
            raise CheckpointError(
                f"cannot take over the trainer's state from {folder / STATE}: {type(error).__name__}: {error}"
            ) from error

    def _sharded_states(self, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tensors of a parameter's shape become shards as the parameter is."""
        made = []
        for state, parameters in zip(states, self.optimisers.parameters(), strict=True):
            entries = {}
            for place, entry in state["state"].items():
                parameter = parameters[place]
                entries[place] = {
                    name: _sharded_like(value, parameter) if _fits(value, parameter) else value
                    for name, value in entry.items()
                }
            made.append({**state, "state": entries})
        return made


# -- tensors -------------------------------------------------------------------------------------------------------


def _kept(tensor: Tensor, group: Group) -> Tensor:
    """Whole, on the first process's CPU; in the others, which hold it just as long as that takes, an empty one."""
    whole = shards.whole(tensor.detach())
    return whole.cpu() if group.rank == 0 else whole.new_empty(0)


def _plain(tensor: Tensor) -> Tensor:
    """To be sent."""
    return tensor.detach().cpu()


def _fits(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _sharded_like(whole: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return whole
    local = shards.own(whole, parameter).to(parameter.device).clone()
    mesh, placements = parameter.device_mesh, parameter.placements
    made: Tensor = DTensor.from_local(local, mesh, placements, shape=parameter.shape, stride=parameter.stride())
    return made


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """All tensors in it changed, in a fixed order."""
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value)(**_mapped(fields, change))
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(inner, change) for inner in value)
    return value
