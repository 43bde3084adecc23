"""Losses: pure functions of log-probabilities, advantages, and where each token belongs.

All tensors are over the tokens that carry loss and nothing else, flattened. A minibatch may come in several parts
(what fits into one forward pass); each part's loss is its share, so that the shares' sum is the minibatch's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossInputs:
    """One part of a minibatch. Tensors have shape [n], n its tokens that carry loss; log-probabilities are natural.

    current: of the weights in training, with gradient. proximal: what ratios are against: of the weights at which the
    step began, which are the sampler's while sampling and training alternate. sampler: as the engine reported them.
    teacher: of a frozen model, where a loss wants one. advantages: a token's. lengths: tokens that carry loss in the
    whole output (episode) that the token belongs to.
    tokens, outputs: of the whole minibatch. horizon: most tokens that an output may have.
    """

    current: Tensor
    proximal: Tensor
    sampler: Tensor
    advantages: Tensor
    lengths: Tensor
    tokens: int
    outputs: int
    horizon: int
    teacher: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossOutput:
    """loss: scalar, this part's share. sums: figures added up over this part's tokens, without gradient."""

    loss: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)


Loss = Callable[[LossInputs], LossOutput]
_MOST = 20.0  # nats; exp of more is not a useful float32, and its gradient would be the whole step's


def _ratio(inputs: LossInputs) -> Tensor:
    return (inputs.current - inputs.proximal).clamp(-_MOST, _MOST).exp()


def k3(current: Tensor, other: Tensor) -> Tensor:
    """An unbiased, never negative estimate of KL(current || other) a token, from tokens sampled by `current`.

    [n], [n] -> [n]. Source: J. Schulman, "Approximating KL divergence" (2020), estimator k3; GRPO's equation 4.
    """
    gap = (other - current).clamp(-_MOST, _MOST)
    return gap.exp() - gap - 1.0


def _clipped(inputs: LossInputs, weights: Tensor, *, low: float, high: float, kl: float) -> LossOutput:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7), each token weighed; with a divergence if `kl` > 0."""
    ratio = _ratio(inputs)
    advantages = inputs.advantages
    free, bound = ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages
    terms = -torch.minimum(free, bound)
    with torch.no_grad():
        sums = {
            "clipped_high": ((ratio > 1.0 + high) & (advantages > 0)).sum(),
            "clipped_low": ((ratio < 1.0 - low) & (advantages < 0)).sum(),
            "ratio": ratio.sum(),
        }
    if inputs.teacher is not None:
        divergence = k3(inputs.current, inputs.teacher)
        sums["kl"] = divergence.detach().sum()
        terms = terms + kl * divergence
    return LossOutput(loss=(terms * weights).sum(), sums=sums)


def grpo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Mean over outputs of the mean over an output's tokens. Source: GRPO, arXiv 2402.03300, equation 3."""
    return _clipped(inputs, 1.0 / (inputs.lengths * inputs.outputs), low=low, high=high, kl=kl)


def dr_grpo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Sum over tokens divided by a constant, so that length has no say. Source: Dr. GRPO, arXiv 2503.20783, section 3.

    The constant is `outputs` x `horizon`.
    """
    weights = torch.full_like(inputs.current, 1.0 / (inputs.outputs * inputs.horizon))
    return _clipped(inputs, weights, low=low, high=high, kl=kl)


def dapo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Mean over all tokens of the minibatch; meant for `high` > `low` (clip-higher). Source: DAPO, arXiv 2503.14476."""
    return _clipped(inputs, torch.full_like(inputs.current, 1.0 / inputs.tokens), low=low, high=high, kl=kl)


def supervised(inputs: LossInputs) -> LossOutput:
    """Weighted negative log-likelihood a token; a token's weight is its advantage (1 for a demonstration)."""
    return LossOutput(loss=-(inputs.current * inputs.advantages).sum() / inputs.tokens)


POLICY_LOSSES: dict[str, Callable[..., LossOutput]] = {"grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo}
