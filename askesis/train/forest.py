"""Sequences as a forest: what several have in common, from the start on, is there once.

Tokens lie in segments. A segment goes on where its parent ends; a token sees its own segment up to itself, and all of
its ancestors. Computed on a forest, log-probabilities and gradients are those of the separate sequences.

What grows out of a segment follows it, child after child: a token is seen by those from itself up to where its
segment's descendants end, and by no other. So a first child lies right behind its parent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from askesis.types import TokenIds

Ints = npt.NDArray[np.int32]
LEAST = 8  # tokens that are worth a segment of their own to share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forest:
    """tokens, positions [count]; starts, lengths, parents, ends, sharers [segments].

    parents: come before their children, -1 is none. ends: where the last descendant's tokens end. sharers: how many
    sequences go through a segment.
    """

    tokens: Ints
    positions: Ints
    starts: Ints
    lengths: Ints
    parents: Ints
    ends: Ints
    sharers: Ints


def lexical(sequences: Sequence[TokenIds]) -> list[int]:
    """The order in which sequences that begin alike are neighbours."""
    return sorted(range(len(sequences)), key=lambda place: (sequences[place].astype(">i4").tobytes(), place))


def common(a: TokenIds, b: TokenIds) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def plant(sequences: Sequence[TokenIds], *, least: int | None = LEAST) -> tuple[Forest, list[Ints]]:
    """A forest of non-empty sequences in `lexical` order; and of each, where its tokens lie [its length].

    least: so many tokens at least are worth sharing; None shares nothing, and each sequence is a tree of its own.
    """
    shared = [0, *(0 if least is None else common(a, b) for a, b in itertools.pairwise(sequences))]
    least = least or 1
    tokens: list[TokenIds] = []
    positions: list[Ints] = []
    columns: dict[str, list[int]] = {name: [] for name in ("starts", "lengths", "parents", "sharers")}
    places: list[list[Ints]] = [[] for _ in sequences]
    count = 0

    def below(first: int, last: int, depth: int, parent: int) -> list[tuple[int, int, int, int]]:
        """Those that share what comes next, the longest last: it is planted first, right behind its parent."""
        cuts = [first, *(i for i in range(first + 1, last) if shared[i] < depth + least), last]
        together = [*itertools.pairwise(cuts)]
        together.sort(key=lambda pair: max(map(len, sequences[pair[0] : pair[1]])))
        return [(begin, end, depth, parent) for begin, end in together]

    open_ = below(0, len(sequences), 0, -1)
    while open_:  # sequences first..last - 1 have more in common than the `depth` tokens that end with segment `parent`
        first, last, depth, parent = open_.pop()
        reach = len(sequences[first]) if last - first == 1 else min(shared[first + 1 : last])
        if reach == depth:
            continue
        tokens.append(sequences[first][depth:reach].astype(np.int32, copy=False))
        positions.append(np.arange(depth, reach, dtype=np.int32))
        here = np.arange(count, count + reach - depth, dtype=np.int32)
        for place in range(first, last):
            places[place].append(here)
        for name, value in zip(columns, (count, reach - depth, parent, last - first), strict=True):
            columns[name].append(value)
        count += reach - depth
        if last - first > 1:
            open_ += below(first, last, reach, len(columns["starts"]) - 1)
    arrays = {name: np.array(values, dtype=np.int32) for name, values in columns.items()}
    ends = arrays["starts"] + arrays["lengths"]
    for segment in range(len(ends) - 1, 0, -1):
        if (parent := arrays["parents"][segment]) >= 0:
            ends[parent] = max(ends[parent], ends[segment])
    forest = Forest(tokens=np.concatenate(tokens), positions=np.concatenate(positions), ends=ends, **arrays)
    return forest, [np.concatenate(parts) for parts in places]
