"""Tensors that are spread over processes, as FSDP2 spreads parameters: by rows, in order, each process the next few.

Everything here takes an ordinary tensor too, which is whole where it is. What gathers is called in all processes.
"""

from __future__ import annotations

from typing import Any, cast

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


def _spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module takes long to import where nobody needs it
