"""Samples into tensors: minibatches of whole groups, and parts of them that fit into one forward pass."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from askesis.types import Sample

_PADDED = 1.06  # how much longer padding makes a part, as a rule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Sequences that go through the model together.

    tokens [B, T] int64, right-padded with 0; real [m]: places in the flattened [B, T] that are no padding. index [n]:
    those whose next token carries loss; targets [n]: those tokens. sampler, advantages, lengths, temperature [n]: as in
    `LossInputs`, token by token.
    """

    tokens: Tensor
    real: Tensor
    index: Tensor
    targets: Tensor
    sampler: Tensor
    advantages: Tensor
    lengths: Tensor
    temperature: Tensor
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minibatch:
    """What one optimiser step learns from. tokens: that carry loss. outputs: episodes."""

    parts: tuple[Part, ...]
    tokens: int
    outputs: int


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


def minibatch(samples: Sequence[Sample], batch_tokens: int, device: torch.device, *, threads: int = 1) -> Minibatch:
    """Sequences of like length share a part, so that little is padded; a part has at most `batch_tokens` places.

    A longer sequence is a part of its own. What is past the last token that carries loss is cut off: no token that
    matters can see it. Samples that carry no loss are left out. threads: how many parts are worked on at a time; parts
    are made of about one size and their number a multiple of it, so that no thread waits long for another.
    """
    carrying = [place for place, sample in enumerate(samples) if sample.mask[1:].any()]
    ends = {place: int(np.flatnonzero(samples[place].mask)[-1]) + 1 for place in carrying}
    lengths: Counter[str] = Counter()
    names = {place: samples[place].trace_id or f"#{place}" for place in carrying}
    for place in carrying:
        lengths[names[place]] += int(samples[place].mask[1:].sum())
    total, done, share = sum(ends.values()), 0, -1
    count = threads * math.ceil(_PADDED * total / (batch_tokens * threads))  # parts
    parts: list[list[int]] = []
    for place in sorted(carrying, key=lambda place: (-ends[place], place)):
        here = (2 * done + ends[place]) * count // (2 * total)  # in whose share its middle lies
        widest = ends[parts[-1][0]] if parts else 0
        if here == share and (len(parts[-1]) + 1) * widest <= batch_tokens:
            parts[-1].append(place)
        else:
            parts.append([place])
        done, share = done + ends[place], here
    return Minibatch(
        parts=tuple(_part(samples, places, ends, lengths, names, device) for places in parts),
        tokens=lengths.total(),
        outputs=len(lengths),
    )


def _part(
    samples: Sequence[Sample],
    places: Sequence[int],
    ends: dict[int, int],
    lengths: Counter[str],
    names: dict[int, str],
    device: torch.device,
) -> Part:
    width = ends[places[0]]
    tokens = np.zeros((len(places), width), dtype=np.int64)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for row, place in enumerate(places):
        sample, end = samples[place], ends[place]
        tokens[row, :end] = sample.token_ids[:end]
        at = np.flatnonzero(sample.mask[1:end])
        columns["index"].append(row * width + at)
        columns["targets"].append(sample.token_ids[1:end][at].astype(np.int64))
        columns["sampler"].append(sample.logprobs[1:end][at])
        columns["advantages"].append(sample.advantages[1:end][at])
        columns["lengths"].append(np.full(len(at), lengths[names[place]], dtype=np.float32))
        columns["temperature"].append(np.full(len(at), sample.temperature, dtype=np.float32))
    joined = {name: torch.from_numpy(np.concatenate(arrays)).to(device) for name, arrays in columns.items()}
    real = np.concatenate([row * width + np.arange(ends[place]) for row, place in enumerate(places)])
    arrays = {"tokens": tokens, "real": real}
    joined |= {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return Part(samples=tuple(places), **joined)


_COLUMNS = ("index", "targets", "sampler", "advantages", "lengths", "temperature")
