"""Memory for caches that are larger than what will be used of them."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt


def lazy_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Zeros on a page boundary, of which pages that are never touched cost no memory."""
    memory = mmap.mmap(-1, dtype.itemsize * math.prod(shape))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a row is seldom full: huge pages would cost time and memory for nothing
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
