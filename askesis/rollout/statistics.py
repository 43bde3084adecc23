"""What a set of traces says: pure functions, for evaluations and reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from askesis.types import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of some episodes. All but `episodes`, `infrastructure` and `outcomes` are over the learnable ones.

    success: rate, with its 95% interval (Wilson). turns, thinking_tokens, sampled_tokens, reward: means an episode.
    submitted: share that ended in a submission. truncated: share with a turn that ran into its length.
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
    )


def by_mode(traces: Iterable[Trace]) -> dict[str, Summary]:
    """The figures by thinking mode and budget (`Thinking.mode`), in order of first appearance."""
    modes: dict[str, list[Trace]] = {}
    for trace in traces:
        modes.setdefault(trace.thinking.mode, []).append(trace)
    return {mode: summarise(group) for mode, group in modes.items()}


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
