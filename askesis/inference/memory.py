"""Memory for caches that are larger than what will be used of them."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt


def lazy_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Zeros on a page boundary, of which pages that are never touched cost no memory.

    In huge pages where the system gives them: what a step reads of many rows lies on more small ones than the processor
    has translations for. So a row may cost up to one huge page (2 MiB) more than what is used of it.
    """
    memory = mmap.mmap(-1, dtype.itemsize * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
