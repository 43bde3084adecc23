"""Effort: a number from 0 to 1 that stands for a thinking budget, by what was measured of the checkpoint.

`askesis eval CHECKPOINT --env ENV --budgets 0,4,8,16,32,64,none --save-effort` measures success and mean thinking
tokens an episode at each budget and writes `askesis_effort.json` beside the weights. Effort e is the share e of the
way, in mean thinking tokens, from the cheapest measured point to the dearest one that is worth having: a point that is
clearly less successful than a cheaper one (its 95% interval lies below the other's) is on no way. Between two measured
points the budget is interpolated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from askesis.types import CheckpointError, ConfigError, Thinking, nearest

EFFORT_FILE = "askesis_effort.json"
EFFORTS = {"low": 0.25, "medium": 0.5, "high": 1.0}


def effort_value(given: str | float) -> float:
    """`low`, `medium`, `high`, or a number from 0 to 1, also as text. Raises `ConfigError` for anything else."""
    if isinstance(given, str) and given in EFFORTS:
        return EFFORTS[given]
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(given, bool) or not 0.0 <= value <= 1.0:
        hint = nearest(given, EFFORTS) if isinstance(given, str) else ""
        raise ConfigError(f"effort is {given!r}, expected {', '.join(EFFORTS)} or a number from 0 to 1{hint}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortPoint:
    """What was measured in one mode.

    enabled, budget: of `Thinking`. thinking_tokens: mean of an episode. success: rate, interval: its 95% interval.
    """

    enabled: bool
    budget: int | None
    thinking_tokens: float
    success: float
    interval: tuple[float, float]
    episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortTable:
    """The measured points of a checkpoint, and on what they were measured."""

    env: str
    agent: str
    temperature: float
    points: Sequence[EffortPoint]

    @property
    def frontier(self) -> tuple[EffortPoint, ...]:
        """The points on the way from no thinking to the most that is worth having; thinking tokens grow along it."""
        ordered = sorted(self.points, key=lambda one: (one.enabled, math.inf if one.budget is None else one.budget))
        kept: list[EffortPoint] = []
        for point in ordered:
            if any(point.interval[1] < cheaper.interval[0] for cheaper in kept):
                continue
            if kept and point.thinking_tokens <= kept[-1].thinking_tokens:
                if point.success > kept[-1].success and len(kept) == 1:
                    kept = [point]  # it costs no more and does better
                continue
            kept.append(point)
        return tuple(kept)

    def thinking(self, effort: float) -> Thinking:
        """The mode and the budget that `effort` stands for, a turn."""
        effort = effort_value(effort)
        way = self.frontier
        low, high = way[0], way[-1]
        wanted = low.thinking_tokens + effort * (high.thinking_tokens - low.thinking_tokens)
        for below, above in pairwise(way):
            if wanted <= above.thinking_tokens:
                share = (wanted - below.thinking_tokens) / (above.thinking_tokens - below.thinking_tokens)
                return _between(below, above, share)
        return Thinking(enabled=high.enabled, budget=high.budget)


def _between(below: EffortPoint, above: EffortPoint, share: float) -> Thinking:
    """The budget a share of the way from one point to the next. Without a bound above, it is the nearer of both."""
    if above.budget is None or share in (0.0, 1.0):
        end = above if share >= 0.5 else below
        return Thinking(enabled=end.enabled, budget=end.budget)
    least = below.budget or 0
    budget = math.floor(least + share * (above.budget - least) + 1e-9)
    if budget <= least:
        return Thinking(enabled=below.enabled, budget=below.budget)
    return Thinking(budget=budget)


def resolve(thinking: Thinking, table: EffortTable | None, *, checkpoint: str | Path = "CHECKPOINT") -> Thinking:
    """`thinking` with its effort turned into a mode and a budget; as it is where it has none.

    The budget of an episode stays. Raises `ConfigError` where nothing was measured: it says what to run.
    """
    if thinking.effort is None:
        return thinking
    if not thinking.enabled:
        return replace(thinking, effort=None)
    if table is None:
        raise ConfigError(
            f"effort {thinking.effort:g}: {checkpoint} has no {EFFORT_FILE}, so nobody knows what it stands for; "
            f"measure it with `askesis eval {checkpoint} --env ENV --budgets 0,4,8,16,32,64,none --save-effort`, "
            "or give a budget in tokens"
        )
    meant = table.thinking(thinking.effort)
    return replace(thinking, enabled=meant.enabled, budget=meant.budget, effort=None)


def load_effort(folder: str | Path) -> EffortTable | None:
    """What was measured of the checkpoint in `folder`; None if nothing was. Raises `CheckpointError` if damaged."""
    file = Path(folder) / EFFORT_FILE
    if not file.is_file():
        return None
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        points = tuple(_point(one) for one in raw["points"])
        table = EffortTable(
            env=str(raw["env"]), agent=str(raw["agent"]), temperature=float(raw["temperature"]), points=points
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is no table of effort: {type(error).__name__}: {error}; write it anew with "
            "`askesis eval ... --budgets ... --save-effort`, or delete it"
        ) from error
    if not points:
        raise CheckpointError(
            f"{file} has no points; write it anew with `askesis eval ... --budgets ... --save-effort`"
        )
    return table


def _point(raw: dict[str, Any]) -> EffortPoint:
    low, high = raw["interval"]
    point = EffortPoint(
        enabled=bool(raw["enabled"]),
        budget=None if raw["budget"] is None else int(raw["budget"]),
        thinking_tokens=float(raw["thinking_tokens"]),
        success=float(raw["success"]),
        interval=(float(low), float(high)),
        episodes=int(raw["episodes"]),
    )
    figures = (point.thinking_tokens, point.success, *point.interval)
    if not all(map(math.isfinite, figures)) or min(figures) < 0 or (point.budget or 0) < 0:
        raise ValueError(f"a point is out of range: {raw}")
    return point


def save_effort(table: EffortTable, folder: str | Path) -> Path:
    """Write the table beside the weights; its file."""
    file = Path(folder) / EFFORT_FILE
    file.write_text(json.dumps(asdict(table), indent=2) + "\n", encoding="utf-8")
    return file
