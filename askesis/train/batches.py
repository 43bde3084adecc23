"""Samples into tensors: minibatches of whole groups, and parts of them that fit into one forward pass."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from askesis.train.forest import LEAST, Forest, Ints, common, lexical, plant
from askesis.types import Sample, TokenIds

_PADDED = 1.06  # how much longer padding makes a part, as a rule
_SLACK = 0.1  # how far from an equal share a grove may be cut, as a share of it
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

    A part has about `batch_tokens` tokens at most. together: parts that are worked on at a time; all are of about one
    size, and their number a multiple of it, unless they would be tiny. device: where tensors go (default: a CPU).
    least: see `plant`.
    """
    device = device or torch.device("cpu")
    carrying = _carrying(samples)
    # what comes last is nobody's past
    before = {place: samples[place].token_ids[: end - 1] for place, end in carrying.ends.items()}
    named = list(before)
    order = [named[place] for place in lexical([before[place] for place in named])]
    shared = [0 if least is None else common(before[a], before[b]) for a, b in itertools.pairwise(order)]
    shared = [0, *shared][: len(order)]
    done = np.cumsum([len(before[place]) - same for place, same in zip(order, shared, strict=True)])
    total = int(done[-1]) if order else 0
    count = together * math.ceil(total / (batch_tokens * together))
    count = max(1, min(count, len(order), total // _SMALL))
    parts = [order[a:b] for a, b in zip(*_cuts(done, shared, count), strict=True) if a < b]
    return Minibatch(
        parts=tuple(_planted(samples, places, before, carrying, device, least) for places in parts),
        tokens=carrying.lengths.total(),
        outputs=len(carrying.lengths),
    )


def _cuts(done: np.ndarray, shared: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Where `count` parts begin and end: near equal shares of `done`, where neighbours have little in common."""
    total = done[-1] if len(done) else 0
    cuts = [0]
    for part in range(1, count):
        target, slack = total * part / count, _SLACK * total / count
        off = np.abs(done[:-1] - target)  # of a cut before place 1, 2, ...
        near = np.flatnonzero(off <= slack)
        best = min(near.tolist(), key=lambda i: (shared[i + 1], off[i]), default=int(np.argmin(off)))
        cuts.append(max(cuts[-1], best + 1))
    return cuts, [*cuts[1:], len(done)]


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
