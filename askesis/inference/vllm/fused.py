"""What a vLLM worker holds, by the names and in the shapes that the trainer knows.

vLLM joins the matrices of queries, keys and values, of gates and up-projections, and of experts, pads the vocabulary,
and spreads all of it over the ranks of a tensor-parallel group. This takes it apart again, to look at it: where nothing
was spread, what comes are views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from askesis.types import EngineError

Gather = Callable[[Tensor, int], Tensor]
"""A tensor's parts on all ranks of the group, joined along a dimension, in the order of the ranks."""

_QKV, _GATE_UP = "qkv_proj", "gate_up_proj"
_ROWS = ("o_proj", "down_proj")  # split along their input
_EXPERTS = ".routed_experts"  # in the names of vLLM's experts, and of nobody else's


def held(model: nn.Module, *, ranks: int = 1, gather: Gather | None = None) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every weight of vLLM's `model`, as in a checkpoint. gather: needed where `ranks` is above 1.

    Raises `EngineError` for a weight that was packed or quantised, which cannot be told apart.
    """
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        module = modules[owner]
        if owner.endswith(".attn") or not parameter.dtype.is_floating_point:
            continue  # scales of a quantised cache
        if not parameter.numel():
            raise EngineError(f"vLLM has packed {name} into a form of its own: it cannot be checked")
        yield from _parts(name, owner, kind, module, parameter.detach(), ranks, gather)


def _parts(
    name: str, owner: str, kind: str, module: nn.Module, tensor: Tensor, ranks: int, gather: Gather | None
) -> Iterator[tuple[str, Tensor]]:
    last = owner.rpartition(".")[2]

    def whole(part: Tensor, dim: int) -> Tensor:
        if ranks == 1:
            return part
        assert gather is not None
        return gather(part.contiguous(), dim)

    def sibling(other: str) -> str:
        return f"{owner.rpartition('.')[0]}.{other}.{kind}"

    if last == _QKV:
        heads, shared, replicas, head, value = (
            int(getattr(module, of))
            for of in ("num_heads", "num_kv_heads", "num_kv_head_replicas", "head_size", "v_head_size")
        )
        sizes = [heads * head, shared * head, shared * value]
        for other, part in zip(("q_proj", "k_proj", "v_proj"), torch.split(tensor, sizes), strict=True):
            joined = whole(part, 0)
            if other != "q_proj" and replicas > 1:  # neighbouring ranks hold the same heads
                joined = joined.reshape(-1, replicas, *part.shape)[:, 0].flatten(0, 1)
            yield sibling(other), joined
    elif last == _GATE_UP:
        for other, part in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
            yield sibling(other), whole(part, 0)
    elif kind in ("w13_weight", "w2_weight"):
        yield from _experts(owner.removesuffix(_EXPERTS), kind, tensor, whole)
    elif hasattr(module, "org_vocab_size"):
        yield name, whole(tensor, 0)[: _rows(module)]
    elif last in _ROWS and tensor.ndim == 2:
        yield name, whole(tensor, 1)
    else:
        yield name, tensor  # norms and routers, which every rank has


def _experts(
    owner: str, kind: str, tensor: Tensor, whole: Callable[[Tensor, int], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for number, expert in enumerate(tensor):
        if kind == "w2_weight":
            yield f"{owner}.{number}.down_proj.weight", whole(expert, 1)
            continue
        for other, part in zip(("gate_proj", "up_proj"), expert.chunk(2), strict=True):
            yield f"{owner}.{number}.{other}.weight", whole(part, 0)


def _rows(module: nn.Module) -> int:
    """Of a vocabulary, without those that pad it."""
    rows: int = module.org_vocab_size  # type: ignore[assignment]
    return rows
