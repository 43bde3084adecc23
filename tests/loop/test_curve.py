"""Success against thinking: what is played, what effort then means, and the page that shows it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from toy_env import TOY

import askesis
from askesis.chat import EFFORT_FILE, load_effort
from askesis.loop.curve import budgeted, effort_table, named_efforts, render_curve, row_name
from askesis.loop.results import Evaluation, Row, from_plain
from askesis.rollout import Summary, wilson
from askesis.types import ConfigError, Thinking

sys.path.append(str(Path(__file__).parent.parent / "view"))
from html_page import Page


@pytest.fixture
def checkpoint(toy_model, tmp_path):
    return Path(shutil.copytree(toy_model, tmp_path / "checkpoint"))


def test_budgets_are_played_and_efforts_kept_beside_the_checkpoint(checkpoint):
    with pytest.raises(ConfigError, match=f"has no {EFFORT_FILE}"):
        askesis.evaluate(checkpoint, env=TOY, tasks=2, efforts=["low"])
    found = askesis.evaluate(checkpoint, env=TOY, tasks=4, budgets=(0, 3, None), keep_efforts=True)
    assert [row.mode for row in found.rows][:4] == ["think:0", "think:3", "think", "no_think"]
    assert [row_name(row, {}) for row in budgeted(found)][:2] == ["no thinking", "budget 0"]
    assert found.hybrid.tasks == 4 and set(found.efforts) == {"low", "medium", "high"}
    table = load_effort(checkpoint)
    assert {name: meant.mode for name, meant in named_efforts(table).items()} == found.efforts
    assert all(row.summary.over_budget <= 0 for row in found.rows)
    again = askesis.evaluate(checkpoint, env=TOY, tasks=4, efforts=["low", 1.0])
    assert again.efforts == {"low": table.thinking(0.25).mode, "1.0": table.thinking(1.0).mode}
    assert {row.mode for row in again.rows} == set(again.efforts.values())
    low = askesis.evaluate(checkpoint, env=TOY, tasks=1, thinking=Thinking(effort=0.25))
    assert [row.mode for row in low.rows] == [table.thinking(0.25).mode]
    back = from_plain(Evaluation, json.loads(json.dumps(found.to_json())))
    assert back.hybrid == found.hybrid and [row.thinking for row in back.rows] == [row.thinking for row in found.rows]


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"budgets": ()}, "one budget, or several"),
        ({"budgets": (3,), "budget": 3}, "one budget, or several"),
        ({"budgets": (3,), "thinking": False}, "no turn would keep to it"),
        ({"budgets": (-1,)}, "budget is -1"),
        ({"keep_efforts": True}, "no use without budgets"),
        ({"efforts": ["low"], "budget": 3}, "give them without"),
        ({"efforts": ["lwo"]}, "did you mean 'low'"),
        ({"budgets": (3,), "thinking": True, "keep_efforts": True}, "only 1 gave figures"),
    ],
)
def test_what_makes_no_sense_is_refused(toy_model, asked, part):
    with pytest.raises(ConfigError, match=part):
        askesis.evaluate(toy_model, env=TOY, tasks=1, **asked)


def row(thinking, successes, tokens, n=100):
    rate = successes / n
    figures = dict.fromkeys(("reward", "turns", "sampled_tokens", "submitted", "truncated"), 0.0)
    summary = Summary(
        episodes=n,
        learnable=n,
        infrastructure=0,
        successes=successes,
        success=rate,
        interval=wilson(successes, n),
        thinking_tokens=tokens,
        outcomes={},
        **figures,
    )
    return Row(mode=thinking.mode, temperature=1.0, summary=summary, metrics={}, thinking=thinking)


def evaluation(name, *rows, **rest):
    return Evaluation(name=name, env="repair", tasks=100, rows=rows, **rest)


BEFORE = evaluation(
    "before", row(Thinking(enabled=False), 40, 0.0), row(Thinking(budget=8), 45, 20.0), row(Thinking(), 50, 60.0)
)


def test_the_table_has_what_was_measured():
    table = effort_table(BEFORE)
    assert [(p.enabled, p.budget, p.success, p.thinking_tokens) for p in table.points] == [
        (False, None, 0.4, 0.0),
        (True, 8, 0.45, 20.0),
        (True, None, 0.5, 60.0),
    ]
    assert [meant.mode for meant in named_efforts(table).values()] == ["think:6", "think:8", "think"]


def test_the_page_shows_every_point_with_its_budget_and_effort():
    after = evaluation("<after>", row(Thinking(enabled=False), 80, 0.0), row(Thinking(), 90, 9.0))
    efforts = {"medium": "think:8", "high": "think"}
    one = Page(render_curve([evaluation("x", *BEFORE.rows, efforts=efforts)], title="a & b", command="askesis eval"))
    labels = [text for text in one.texts if text in ("off", "8, medium", "none, high")]
    assert {"off", "8, medium", "none, high"} == set(labels)
    assert "45.0% [35.6, 54.8]" in one.text and "budget 8 (medium)" in one.text and "a & b" in one.text
    both = Page(render_curve([BEFORE, after], title="two"))
    assert "before, no thinking" in both.text and "<after>" in both.text
    nothing = Page(render_curve([evaluation("x")], title="nothing"))
    assert "No episode came to an end" in nothing.text
