"""What one step of the engine computes, and what a backend must be able to do.

A step is a list of spans: span i feeds `counts[i]` tokens of cache row `rows[i]`, from position `starts[i]` on. A row
that decodes, a prompt that is prefilled and a text that is forced in are all the same: tokens that are known and whose
keys and values are not cached yet. Where a span reaches the end of what is known, its next token is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


@dataclass(slots=True, kw_only=True, eq=False)
class Draw:
    """How the next tokens are drawn; arrays [m], one entry a drawing span.

    noise: uniform in (0, 1), [most, m], float64. temperature 0 is greedy. truncated: whether top_k, top_p or min_p is
    on for any.
    """

    noise: npt.NDArray[np.float64]
    temperature: npt.NDArray[np.float32]
    top_k: Ints
    top_p: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]
    truncated: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """One step. tokens [sum(counts)], span after span; rows, starts, counts [n]; drawing: which spans draw, [m].

    most: how many steps a backend may make in one go, feeding what it draws, as long as no row draws one of its `watch`
    [m, any] tokens. More than 1 only where all spans are single tokens that draw.
    """

    tokens: Ints
    rows: Ints
    starts: Ints
    counts: Ints
    drawing: Ints
    draw: Draw
    most: int
    watch: Ints


class Backend(Protocol):
    """Holds the KV cache and the arithmetic; knows nothing of requests."""

    name: str

    def refresh(self, *, changed: bool) -> None:
        """Called before the first step after a pause or an update: look up the live parameters again.

        changed: an update said so. Else they are those of before, as far as torch knows.
        """
        ...

    def step(self, batch: Batch) -> tuple[Array, Array]:
        """Feed the spans, write their keys and values, draw: (tokens [s, m], log-probabilities [s, m]), s steps."""
        ...

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy keys and values of the first `count` positions from one row to another."""
        ...

    def clear(self) -> None:
        """Overwrite the whole cache with zeros (after numbers that are not finite)."""
        ...
