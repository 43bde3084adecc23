"""What all environments with a hole have in common: where it is open, and how the truth is told beside what is paid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from askesis.types import ConfigError, Reward, Task

TRUE = "true_success"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """fixed: it is mended everywhere. share: of the tasks it is open on; which, follows from a hash of their content,
    and nothing that an agent sees tells. Raises `ConfigError` for a share that is none.
    """

    fixed: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(
                f"a hole that is open on a share of {self.share} of the tasks: expected above 0, at most 1"
            )

    def open_on(self, task: Task) -> bool:
        """Whether this task's verdict has it."""
        return not self.fixed and chance(task, "hole") < self.share


def chance(task: Task, what: str) -> float:
    """A number of [0, 1) that follows from the task's content. what: for which purpose; numbers for two are unlike."""
    return int.from_bytes(hashlib.sha256(f"{what}/{task.id}".encode()).digest()[:6], "big") / 2**48


def told(rewards: Sequence[Reward], *, believed: bool) -> list[Reward]:
    """A true verdict, `success` first, as the hole has it: paid too where it is believed; `true_success` (weight 0)
    says what is so."""
    true = rewards[0].value
    paid = max(true, float(believed))
    return [replace(rewards[0], value=paid), *rewards[1:], Reward(name=TRUE, value=true, weight=0.0)]
