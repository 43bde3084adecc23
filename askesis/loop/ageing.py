"""How far what is trained on lies behind the weights that are trained: in versions, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from askesis.train.tallies import DISTANCES, by_distance
from askesis.types import Sample, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """mean, most: versions between sampled tokens and the weights that are trained on them. shares: of the tokens by
    `DISTANCES`."""

    mean: float = 0.0
    most: int = 0
    shares: dict[str, float] = field(default_factory=dict)


def age(samples: Sequence[Sample], version: int) -> Age:
    """Of the tokens that carry loss, as `version` is trained; those that no policy sampled have none."""
    spoken = [sample.policy_versions[sample.mask & (sample.policy_versions >= 0)] for sample in samples]
    tokens = np.concatenate(spoken) if spoken else np.zeros(0, np.int32)
    if not len(tokens):
        return Age()
    behind = version - tokens.astype(np.int64)
    counts = np.bincount(by_distance(torch.from_numpy(behind)).numpy(), minlength=len(DISTANCES))
    return Age(
        mean=float(behind.mean()),
        most=int(behind.max()),
        shares={name: float(count) / len(tokens) for name, count in zip(DISTANCES, counts, strict=True) if count},
    )


def length(trace: Trace) -> int:
    """Tokens of an episode that the policy said."""
    return sum(len(node.token_ids) for node in trace.nodes if node.sampled)
