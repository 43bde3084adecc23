"""Effort means a budget only where something was measured; more effort never means less thinking."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.chat import EFFORT_FILE, EffortPoint, EffortTable, effort_value, load_effort, resolve, save_effort
from askesis.types import CheckpointError, ConfigError, Thinking


def point(budget, tokens, success, *, enabled=True, half=0.03):
    low, high = max(0.0, success - half), min(1.0, success + half)
    return EffortPoint(
        enabled=enabled, budget=budget, thinking_tokens=tokens, success=success, interval=(low, high), episodes=300
    )


def table(*points):
    return EffortTable(env="repair", agent="solo@1", temperature=1.0, points=points)


MEASURED = table(
    point(None, 0.0, 0.40, enabled=False),
    point(0, 0.0, 0.38),
    point(8, 20.0, 0.55),
    point(32, 60.0, 0.70),
    point(None, 100.0, 0.72),
)


@pytest.mark.parametrize(
    ("effort", "meant"),
    [
        (0.0, Thinking(enabled=False)),
        (0.2, Thinking(budget=8)),
        (0.4, Thinking(budget=20)),  # half way from 20 to 60 tokens: half way from 8 to 32
        (0.6, Thinking(budget=32)),
        (0.7, Thinking(budget=32)),  # nothing lies between a bound and none: the nearer
        (1.0, Thinking()),
    ],
)
def test_effort_is_a_share_of_the_way_in_mean_thinking_tokens(effort, meant):
    assert MEASURED.thinking(effort) == meant


def test_thinking_that_clearly_hurts_is_on_no_way():
    """ "Brief Is Better" (2604.02155): 44% at 0 thinking tokens, 64% at 32, 25% at 256."""
    found = table(point(0, 0.0, 0.44), point(32, 32.0, 0.64), point(256, 256.0, 0.25)).thinking(1.0)
    assert found == Thinking(budget=32)
    within_noise = table(point(0, 0.0, 0.44), point(32, 32.0, 0.64), point(256, 256.0, 0.60)).thinking(1.0)
    assert within_noise == Thinking(budget=256)


def test_of_two_that_cost_nothing_the_better_is_the_cheapest():
    assert table(point(None, 0.0, 0.3, enabled=False), point(0, 0.0, 0.5)).thinking(0.5) == Thinking(budget=0)


@given(
    rows=st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1)), min_size=1, max_size=7),
    efforts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    unbounded=st.booleans(),
)
@settings(max_examples=200)
def test_more_effort_never_means_less_thinking(rows, efforts, unbounded):
    budgets = [2**i for i in range(len(rows))]
    points = [point(b, tokens, success) for b, (tokens, success) in zip(budgets, rows, strict=True)]
    if unbounded:
        points[-1] = replace(points[-1], budget=None)
    less, more = (table(*points).thinking(effort) for effort in sorted(efforts))
    amount = [2**20 if one.budget is None else one.budget for one in (less, more)]
    assert amount[0] <= amount[1]
    assert all(budgets[0] <= value for value in amount)


def test_names_numbers_and_what_is_neither():
    assert [effort_value(one) for one in ("low", "medium", "high", "0.3", 1)] == [0.25, 0.5, 1.0, 0.3, 1.0]
    for wrong in ("hihg", "", 1.1, -0.1, float("nan"), True, None):
        with pytest.raises(ConfigError, match="low, medium, high or a number from 0 to 1"):
            effort_value(wrong)
    with pytest.raises(ConfigError, match="did you mean 'high'"):
        effort_value("hihg")


def test_effort_without_a_measurement_says_what_to_run():
    with pytest.raises(ConfigError, match=r"askesis eval runs/x --env ENV --budgets .* --save-effort"):
        resolve(Thinking(effort=0.5), None, checkpoint="runs/x")
    assert resolve(Thinking(budget=3), None) == Thinking(budget=3)
    assert resolve(Thinking(enabled=False, effort=0.5), None) == Thinking(enabled=False)
    asked = Thinking(effort=0.2, episode_budget=50)
    assert resolve(asked, MEASURED) == Thinking(budget=8, episode_budget=50)


def test_kept_beside_the_checkpoint(tmp_path):
    assert load_effort(tmp_path) is None
    assert save_effort(MEASURED, tmp_path) == tmp_path / EFFORT_FILE
    assert load_effort(tmp_path) == MEASURED


@pytest.mark.parametrize("damage", [{"points": []}, {"points": [{"budget": 3}]}, {"env": None, "points": None}, None])
def test_a_damaged_table_is_an_error_that_names_the_file(tmp_path, damage):
    save_effort(MEASURED, tmp_path)
    raw = json.loads((tmp_path / EFFORT_FILE).read_text())
    (tmp_path / EFFORT_FILE).write_text("{" if damage is None else json.dumps(raw | damage))
    with pytest.raises(CheckpointError, match=EFFORT_FILE):
        load_effort(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"budget": -1}, {"episode_budget": -1}, {"effort": 1.5}, {"effort": 0.5, "budget": 3}]
)
def test_thinking_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="thinking"):
        Thinking(**wrong)
    modes = [Thinking(budget=8, episode_budget=40), Thinking(episode_budget=40), Thinking(effort=0.5)]
    assert [one.mode for one in modes] == ["think:8/40", "think:/40", "effort:0.5"]
