"""Sequences as a forest: what several have in common, from the start on, is there once.

Tokens lie in segments. A segment goes on where its parent ends; a token sees its own segment up to itself, and all of
its ancestors. Computed on a forest, log-probabilities and gradients are those of the separate sequences.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from askesis.types import TokenIds

Ints = npt.NDArray[np.int32]
_LEAST = 8  # tokens that are worth a segment of their own to share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forest:
    """tokens, positions [count]; starts, lengths, parents [segments]: parents come before children, -1 is none."""

    tokens: Ints
    positions: Ints
    starts: Ints
    lengths: Ints
    parents: Ints


def lexical(sequences: Sequence[TokenIds]) -> list[int]:
    """The order in which sequences that begin alike are neighbours."""
    return sorted(range(len(sequences)), key=lambda place: (sequences[place].astype(">i4").tobytes(), place))


def common(a: TokenIds, b: TokenIds) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def plant(sequences: Sequence[TokenIds]) -> tuple[Forest, list[Ints]]:
    """A forest of non-empty sequences in `lexical` order; and of each, where its tokens lie [its length]."""
    shared = [0, *(common(a, b) for a, b in itertools.pairwise(sequences))]
    tokens: list[TokenIds] = []
    positions: list[Ints] = []
    starts: list[int] = []
    lengths: list[int] = []
    parents: list[int] = []
    places: list[list[Ints]] = [[] for _ in sequences]
    count = 0
    open_ = [
        (0, len(sequences), 0, -1)
    ]  # sequences first..last - 1, whose first `depth` tokens end with segment `parent`
    while open_:
        first, last, depth, parent = open_.pop()
        cuts = [first, *(i for i in range(first + 1, last) if shared[i] < depth + _LEAST), last]
        for begin, end in itertools.pairwise(cuts):
            reach = len(sequences[begin]) if end - begin == 1 else min(shared[begin + 1 : end])
            if reach == depth:
                continue
            tokens.append(sequences[begin][depth:reach].astype(np.int32, copy=False))
            positions.append(np.arange(depth, reach, dtype=np.int32))
            here = np.arange(count, count + reach - depth, dtype=np.int32)
            for place in range(begin, end):
                places[place].append(here)
            starts.append(count)
            lengths.append(reach - depth)
            parents.append(parent)
            count += reach - depth
            if end - begin > 1:
                open_.append((begin, end, reach, len(starts) - 1))
    columns = {"starts": starts, "lengths": lengths, "parents": parents}
    arrays = {name: np.array(values, dtype=np.int32) for name, values in columns.items()}
    forest = Forest(tokens=np.concatenate(tokens), positions=np.concatenate(positions), **arrays)
    return forest, [np.concatenate(parts) for parts in places]
