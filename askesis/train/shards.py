"""Tensors that are spread over processes, as FSDP2 spreads parameters: by rows, in order, each process the next few.

Everything here takes an ordinary tensor too, which is whole where it is. What gathers is called in all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, in every process."""
    return cast(Tensor, cast(Any, tensor).full_tensor()) if _spread(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What this process has of it, in the same memory."""
    return cast(Tensor, cast(Any, tensor).to_local()) if _spread(tensor) else tensor


def own(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor what this process has of `like`, which has its shape."""
    if not _spread(like):
        return tensor
    mesh = cast(Any, like).device_mesh
    rows = -(-tensor.shape[0] // mesh.size())
    first = rows * mesh.get_local_rank()
    return tensor[first : first + rows]


def mapped_whole(tensors: Sequence[Tensor], work: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What `work` makes of matrices of one shape, [n, rows, columns] -> the same; of each result the own rows.

    Where they are spread, each process is sent its share of the matrices whole, works on these alone, and sends back
    everybody's rows of what came of it: less is sent than if all gathered all, and memory and work are shared, too.
    Called in all processes with the same tensors in the same order.
    """
    if not _spread(tensors[0]):
        return [*work(torch.stack([*tensors])).unbind()]
    import torch.distributed as dist

    mesh = cast(Any, tensors[0]).device_mesh
    size, rank, group = mesh.size(), mesh.get_local_rank(), mesh.get_group()
    rows, columns = tensors[0].shape
    step = -(-rows // size)
    heights = [max(0, min(step, rows - step * process)) for process in range(size)]  # rows of each process
    owned = [range(process, len(tensors), size) for process in range(size)]
    mine = len(owned[rank])
    sent = torch.cat([local(tensors[place]).reshape(-1) for places in owned for place in places])
    out = [len(places) * heights[rank] * columns for places in owned]  # to each
    back = [mine * height * columns for height in heights]  # from each
    came = sent.new_empty(sum(back))
    dist.all_to_all_single(came, sent, back, out, group=group)
    pieces = [one.view(mine, -1, columns) for one in came.split_with_sizes(back) if len(one)]
    if mine:
        done = work(torch.cat(pieces, dim=1)).split_with_sizes(heights, dim=1)
        came = torch.cat([one.reshape(-1) for one in done])
    dist.all_to_all_single(sent, came, out, back, group=group)
    found = [torch.empty(0)] * len(tensors)
    for places, one in zip(owned, sent.split_with_sizes(out), strict=True):
        for place, own_rows in zip(places, one.view(len(places), heights[rank], columns), strict=True):
            found[place] = own_rows
    return found


def _spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module takes long to import where nobody needs it
