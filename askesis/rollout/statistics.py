"""What a set of traces says: pure functions, for evaluations and reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.types import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of some episodes. All but `episodes`, `infrastructure` and `outcomes` are over the learnable ones.

    success: rate, with its 95% interval (Wilson). turns, thinking_tokens, sampled_tokens, reward: means an episode.
    submitted: share that ended in a submission. truncated: share with a turn that ran into its length.
    triggered: share of turns that thought at all. closed_by_itself, closed_by_budget: share of turns whose thinking the
    policy ended, and whose thinking the budget cut off. budget_error: mean of |thought - budget| / budget over the
    turns that had a budget above 0 and thought (nan for none). over_budget: most tokens by which any turn or episode
    went beyond its budget: 0 where budgets are kept. thinking_interval: 95% interval of the mean thinking tokens.
    infrastructure: episodes that say nothing about the policy. outcomes: counts by `who:reason`.
    Rates and means of nothing are nan.
    """

    episodes: int
    learnable: int
    infrastructure: int
    successes: int
    success: float
    interval: tuple[float, float]
    reward: float
    turns: float
    thinking_tokens: float
    sampled_tokens: float
    submitted: float
    truncated: float
    outcomes: Mapping[str, int]
    triggered: float = math.nan
    closed_by_itself: float = math.nan
    closed_by_budget: float = math.nan
    budget_error: float = math.nan
    over_budget: int = 0
    thinking_interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def forced(self) -> float:
        """Share of the closings of thinking that a budget forced; nan where nothing was closed."""
        closings = self.closed_by_itself + self.closed_by_budget
        return self.closed_by_budget / closings if closings else math.nan


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927, doi:10.1080/01621459.1927.10502953); (0, 1) for n = 0."""
    if not n:
        return 0.0, 1.0
    rate, square = successes / n, z * z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if successes == n else centre + half
    return low, high


def summarise(traces: Iterable[Trace]) -> Summary:
    """The figures of `traces` taken together."""
    everything = list(traces)
    judged = [trace for trace in everything if trace.outcome.learnable]
    successes = sum(trace.success for trace in judged)
    sampled = [[node for node in trace.nodes if node.sampled] for trace in judged]
    return Summary(
        episodes=len(everything),
        learnable=len(judged),
        infrastructure=len(everything) - len(judged),
        successes=successes,
        success=_mean([trace.success for trace in judged]),
        interval=wilson(successes, len(judged)),
        reward=_mean([trace.reward for trace in judged]),
        turns=_mean([trace.turns for trace in judged]),
        thinking_tokens=_mean([trace.thinking_tokens for trace in judged]),
        sampled_tokens=_mean([sum(len(node.token_ids) for node in nodes) for nodes in sampled]),
        submitted=_mean([trace.outcome.reason == "submitted" for trace in judged]),
        truncated=_mean([any(node.finish_reason == "length" for node in nodes) for nodes in sampled]),
        outcomes=dict(Counter(f"{trace.outcome.by}:{trace.outcome.reason}" for trace in everything)),
        **_thinking(judged),
    )


def _thinking(traces: Sequence[Trace]) -> dict[str, Any]:
    """How thinking went, turn by turn."""
    turns = [(node, trace.thinking) for trace in traces for node in trace.nodes if node.sampled]
    errors, over = [], 0
    for node, thinking in turns:
        if thinking.budget is not None:
            over = max(over, node.thinking_tokens - thinking.budget)
            if thinking.budget and node.thought:
                errors.append(abs(node.thinking_tokens - thinking.budget) / thinking.budget)
    for trace in traces:
        if trace.thinking.episode_budget is not None:
            over = max(over, trace.thinking_tokens - trace.thinking.episode_budget)
    return {
        "triggered": _mean([node.thought for node, _ in turns]),
        "closed_by_itself": _mean([node.closed_by_itself for node, _ in turns]),
        "closed_by_budget": _mean([node.forced_close for node, _ in turns]),
        "budget_error": _mean(errors),
        "over_budget": over,
        "thinking_interval": _interval([trace.thinking_tokens for trace in traces]),
    }


def _interval(values: Sequence[int]) -> tuple[float, float]:
    """95% interval of a mean, by the normal approximation."""
    if len(values) < 2:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = 1.959964 * math.sqrt(variance / len(values))
    return mean - half, mean + half


def by_mode(traces: Iterable[Trace]) -> dict[str, Summary]:
    """The figures by thinking mode and budget (`Thinking.mode`), in order of first appearance."""
    modes: dict[str, list[Trace]] = {}
    for trace in traces:
        modes.setdefault(trace.thinking.mode, []).append(trace)
    return {mode: summarise(group) for mode, group in modes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """How often a model that was free to think chose the better mode.

    A task counts where it was played both ways. Better is to think where that succeeded and not thinking failed, else
    not to think, which is cheaper. Chosen is what the model did where it was free: whether it thought in any turn.
    accuracy: share of tasks where both agree, with its 95% interval. chose, better: share of tasks for thinking.
    """

    tasks: int
    accuracy: float
    interval: tuple[float, float]
    chose: float
    better: float


def hybrid(free: Iterable[Trace], without: Iterable[Trace]) -> Hybrid | None:
    """The figures from traces in which the model may think and in which it may not, paired by task and turn of play.

    None where no task was played both ways.
    """
    known = {_place(trace): trace for trace in without if trace.outcome.learnable}
    pairs = [(trace, known[_place(trace)]) for trace in free if trace.outcome.learnable and _place(trace) in known]
    if not pairs:
        return None
    chose = [any(node.thought for node in trace.nodes if node.sampled) for trace, _ in pairs]
    better = [trace.success and not other.success for trace, other in pairs]
    agree = sum(one == other for one, other in zip(chose, better, strict=True))
    return Hybrid(
        tasks=len(pairs),
        accuracy=agree / len(pairs),
        interval=wilson(agree, len(pairs)),
        chose=_mean(chose),
        better=_mean(better),
    )


def _place(trace: Trace) -> tuple[str, str]:
    return trace.task.id, trace.group.rpartition("/")[2]


def metric(traces: Iterable[Trace], name: str) -> tuple[float, int]:
    """(mean, n) of the reward term `name` over the learnable traces that have it; (nan, 0) for none."""
    values = [term.value for trace in traces if trace.outcome.learnable for term in trace.rewards if term.name == name]
    return _mean(values), len(values)


def version_range(traces: Iterable[Trace]) -> tuple[int, int] | None:
    """(oldest, newest) policy version of all sampled tokens; None if no policy with a version spoke."""
    ends = [
        (int(spoken.min()), int(spoken.max()))
        for trace in traces
        for node in trace.nodes
        if node.sampled and len(spoken := node.policy_versions[node.policy_versions >= 0])
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def _mean(values: list[float] | list[int] | list[bool]) -> float:
    return sum(values) / len(values) if values else math.nan
