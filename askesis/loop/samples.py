"""Groups into samples: the one place where episodes become what the trainer sees.

Advantages are computed within one group: one task, one thinking mode, one budget. Traces that say nothing about the
policy (infrastructure) reach neither baseline nor loss. A group whose rewards are all alike teaches nothing and is left
out; each of these is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from askesis.types import Group, Sample, Trace

Advantages = Callable[[Sequence[float]], Sequence[float]]
_ALIKE = 1e-9


def why_dropped(group: Group) -> str | None:
    """Why a group teaches nothing, or None if it does: `infrastructure`, `too_small`, `no_variance`."""
    traces = group.learnable
    if not traces:
        return "infrastructure"
    if len(traces) < 2:
        return "too_small"
    rewards = [trace.reward for trace in traces]
    return "no_variance" if max(rewards) - min(rewards) < _ALIKE else None


def group_samples(group: Group, advantages: Advantages, weight: float = 1.0) -> list[Sample]:
    """The samples of one group's learnable traces, a sequence each. weight: of the group in the loss."""
    traces = group.learnable
    values = advantages([trace.reward for trace in traces])
    return [
        sample
        for trace, value in zip(traces, values, strict=True)
        for sample in trace_samples(trace, weight * float(value), group=group.id)
    ]


def trace_samples(trace: Trace, advantage: float, *, group: str) -> list[Sample]:
    """Each branch of a trace as a sample; `advantage` on every token that the policy sampled."""
    samples = []
    branches = ((t, branch) for t in trace.temperatures for branch in trace.sequences(temperature=t))
    for temperature, (tokens, mask, logprobs, versions) in branches:
        if not mask.any():
            continue
        samples.append(
            Sample(
                token_ids=tokens,
                mask=mask,
                logprobs=np.where(mask, logprobs, 0.0).astype(np.float32),
                advantages=np.where(mask, advantage, 0.0).astype(np.float32),
                policy_versions=versions,
                trace_id=trace.id,
                group=group,
                temperature=temperature,
            )
        )
    return samples


def demonstration_samples(traces: Iterable[Trace], *, observations: float = 0.0) -> list[Sample]:
    """Demonstrated traces as samples: weight one on what the demonstrator said, `observations` on all else."""
    samples = [sample for trace in traces for sample in trace_samples(trace, 1.0, group=trace.group)]
    return [_observing(sample, observations) for sample in samples] if observations else samples


def _observing(sample: Sample, weight: float) -> Sample:
    """The sample with loss on every token: a demonstrator's one branch, which nothing has cut short."""
    weights = np.where(sample.mask, sample.advantages, weight).astype(np.float32)
    return replace(sample, mask=np.ones_like(sample.mask), advantages=weights)
