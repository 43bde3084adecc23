"""Figures of traces."""

import math

import pytest
from test_store import trace

from askesis.rollout import by_mode, metric, summarise, version_range, wilson
from askesis.types import Thinking


def test_wilson_against_published_values():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)


def test_infrastructure_is_counted_apart():
    off = Thinking(enabled=False)
    traces = [trace("a"), trace("b", success=False), trace("c", by="tool", version=4), trace("d", mode=off, version=2)]
    summary = summarise(traces)
    assert (summary.episodes, summary.learnable, summary.infrastructure, summary.successes) == (4, 3, 1, 2)
    assert (summary.success, summary.turns, summary.thinking_tokens, summary.submitted) == (2 / 3, 1, 2, 1)
    assert summary.interval == wilson(2, 3)
    assert summary.outcomes == {"policy:submitted": 3, "tool:error": 1}
    modes = by_mode(traces)
    assert list(modes) == ["think", "no_think"] and modes["no_think"].success == 1.0
    assert metric(traces, "success") == (2 / 3, 3) and metric(traces, "edits")[1] == 0
    assert version_range(traces) == (0, 4) and version_range([]) is None
    assert math.isnan(summarise([]).success)
