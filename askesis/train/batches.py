"""Samples into tensors: minibatches of whole groups, and parts of them that fit into one forward pass."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from askesis.train.forest import LEAST, Forest, Ints, common, lexical, plant
from askesis.types import Sample, TokenIds

_PADDED = 1.06  # how much longer padding makes a part, as a rule
_SLACK = 0.1  # how much larger than need be the largest part of a grove may be, where that shares more
_SMALL = 128  # tokens that are worth a part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Sequences that go through the model together, and their n tokens that carry loss.

    targets [n]: those tokens. sampler, advantages, lengths, temperature [n]: as in `LossInputs`, token by token.
    outputs [n]: which episode of the minibatch a token is of, 0, 1, ...; versions [n]: of the policy that sampled it;
    oldest [n]: the oldest version among it and what was sampled before it in its sample. -1 is no version.
    samples [n], positions [n]: which sample of the minibatch a token is of, and where in it.
    """

    targets: Tensor
    sampler: Tensor
    advantages: Tensor
    lengths: Tensor
    temperature: Tensor
    outputs: Tensor
    versions: Tensor
    oldest: Tensor
    samples: Ints
    positions: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Padded(Part):
    """One sequence a row.

    tokens [B, T] int64, right-padded with 0; real [m]: places in the flattened [B, T] that are no padding. index [n]:
    those whose next token carries loss.
    """

    tokens: Tensor
    real: Tensor
    index: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted(Part):
    """Sequences as a forest. index [n]: places in it whose next token carries loss, or one of its next tokens."""

    forest: Forest
    index: Ints

    @property
    def visits(self) -> Ints:
        """How many sequences go through each place [count]."""
        return np.repeat(self.forest.sharers, self.forest.lengths)


P_co = TypeVar("P_co", bound=Part, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minibatch(Generic[P_co]):
    """What one optimiser step learns from. tokens: that carry loss. outputs: episodes."""

    parts: tuple[P_co, ...]
    tokens: int
    outputs: int

    @property
    def split(self) -> bool:
        """Whether an episode's tokens lie in several parts."""
        return sum(len(torch.unique(part.outputs)) for part in self.parts) > self.outputs


def deal(samples: Sequence[Sample], count: int, seed: int) -> list[list[Sample]]:
    """`samples` in `count` minibatches of about equal size, groups whole, dealt out at random by `seed`.

    Fewer groups than minibatches give fewer minibatches. A sample without a group is one of its own.
    """
    if count == 1:
        return [list(samples)]
    groups: dict[str, list[Sample]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(sample.group or f"#{place}", []).append(sample)
    keys = list(groups)
    random.Random(seed).shuffle(keys)
    hands: list[list[Sample]] = [[] for _ in range(min(count, len(keys)))]
    for place, key in enumerate(keys):
        hands[place % len(hands)] += groups[key]
    return hands


def minibatch(
    samples: Sequence[Sample], batch_tokens: int, device: torch.device, *, threads: int = 1
) -> Minibatch[Padded]:
    """Sequences of like length share a part, so that little is padded; a part has at most `batch_tokens` places.

    A longer sequence is a part of its own. What is past the last token that carries loss is cut off: no token that
    matters can see it. Samples that carry no loss are left out. threads: how many parts are worked on at a time; parts
    are made of about one size and their number a multiple of it, so that no thread waits long for another.
    """
    carrying = _carrying(samples)
    ends, total = carrying.ends, sum(carrying.ends.values())
    done, share = 0, -1
    count = threads * math.ceil(_PADDED * total / (batch_tokens * threads))  # parts
    parts: list[list[int]] = []
    for place in sorted(ends, key=lambda place: (-ends[place], place)):
        here = (2 * done + ends[place]) * count // (2 * total)  # in whose share its middle lies
        widest = ends[parts[-1][0]] if parts else 0
        if here == share and (len(parts[-1]) + 1) * widest <= batch_tokens:
            parts[-1].append(place)
        else:
            parts.append([place])
        done, share = done + ends[place], here
    return Minibatch(
        parts=tuple(_padded(samples, places, carrying, device) for places in parts),
        tokens=carrying.lengths.total(),
        outputs=len(carrying.lengths),
    )


def grove(
    samples: Sequence[Sample],
    batch_tokens: int,
    *,
    together: int = 1,
    device: torch.device | None = None,
    least: int | None = LEAST,
) -> Minibatch[Planted]:
    """As `minibatch`, but what sequences of a part begin with in common is there once; those that share lie together.

    A part has at most `batch_tokens` tokens. Where a sequence is longer than that by itself, it has at most twice as
    many as the longest: what is shared is there again in every part, and parts that had room for little else would
    compute it over and over. All parts' tokens are at most 1 + 2 s / (m - s) times those of one forest, and `together`
    times s, where m is the most that a part may have and s what two sequences share at most; but for fewer than `least`
    tokens a sequence.
    together: parts that are worked on at a time; there are more of them than there must be where that lowers the
    largest by more than it computes again, unless they would be tiny. device: where tensors go (default: a CPU).
    least: see `plant`.
    """
    device = device or torch.device("cpu")
    carrying = _carrying(samples)
    # what comes last is nobody's past
    before = {place: samples[place].token_ids[: end - 1] for place, end in carrying.ends.items()}
    named = list(before)
    order = [named[place] for place in lexical([before[place] for place in named])]
    shared = [0 if least is None else common(before[a], before[b]) for a, b in itertools.pairwise(order)]
    lengths = [len(before[place]) for place in order]
    # fewer tokens than `least` are not shared, and that is so at every fork: so much may be there again
    sure = [max(0, same - (least or 1) + 1) for same in [0, *shared][: len(order)]]
    longest = max(lengths, default=0)
    limit = batch_tokens if longest <= batch_tokens else 2 * longest
    parts = [order[a:b] for a, b in itertools.pairwise(_Row(lengths, sure).cuts(limit, together))]
    return Minibatch(
        parts=tuple(_planted(samples, places, before, carrying, device, least) for places in parts),
        tokens=carrying.lengths.total(),
        outputs=len(carrying.lengths),
    )


class _Row:
    """Sequences in order, to be cut into parts. lengths: of each; shared: at least so much with the one before it.

    A part's tokens are those of its first sequence and what the others do not share with the one before them. So they
    never grow when a sequence is taken away at either end, and filling part by part makes the fewest.
    """

    def __init__(self, lengths: Sequence[int], shared: Sequence[int]) -> None:
        self._lengths, self._shared = lengths, shared
        self._done = [0, *itertools.accumulate(a - b for a, b in zip(lengths, shared, strict=True))]

    def cuts(self, limit: int, together: int) -> list[int]:
        """Where parts begin, and the end. None has more than `limit`, which has room for each sequence."""
        if not self._lengths:
            return [0]
        fewest = len(self._filled(limit)) - 1
        whole = together * math.ceil(fewest / together)
        wanted = max(fewest, min(whole, len(self._lengths), self._done[-1] // _SMALL))
        found = [cuts for count in sorted({fewest, wanted}) for cuts in self._even(count, limit)]
        return min(found, key=lambda cuts: self._effort(cuts, together))

    def _effort(self, cuts: Sequence[int], together: int) -> int:
        """Of as many cores, with waiting for the largest of so many parts; of one that does all after another; and what
        the largest needs of memory. In tokens."""
        sizes = [self._size(first, last) for first, last in itertools.pairwise(cuts)]
        largest = sum(max(sizes[first : first + together]) for first in range(0, len(sizes), together))
        return together * largest + sum(sizes) + max(sizes)

    def _size(self, first: int, last: int) -> int:
        return self._done[last] - self._done[first] + self._shared[first]

    def _filled(self, limit: int) -> list[int]:
        """The fewest parts, each as full as may be."""
        cuts = [0]
        while (first := cuts[-1]) < len(self._lengths):
            cuts.append(bisect_right(self._done, self._done[first] - self._shared[first] + limit) - 1)
        return cuts

    def _even(self, count: int, limit: int) -> list[list[int]]:
        """At most `count` parts, of which the largest is as small as it can be; and with some more room."""
        low, high = max(max(self._lengths), math.ceil(self._done[-1] / count)), limit
        while low < high:
            middle = (low + high) // 2
            if len(self._filled(middle)) - 1 <= count:
                high = middle
            else:
                low = middle + 1
        found = [self._filled(high)]
        for room in (high, min(limit, math.ceil((1 + _SLACK) * high))):
            cuts = self._thrifty(room)
            if len(cuts) - 1 <= count:
                found.append(cuts)
        return found

    def _thrifty(self, limit: int) -> list[int]:
        """The parts of at most `limit` in which the least is there again; each is worth `_SMALL` tokens.

        Of each place: the least that the parts before it cost, and where the last of these begins. Candidates for that
        are kept by cost, and fall out as soon as a part from there would be too large.
        """
        costs, begins = [0.0], [0]
        open_: deque[int] = deque()
        for last in range(1, len(self._lengths) + 1):
            begin = last - 1
            while open_ and self._cost(open_[-1], costs) >= self._cost(begin, costs):
                open_.pop()
            open_.append(begin)
            while self._size(open_[0], last) > limit:
                open_.popleft()
            costs.append(self._cost(open_[0], costs) + _SMALL)
            begins.append(open_[0])
        cuts = [len(self._lengths)]
        while cuts[-1]:
            cuts.append(begins[cuts[-1]])
        return cuts[::-1]

    def _cost(self, begin: int, costs: Sequence[float]) -> float:
        """Of what comes before a part that begins there, and of what is there again in it."""
        return costs[begin] + self._shared[begin]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Carrying:
    """Samples that carry loss. ends: just past the last such token, by sample; lengths: how many an episode has;
    numbers: of the episodes."""

    ends: dict[int, int]
    names: dict[int, str]
    lengths: Counter[str]
    numbers: dict[str, int]


def _carrying(samples: Sequence[Sample]) -> _Carrying:
    places = [place for place, sample in enumerate(samples) if sample.mask[1:].any()]
    names = {place: samples[place].trace_id or f"#{place}" for place in places}
    lengths: Counter[str] = Counter()
    for place in places:
        lengths[names[place]] += int(samples[place].mask[1:].sum())
    ends = {place: int(np.flatnonzero(samples[place].mask)[-1]) + 1 for place in places}
    numbers = {name: number for number, name in enumerate(lengths)}
    return _Carrying(ends=ends, names=names, lengths=lengths, numbers=numbers)


def _padded(samples: Sequence[Sample], places: Sequence[int], carrying: _Carrying, device: torch.device) -> Padded:
    ends, width = carrying.ends, carrying.ends[places[0]]
    tokens = np.zeros((len(places), width), dtype=np.int64)
    for row, place in enumerate(places):
        tokens[row, : ends[place]] = samples[place].token_ids[: ends[place]]
    index = np.concatenate([row * width + _at(samples[place], ends[place]) for row, place in enumerate(places)])
    real = np.concatenate([row * width + np.arange(ends[place]) for row, place in enumerate(places)])
    arrays = {"tokens": tokens, "real": real, "index": index}
    moved: dict[str, Any] = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return Padded(**moved, **_columns(samples, places, carrying, device))


def _planted(
    samples: Sequence[Sample],
    places: Sequence[int],
    before: dict[int, TokenIds],
    carrying: _Carrying,
    device: torch.device,
    least: int | None,
) -> Planted:
    forest, found = plant([before[place] for place in places], least=least)
    index = [lie[_at(samples[place], carrying.ends[place])] for place, lie in zip(places, found, strict=True)]
    columns = _columns(samples, places, carrying, device)
    return Planted(forest=forest, index=np.concatenate(index), **columns)


def _at(sample: Sample, end: int) -> np.ndarray:
    """Positions whose next token carries loss."""
    return np.flatnonzero(sample.mask[1:end])


def _columns(
    samples: Sequence[Sample], places: Sequence[int], carrying: _Carrying, device: torch.device
) -> dict[str, Any]:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    owners: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    for place in places:
        sample, at, name = samples[place], _at(samples[place], carrying.ends[place]) + 1, carrying.names[place]
        columns["targets"].append(sample.token_ids[at].astype(np.int64))
        columns["sampler"].append(sample.logprobs[at])
        columns["advantages"].append(sample.advantages[at])
        columns["lengths"].append(np.full(len(at), carrying.lengths[name], dtype=np.float32))
        columns["temperature"].append(np.full(len(at), sample.temperature, dtype=np.float32))
        columns["outputs"].append(np.full(len(at), carrying.numbers[name], dtype=np.int64))
        columns["versions"].append(sample.policy_versions[at])
        columns["oldest"].append(_oldest(sample)[at])
        owners.append(np.full(len(at), place, dtype=np.int32))
        positions.append(at.astype(np.int32))
    joined = {name: torch.from_numpy(np.concatenate(arrays)).to(device) for name, arrays in columns.items()}
    return joined | {"samples": np.concatenate(owners), "positions": np.concatenate(positions)}


def _oldest(sample: Sample) -> np.ndarray:
    """Of each token, the oldest version among it and those before it; -1 where there is none."""
    none = np.iinfo(np.int32).max
    versions = np.minimum.accumulate(np.where(sample.policy_versions < 0, none, sample.policy_versions))
    return np.where(versions == none, -1, versions).astype(np.int32)


_COLUMNS = ("targets", "sampler", "advantages", "lengths", "temperature", "outputs", "versions", "oldest")
