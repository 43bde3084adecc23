"""Losses: pure functions of log-probabilities, advantages, and where each token belongs.

All tensors are over the tokens that carry loss and nothing else, flattened. A minibatch may come in several parts
(what fits into one forward pass); each part's loss is its share, so that the shares' sum is the minibatch's loss.
An output is an episode: all tokens of it that carry loss, in however many branches. Where a loss is about outputs as
wholes, what it needs of the tokens in other parts is handed in (`drift`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from askesis.types import AskesisError, nearest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossInputs:
    """One part of a minibatch. Tensors have shape [n], n its tokens that carry loss; log-probabilities are natural.

    current: of the weights in training, with gradient. proximal: what ratios are against: the sampler's, or those of
    the weights at which the step began. sampler: as the engine reported them.
    teacher: of a frozen model, where a loss wants one. advantages: a token's. lengths: tokens that carry loss in the
    whole output (episode) that the token belongs to. drift: the mean of current - proximal over that whole output,
    without gradient; for losses in `WHOLE`. weights: what corrections (`train.corrections`) weigh a token by, without
    gradient; None is 1 for all.
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
    drift: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossOutput:
    """loss: scalar, this part's share. figures: [n] each, without gradient: of what means over tokens are told."""

    loss: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict)


Loss = Callable[[LossInputs], LossOutput]
MOST = 20.0  # nats; exp of more is not a useful float32, and its gradient would be the whole step's


def _ratio(inputs: LossInputs) -> Tensor:
    return (inputs.current - inputs.proximal).clamp(-MOST, MOST).exp()


def k3(current: Tensor, other: Tensor) -> Tensor:
    """An unbiased, never negative estimate of KL(current || other) a token, from tokens sampled by `current`.

    [n], [n] -> [n]. Source: J. Schulman, "Approximating KL divergence" (2020), estimator k3; GRPO's equation 4.
    """
    gap = (other - current).clamp(-MOST, MOST)
    return gap.exp() - gap - 1.0


def _clips(ratio: Tensor, advantages: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Where the surrogate's bounds hold a token's gradient back, and the ratio, as figures."""
    with torch.no_grad():
        return {
            "clipped_high": (ratio > 1.0 + high) & (advantages > 0),
            "clipped_low": (ratio < 1.0 - low) & (advantages < 0),
            "ratio": ratio.detach(),
        }


def _summed(
    inputs: LossInputs, terms: Tensor, shares: Tensor, figures: Mapping[str, Tensor], *, kl: float
) -> LossOutput:
    """The loss out of a term a token: each by its correction's weight, and with a divergence if there is a teacher."""
    if inputs.weights is not None:
        terms = terms * inputs.weights
    figures = dict(figures)
    if inputs.teacher is not None:
        divergence = k3(inputs.current, inputs.teacher)
        figures["kl"] = divergence.detach()
        terms = terms + kl * divergence
    return LossOutput(loss=(terms * shares).sum(), figures=figures)


def _clipped(inputs: LossInputs, shares: Tensor, *, low: float, high: float, kl: float) -> LossOutput:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7)."""
    ratio = _ratio(inputs)
    advantages = inputs.advantages
    free, bound = ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages
    return _summed(inputs, -torch.minimum(free, bound), shares, _clips(ratio, advantages, low, high), kl=kl)


def grpo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Mean over outputs of the mean over an output's tokens. Source: GRPO, arXiv 2402.03300, equation 3."""
    return _clipped(inputs, 1.0 / (inputs.lengths * inputs.outputs), low=low, high=high, kl=kl)


def dr_grpo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Sum over tokens divided by a constant, so that length has no say. Source: Dr. GRPO, arXiv 2503.20783, section 3.

    The constant is `outputs` x `horizon`.
    """
    shares = torch.full_like(inputs.current, 1.0 / (inputs.outputs * inputs.horizon))
    return _clipped(inputs, shares, low=low, high=high, kl=kl)


def dapo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Mean over all tokens of the minibatch; meant for `high` > `low` (clip-higher). Source: DAPO, arXiv 2503.14476."""
    return _clipped(inputs, torch.full_like(inputs.current, 1.0 / inputs.tokens), low=low, high=high, kl=kl)


def gspo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """Ratios of whole outputs, the geometric mean over their tokens, clipped as wholes; the mean over outputs.

    Source: GSPO, arXiv 2507.18071: its token-wise form (section 4.3), whose value and gradient are those of the
    sequence's where all tokens of an output have one advantage. So an output may lie in several parts of a minibatch.
    """
    if inputs.drift is None:
        raise AskesisError("gspo: the mean log-ratios of whole outputs are missing (LossInputs.drift)")
    own = inputs.current - inputs.current.detach()  # 0, with the token's gradient
    ratio = (inputs.drift.clamp(-MOST, MOST) + own).exp()
    advantages = inputs.advantages
    free, bound = ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages
    shares = 1.0 / (inputs.lengths * inputs.outputs)
    return _summed(inputs, -torch.minimum(free, bound), shares, _clips(ratio, advantages, low, high), kl=kl)


def cispo(inputs: LossInputs, *, low: float, high: float, kl: float) -> LossOutput:
    """-clipped ratio x advantage x log-probability; the ratio is a weight, and every token keeps a gradient.

    The mean over all tokens of the minibatch. Source: CISPO of MiniMax-M1, arXiv 2506.13585, equations 4 and 5. As
    there, the ratio has no lower bound with `low` = 1.
    """
    ratio = _ratio(inputs).detach()
    terms = -ratio.clamp(1.0 - low, 1.0 + high) * inputs.advantages * inputs.current
    figures = {"clipped_high": ratio > 1.0 + high, "clipped_low": ratio < 1.0 - low, "ratio": ratio}
    return _summed(inputs, terms, torch.full_like(inputs.current, 1.0 / inputs.tokens), figures, kl=kl)


def supervised(inputs: LossInputs) -> LossOutput:
    """Weighted negative log-likelihood a token; a token's weight is its advantage (1 for a demonstration)."""
    return LossOutput(loss=-(inputs.current * inputs.advantages).sum() / inputs.tokens)


POLICY_LOSSES: dict[str, Callable[..., LossOutput]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
}
WHOLE: frozenset[Callable[..., LossOutput]] = frozenset({gspo})
"""Losses that need `LossInputs.drift`."""
CLIPS: dict[str, tuple[float, float]] = {
    "grpo": (0.2, 0.2),
    "dr_grpo": (0.2, 0.2),
    "dapo": (0.2, 0.28),
    "gspo": (3e-4, 4e-4),
    "cispo": (1.0, 4.0),
}
"""low, high of each loss where nobody says otherwise: the papers', where they say; cispo's ratio is at most 5."""


def policy_loss(name: str, *, low: float | None = None, high: float | None = None, kl: float = 0.0) -> Loss:
    """A loss of `POLICY_LOSSES` with its bounds; unset ones are those of `CLIPS`, and a `low` alone bounds both sides.

    (Not for cispo, gspo and dapo, whose sides differ.) Raises `AskesisError` for a name that there is not.
    """
    if name not in POLICY_LOSSES:
        raise AskesisError(
            f"no loss {name!r}{nearest(name, POLICY_LOSSES)}: expected one of {', '.join(POLICY_LOSSES)}"
        )
    usual_low, usual_high = CLIPS[name]
    if high is None:
        high = low if low is not None and usual_low == usual_high else usual_high
    return functools.partial(POLICY_LOSSES[name], low=usual_low if low is None else low, high=high, kl=kl)


def needs_whole(loss: Loss) -> bool:
    """Whether a loss, or what it is a partial of, needs `LossInputs.drift`."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss in WHOLE
