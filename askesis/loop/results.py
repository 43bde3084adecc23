"""What comes out of evaluations and runs, as values with a JSON form."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from askesis.rollout import Hybrid, Summary
from askesis.types import Thinking

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of an evaluation: a thinking mode, sampled at a temperature (0: greedy).

    summary: success with its interval, turns, tokens, outcomes. metrics: mean and number of every term that the
    environment reports and does not pay for (weight 0). thinking: the mode as a value.
    """

    mode: str
    temperature: float
    summary: Summary
    metrics: Mapping[str, tuple[float, int]]
    thinking: Thinking | None = None

    @property
    def key(self) -> str:
        """The row's name: `think, sampled`."""
        return f"{self.mode}, {'greedy' if self.temperature == 0 else 'sampled'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Success on held-out tasks.

    name: of what was evaluated (`before`, `after`, a policy). agent: the harness that played it. tasks: in each row.
    step: of training, before it. lost: what ended the first episode that the machinery, not the policy, ended. hybrid:
    how often the model chose the better mode, where it was played without bound and without thinking. efforts: the
    modes of named efforts.
    """

    name: str
    env: str
    tasks: int
    rows: tuple[Row, ...]
    agent: str = ""
    step: int = 0
    seconds: float = 0.0
    lost: str = ""
    hybrid: Hybrid | None = None
    efforts: Mapping[str, str] = field(default_factory=dict)

    def row(self, mode: str, *, greedy: bool = False) -> Row | None:
        """The row of a mode, sampled or greedy; None if there is none."""
        return next((row for row in self.rows if row.mode == mode and (row.temperature == 0) == greedy), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values; nan is None."""
        plain: dict[str, Any] = plain_values(self)
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step, for the live line, TensorBoard, the report and result.json.

    seconds: of training up to and with this step. reward, success, turns, ...: over the learnable episodes of the step
    (nan for none). success_by_mode, thinking_by_mode: by `Thinking.mode`; so are the shares of turns that thought
    (triggered), whose thinking the policy closed by itself, and whose thinking its budget closed.
    trainer: what the trainer reported.
    groups: drawn; trained; dropped by reason. outcomes: final attempts by `who:reason`; retried: attempts repeated.
    tool_s: seconds in tools, summed over episodes. lost: what ended the first episode that the machinery ended.
    findings: of monitors, how many by name; finding: the gravest of those that call for action, in words.
    began, made: fingerprints of the weights that were trained, and of those that came of it.
    lasted_s: seconds since the step before, evaluations left out. staleness, staleness_max: mean and largest number of
    versions between a trained token and the weights that were trained; distances: shares of the tokens by that number.
    given_up: groups since the step before. waited: seconds in which the trainer waited for groups, by what for;
    held_s: seconds in which nothing was drawn because training was behind. ready, flying: whole groups that wait for a
    later step, and episodes on their way. sampled_length, taken_length: mean tokens of an episode of the groups that
    came whole or were given up meanwhile, and of those that the step took. repeated_updates: of the engine's weights,
    refused the first time.
    ahead: whether rollout goes on while the trainer computes.
    """

    step: int
    version: int
    seconds: float
    sample_s: float
    train_s: float
    reward: float
    success: float
    success_by_mode: Mapping[str, float]
    thinking_by_mode: Mapping[str, float]
    turns: float
    truncated: float
    episodes: int
    retried: int
    infrastructure: int
    groups: int
    trained_groups: int
    dropped: Mapping[str, int]
    outcomes: Mapping[str, int]
    sampled_tokens: int
    trained_tokens: int
    tool_s: float
    trainer: Mapping[str, float] = field(default_factory=dict)
    began: str = ""
    made: str = ""
    lost: str = ""
    triggered: Mapping[str, float] = field(default_factory=dict)
    closed_by_itself: Mapping[str, float] = field(default_factory=dict)
    closed_by_budget: Mapping[str, float] = field(default_factory=dict)
    findings: Mapping[str, int] = field(default_factory=dict)
    finding: str = ""
    lasted_s: float = 0.0
    staleness: float = 0.0
    staleness_max: int = 0
    distances: Mapping[str, float] = field(default_factory=dict)
    given_up: int = 0
    waited: Mapping[str, float] = field(default_factory=dict)
    held_s: float = 0.0
    ready: int = 0
    flying: int = 0
    sampled_length: float = math.nan
    taken_length: float = math.nan
    repeated_updates: int = 0
    ahead: bool = False

    @property
    def tokens_per_s(self) -> float:
        """Tokens sampled a second of sampling; where rollout runs ahead, of the whole step; of training where nothing
        is sampled."""
        if self.ahead:
            return self.sampled_tokens / max(self.lasted_s, 1e-9)
        tokens, seconds = (self.sampled_tokens, self.sample_s) if self.sampled_tokens else (self.trained_tokens, 0.0)
        return tokens / max(seconds or self.sample_s + self.train_s, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that makes a run worth less than it looks. kind: a short stable word. steps: first and last seen."""

    kind: str
    message: str
    first: int
    last: int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished (or interrupted) run.

    state: `finished` or `interrupted`. stopped_by: `minutes`, `steps`, `demonstrations`, `monitors` or `interrupt`.
    seconds: of training. checkpoint: the last one's folder; None if there is none.
    """

    id: str
    folder: Path
    state: str
    stopped_by: str
    steps: int
    seconds: float
    wall_s: float
    checkpoint: Path | None
    report: Path | None
    evaluations: Sequence[Evaluation]
    alarms: Sequence[Alarm]
    history: Sequence[StepRecord]

    def evaluation(self, name: str) -> Evaluation | None:
        """The evaluation of that name (`before`, `after`)."""
        return next((one for one in self.evaluations if one.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values; nan is None."""
        plain: dict[str, Any] = plain_values(self)
        return plain


def plain_values(value: Any) -> Any:
    """Anything of the above as JSON values; nan and infinities, which JSON has not, become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain_values({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_values(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: type[T], raw: Mapping[str, Any]) -> T:
    """The inverse of `plain_values` for one of the dataclasses above; None where a number is wanted is nan.

    Raises `KeyError` or `TypeError` for values of another shape. Unknown keys are ignored.
    """
    hints = typing.get_type_hints(kind)
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: _revived(hints[name], raw[name]) for name in known if name in raw})


def read_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations in a run's folder of them, by step."""
    found = [from_plain(Evaluation, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
    return sorted(found, key=lambda one: one.step)


def _revived(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is float:
        return math.nan if value is None else float(value)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _revived(arguments[0], value)
    if origin is Sequence:
        return tuple(_revived(arguments[0], item) for item in value)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_revived(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _revived(arguments[1], item) for key, item in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value)
    return Path(value) if hint is Path else value
