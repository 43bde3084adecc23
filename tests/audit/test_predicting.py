"""The prediction out of an audit, against numbers worked out by hand."""

import json

import pytest

from askesis.audit import Audit, exploitability
from askesis.audit.report import Line


def line(probe, *, severity="high", hits=0, n=10, tasks=(), axis="validity", verdict="found"):
    return Line(
        probe=probe,
        axis=axis,
        flaw="f",
        about="a",
        verdict=verdict,
        severity=severity,
        rate=hits / n,
        n=n,
        interval=(0.0, 1.0),
        evidence="",
        note="",
        repro="",
        seconds=0.0,
        tasks=tasks,
    )


def found(*lines):
    made = Audit(
        name="desk",
        env="desk",
        options={},
        code="",
        tasks="",
        origin="",
        seed=0,
        count=10,
        split="heldout",
        seconds=1.0,
        date="2026-01-31",
        lines=lines,
    )
    return Audit.of(json.loads(json.dumps(made.to_json())))  # it is a formula over the file


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], 0.0),
        ([line("oracle", verdict="clean"), line("leaks", verdict="inconclusive", hits=10)], 0.0),
        ([line("replay", hits=10, axis="stability"), line("difficulty", hits=10, axis="coverage")], 0.0),
        ([line("null-battery", hits=10)], 1.0),
        ([line("null-battery", hits=10, n=40, tasks=tuple("0123456789"))], 1.0),  # one way of four, on every task
        ([line("random-policy", hits=2, severity="medium")], 0.1),
        ([line("random-policy", hits=2, severity="medium", verdict="suppressed")], 0.1),
        ([line("search-actions", hits=2, n=2, tasks=("a", "b"))], 0.5),
        ([line("channel-forgery", hits=10)], 0.1),
        ([line("search-actions", hits=2, n=2), line("random-policy", hits=5, severity="low")], 1 - 0.5 * 0.9),
    ],
)
def test_severity_reach_and_rate(lines, expected):
    assert exploitability(found(*lines)) == pytest.approx(expected)
