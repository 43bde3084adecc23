"""What thinking and turns cost: terms of the reward, apart from the verifier's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from askesis.types import ConfigError, Reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """reward = the verifier's terms - min(most, thinking_token x thinking tokens + turn x turns).

    on_success_only: only an episode whose `success` was paid in full is charged, so that failing quickly never pays
    more than failing slowly. most: bound of both costs together; below 1 it keeps any success worth more than any
    failure. Raises `ConfigError` for negative values.
    """

    thinking_token: float = 0.0
    turn: float = 0.0
    on_success_only: bool = True
    most: float = 0.9

    def __post_init__(self) -> None:
        for name in ("thinking_token", "turn", "most"):
            if getattr(self, name) < 0:
                raise ConfigError(f"costs: {name} is {getattr(self, name)}, expected 0 or more")

    def terms(self, rewards: Sequence[Reward], *, thinking_tokens: int, turns: int) -> tuple[Reward, ...]:
        """`thinking_cost` and `turn_cost` as rewards of value 0 or less; none where nothing costs anything."""
        if not self.thinking_token and not self.turn:
            return ()
        success = any(term.name == "success" and term.value >= 1.0 for term in rewards)
        thinking, turn = self.thinking_token * thinking_tokens, self.turn * turns
        total = thinking + turn
        if self.on_success_only and not success:
            scale = 0.0
        else:
            scale = min(1.0, self.most / total) if total else 1.0
        return (
            Reward(name="thinking_cost", value=-thinking * scale, evidence=f"{thinking_tokens} thinking tokens"),
            Reward(name="turn_cost", value=-turn * scale, evidence=f"{turns} turns"),
        )
