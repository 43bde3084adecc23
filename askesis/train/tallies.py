"""The figures of a step: means over tokens, overall and by how many versions older than the trainer's weights a
token is. What they cost is a few sums over tokens that were computed anyway."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from askesis.train.batches import Part
from askesis.train.losses import MOST, k3

DISTANCES = ("0", "1", "2-3", "4-7", "8+")
"""Of versions: the trainer's less the one that the token was sampled under."""
OF_SAMPLER = frozenset(
    {"logprob_gap", "gap_mean", "gap_max", "sampler_kl", "ratio_min", "ratio_max", "ess", "ess_episodes"}
)
"""Figures that mean something only where an engine has sampled."""
_BOUNDS = (1, 2, 4, 8)  # where a further bucket begins
_BY_DISTANCE = ("gap_mean", "sampler_kl", "clipped_high", "clipped_low", "masked", "truncated")


def by_distance(behind: Tensor) -> Tensor:
    """Versions behind -> places in `DISTANCES`. Shapes are the same."""
    return torch.bucketize(behind, torch.tensor(_BOUNDS, device=behind.device), right=True)


class Tally:
    """Adds up what is found part by part, in the order of the parts. version: the trainer's, None where nobody said."""

    def __init__(self, version: int | None = None) -> None:
        self._version = version
        self._tokens = _zeros()
        self._known = _zeros()  # tokens of which it is known what the weights at the step's beginning said
        self._sums: defaultdict[str, Tensor] = defaultdict(_zeros)
        self._gaps = _zeros()  # the largest
        self._same: float | None = None  # the largest of what was sampled under the trainer's weights alone
        self._distance, self._farthest = 0.0, 0
        self._ratios: list[tuple[float, float]] = []  # least and most
        self._weights = torch.zeros(2, dtype=torch.float64)  # sums of weights and of their squares
        self._episodes: dict[int, Tensor] = {}

    def add(
        self,
        part: Part,
        current: Tensor,
        figures: Mapping[str, Tensor],
        *,
        begin: Tensor | None,
        weights: Tensor | None,
        minibatch: int,
        outputs: int,
    ) -> None:
        """A part of minibatch number `minibatch`, which has `outputs` episodes. Tensors have shape [n].

        current: log-probabilities as the gradient was computed. begin: as the step began, None if nobody looked.
        weights: after corrections, None for none.
        """
        distance = self._distances(part)
        bucket = by_distance(distance)
        self._tokens += _by_bucket(bucket)
        self._distance += float(distance.sum())
        self._farthest = max(self._farthest, int(distance.max()))
        for name, values in {"entropy": -current, **figures}.items():
            self._sums[name] += _by_bucket(bucket, values)
        if begin is None:
            return
        lag = begin - part.sampler
        gap, ratio = lag.abs(), lag.clamp(-MOST, MOST).exp()
        self._known += _by_bucket(bucket)
        self._sums["gap_mean"] += _by_bucket(bucket, gap)
        self._sums["sampler_kl"] += _by_bucket(bucket, k3(part.sampler, begin))
        for place in torch.unique(bucket).tolist():
            self._gaps[place] = max(float(self._gaps[place]), float(gap[bucket == place].max()))
        same = gap if self._version is None else gap[part.oldest == self._version]
        if len(same):
            self._same = max(self._same or 0.0, float(same.max()))
        self._ratios.append((float(ratio.min()), float(ratio.max())))
        counted = (ratio if weights is None else weights).double()
        self._weights += torch.stack([counted.sum(), counted.square().sum()]).cpu()
        lags = self._episodes.setdefault(minibatch, torch.zeros(outputs, dtype=torch.float64))
        lags.index_add_(0, part.outputs.cpu(), lag.double().cpu())

    def _distances(self, part: Part) -> Tensor:
        """[n]: versions between a token and the trainer; 0 where one of them is not known."""
        if self._version is None:
            return torch.zeros_like(part.versions)
        return torch.where(part.versions < 0, 0, self._version - part.versions).clamp(min=0)

    def figures(self) -> dict[str, float]:
        """Means over tokens; see `Trainer.step`."""
        tokens, known = float(self._tokens.sum()), float(self._known.sum())
        of_known = {"gap_mean", "sampler_kl"}
        found = {name: float(sums.sum()) / (known if name in of_known else tokens) for name, sums in self._sums.items()}
        if self._same is not None:
            found["logprob_gap"] = self._same
        if known:
            found["ratio_min"] = min(least for least, _ in self._ratios)
            found["ratio_max"] = max(most for _, most in self._ratios)
            found["ess"] = _effective(float(self._weights[0]), float(self._weights[1]), known)
            products = torch.cat([*self._episodes.values()]).clamp(-MOST, MOST).exp()
            found["ess_episodes"] = _effective(
                float(products.sum()), float(products.square().sum()), float(len(products))
            )
        if not self._farthest:
            return found
        found |= {"staleness": self._distance / tokens, "staleness_max": float(self._farthest)}
        if known:
            found["gap_max"] = float(self._gaps.max())
        return found | self._by_distance(of_known)

    def _by_distance(self, of_known: set[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for place, distance in enumerate(DISTANCES):
            tokens, known = float(self._tokens[place]), float(self._known[place])
            found[f"tokens/{distance}"] = tokens / float(self._tokens.sum())
            for name in _BY_DISTANCE:
                count = known if name in of_known else tokens
                if count and name in self._sums:
                    found[f"{name}/{distance}"] = float(self._sums[name][place]) / count
            if known:
                found[f"gap_max/{distance}"] = float(self._gaps[place])
        return found


def _zeros() -> Tensor:
    return torch.zeros(len(DISTANCES), dtype=torch.float64)


def _by_bucket(bucket: Tensor, values: Tensor | None = None) -> Tensor:
    weights = None if values is None else values.detach().double()
    return torch.bincount(bucket, weights, minlength=len(DISTANCES)).double().cpu()


def _effective(total: float, squares: float, count: float) -> float:
    """The effective sample size (A. Kong, 1992) as a share: 1 where all weigh the same, 0 where nothing is left."""
    return total * total / (squares * count) if squares else 0.0
