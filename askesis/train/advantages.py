"""Advantages: what an episode was worth beside the others of its group. Pure functions of a group's rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Advantages = Callable[[Sequence[float]], list[float]]
_TINY = 1e-6  # keeps a group whose rewards are almost alike finite


def dr_grpo(rewards: Sequence[float]) -> list[float]:
    """reward - mean of the group. Source: Dr. GRPO, arXiv 2503.20783, section 3.1.

    rewards: one a learnable episode of the group, at least one. Without the division a task that is nearly always
    solved, or nearly never, weighs no more than one that is open.
    """
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def grpo(rewards: Sequence[float]) -> list[float]:
    """(reward - mean) / standard deviation of the group. Source: GRPO, arXiv 2402.03300, section 4.1.2.

    rewards: as for `dr_grpo`. The deviation is that of the group itself (divisor n).
    """
    centred = dr_grpo(rewards)
    deviation = math.sqrt(math.fsum(value * value for value in centred) / len(centred))
    return [value / (deviation + _TINY) for value in centred]


ADVANTAGES: dict[str, Advantages] = {"grpo": grpo, "dr_grpo": dr_grpo}
