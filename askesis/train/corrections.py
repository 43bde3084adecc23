"""Corrections: what samples weigh that another policy than the one in training has sampled. Pure functions.

The weights with which a step begins say of each token how likely it is (`begin`), and so did the sampler. Their ratio
makes up for the difference in expectation, but its variance is large; so ratios are truncated, or what lies outside of
bounds is left out. A ratio is that of a token; of an output (episode), the product over all its tokens that carry loss,
in however many branches; or the geometric mean of these.

With such weights, and ratios of the loss against `begin`, a clipped loss is decoupled PPO (arXiv 2110.00641): the
sampler is its behaviour policy, `begin` its proximal policy. What is left out stays in the denominators of the loss: a
step of which half is left out is half a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from askesis.train.losses import MOST
from askesis.types import AskesisError, nearest

Level = Literal["token", "output", "mean"]
Act = Literal["truncate", "mask", "band"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """level: whose ratio: a token's, a whole output's, or the geometric mean over an output's tokens.

    act: `truncate`: the weight is the ratio, kept within [low, high]. `mask`: it is the ratio inside of them and 0
    outside. `band`: it is 1 inside and 0 outside. Raises `AskesisError` where the bounds exclude a ratio of 1.
    """

    level: Level
    act: Act
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= 1.0 <= self.high:
            raise AskesisError(
                f"correction: bounds [{self.low}, {self.high}], expected 0 <= low <= 1 <= high: "
                "what the policy itself has sampled has the ratio 1 and must weigh 1"
            )

    @property
    def weighs(self) -> bool:
        """Whether ratios become weights; of several corrections together only one may do that."""
        return self.act != "band"

    @property
    def whole(self) -> bool:
        """Whether it is about outputs as wholes."""
        return self.level != "token"


CORRECTIONS: dict[str, Correction] = {
    "tis": Correction(level="token", act="truncate", low=0.0, high=2.0),
    "mis": Correction(level="token", act="mask", low=0.0, high=5.0),
    "icepop": Correction(level="token", act="mask", low=0.5, high=5.0),
    "band": Correction(level="token", act="band", low=0.5, high=2.0),
    "seq_tis": Correction(level="output", act="truncate", low=0.0, high=2.0),
    "seq_mis": Correction(level="output", act="mask", low=0.0, high=2.0),
    "seq_band": Correction(level="output", act="band", low=0.1, high=10.0),
    "geo_band": Correction(level="mean", act="band", low=0.9, high=1.1),
}
"""By name, with their usual bounds.

tis: IMPALA's truncation (arXiv 1802.01561) a token, with the bound 2 of F. Yao et al., "Your efficient RL framework
secretly brings you off-policy RL training" (2025). mis: left out above 5, as AReaL does (arXiv 2505.24298). icepop:
left out on both sides, else weighed (Ring-1T, arXiv 2510.18855). seq_tis, seq_mis, geo_band: J. Liu, Y. Li et al.,
"When speed kills stability" (2025).
"""


def correction(name: str, *, low: float | None = None, high: float | None = None) -> Correction:
    """The one of that name, with other bounds where they are given. Raises `AskesisError`."""
    if name not in CORRECTIONS:
        raise AskesisError(
            f"no correction {name!r}{nearest(name, CORRECTIONS)}: expected one of {', '.join(CORRECTIONS)}"
        )
    usual = CORRECTIONS[name]
    return Correction(
        level=usual.level,
        act=usual.act,
        low=usual.low if low is None else low,
        high=usual.high if high is None else high,
    )


def check_together(corrections: Sequence[Correction]) -> None:
    """Raises `AskesisError` where two would weigh by the same ratios twice."""
    weighing = [one for one in corrections if one.weighs]
    if len(weighing) > 1:
        raise AskesisError(
            f"{len(weighing)} corrections weigh by ratios, so each of these would count {len(weighing)} times: "
            "take one of tis, mis, icepop, seq_tis, seq_mis, and any number of bands"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lag:
    """How far the sampler was from the weights at which the step began, in nats. Tensors have shape [n], no gradient.

    token: begin - sampler. output: its sum over all tokens of the output that carry loss. lengths: how many these are.
    """

    token: Tensor
    output: Tensor
    lengths: Tensor

    def ratio(self, level: Level) -> Tensor:
        """begin / sampler [n]."""
        gap = {"token": self.token, "output": self.output, "mean": self.output / self.lengths}[level]
        return gap.clamp(-MOST, MOST).exp()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighed:
    """weights [n]; figures [n] each: where ratios were `masked` (left out) and `truncated`."""

    weights: Tensor
    figures: Mapping[str, Tensor]


def weigh(corrections: Sequence[Correction], lag: Lag) -> Weighed:
    """All of them together: their weights' product. On what the policy itself has sampled each is 1."""
    weights = torch.ones_like(lag.token)
    masked = torch.zeros_like(lag.token, dtype=torch.bool)
    truncated = torch.zeros_like(masked)
    for one in corrections:
        ratio = lag.ratio(one.level)
        outside = (ratio < one.low) | (ratio > one.high)
        if one.act == "truncate":
            truncated |= outside
            weights = weights * ratio.clamp(one.low, one.high)
            continue
        masked |= outside
        if one.act == "mask":
            weights = weights * ratio
    return Weighed(
        weights=torch.where(masked, torch.zeros_like(weights), weights),
        figures={"masked": masked, "truncated": truncated & ~masked},
    )
