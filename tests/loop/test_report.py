"""report.html of real runs: what it takes from them, also where a run is short, cut off or supervised."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_env import TOY

import askesis
from askesis.loop import RunFolder, find_run, load_recipe
from askesis.loop import run as loop_run
from askesis.loop.report import difference, report_of, token_texts
from askesis.loop.results import Alarm
from askesis.rollout import TraceStore, wilson
from askesis.view import Mark, render_report


class Run:
    """A finished run, and its report under other circumstances."""

    def __init__(self, recipe):
        self.result = askesis.train(recipe, display=False)
        self.folder, self.bundle = RunFolder(self.result.folder), askesis.load(self.result.folder)
        self.recipe = load_recipe(self.folder.recipe)

    def report(self, **changes):
        prepared = SimpleNamespace(
            recipe=self.recipe,
            env=SimpleNamespace(name="toy"),
            agent=SimpleNamespace(name="solo@1"),
            config=self.bundle.config,
            renderer=self.bundle.renderer,
        )
        with TraceStore(self.folder.traces, readonly=True) as store:
            return report_of(replace(self.result, **changes), prepared, self.folder, store)


@pytest.fixture(scope="module")
def run(toy_model, tmp_path_factory):
    return Run(
        {
            "run": {"name": "toy", "steps": 4, "threads": 1, "out": str(tmp_path_factory.mktemp("report"))},
            "model": {"checkpoint": str(toy_model)},
            "env": {"name": TOY, "options": {"max_turn_tokens": 10}},
            "rollout": {"tasks_per_step": 4, "group_size": 4, "context_length": 640, "slots": 16},
            "eval": {"tasks": 8, "every": 2},
            "log": {"tensorboard": False},
        }
    )


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    return Run(
        {
            "run": {"name": "sft", "kind": "sft", "threads": 1, "out": str(tmp_path_factory.mktemp("report"))},
            "model": {
                "init": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 16},
                "tokenizer": {"vocab_size": 300, "episodes": 20},
            },
            "env": {"name": TOY, "options": {"max_turn_tokens": 40}},
            "demonstrations": {"episodes": 8, "per_step": 4, "epochs": 2, "keep": 8},
            "eval": {"tasks": 0},
            "log": {"tensorboard": False},
        }
    )


def charts(report):
    return {chart.title: chart for section in report.sections for chart in (section.hero, *section.charts) if chart}


def test_the_page_in_the_folder_is_the_report_of_the_run(run):
    html = run.folder.report.read_text(encoding="utf-8")
    assert "</html>" in html and f"<h1>{run.result.id}" in html
    assert len(html) < 300_000
    assert render_report(run.report()) == render_report(run.report())


def test_figures_are_those_of_the_evaluations(run):
    results = run.report().results
    assert results.exams == ["before", "step 2", "after"]  # after the last step comes `after`, not `step 4`
    names = ["thinking, sampled", "no thinking, sampled", "thinking, greedy", "no thinking, greedy"]
    assert sorted(row.name for row in results.rows) == sorted(names)
    row = next(row for row in results.rows if row.name == "thinking, sampled")
    summary = run.result.evaluation("after").row("think").summary
    assert (row.scores[-1].rate.y, row.scores[-1].rate.low) == (summary.success, summary.interval[0])
    assert row.scores[-1].figures["said"].n == summary.learnable == 8
    assert row.scores[-1].figures["with a turn cut off"].value == summary.truncated
    assert row.change[0] == summary.success - run.result.evaluation("before").row("think").summary.success
    greedy = next(row for row in results.rows if row.name == "thinking, greedy")
    assert greedy.scores[1] is None  # evaluations in between are sampled only


def test_the_interval_of_a_change_is_newcombes():
    """His example (a): 56/70 and 48/80, difference 0.2 with 0.0524 to 0.3339 (Newcombe 1998, table II, method 10)."""
    before, after = (Mark(x=0, y=k / n, low=wilson(k, n)[0], high=wilson(k, n)[1]) for k, n in ((48, 80), (56, 70)))
    assert difference(before, after) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_curves_are_those_of_the_steps(run):
    drawn, history = charts(run.report()), run.result.history
    assert drawn["reward"].series[0].ys == [record.reward for record in history]
    thinking, other = drawn["success"].series
    assert (thinking.name, thinking.tone, other.name, other.tone) == ("thinking", "a", "no thinking", "b")
    assert [mark.x for mark in thinking.marks] == [0, 2, 4]
    assert drawn["loss"].series[0].ys == [record.trainer.get("loss", math.nan) for record in history] or any(
        not record.trainer for record in history
    )
    groups = drawn["groups"].series
    assert [sum(values) for values in zip(*(one.ys for one in groups), strict=True)] == [4.0] * 4


def test_a_task_is_read_before_and_after_in_each_mode(run):
    stories = run.report().stories
    assert [story.title for story in stories] == ["Thinking", "No thinking"]
    for story in stories:
        before, after = story.episodes
        assert (before.title, after.title) == ("before", "after")
        assert before.trace.task.id == after.trace.task.id
        assert "Of 8 held-out tasks, from before to after: " in story.why
        for episode in story.episodes:
            for node, pieces in zip(episode.trace.nodes, episode.pieces, strict=True):
                assert "".join(pieces) == run.bundle.renderer.decode(node.token_ids)
                assert not node.sampled or len(pieces) == len(node.token_ids)


def test_without_evaluations_episodes_come_from_training(run):
    report = run.report(evaluations=[])
    assert report.results is None
    for story in report.stories:
        assert story.why.startswith("From training")
        assert story.episodes[0].title == "step 1"
        modes = {episode.trace.thinking.mode for episode in story.episodes}
        assert modes == {"think" if story.title == "Thinking" else "no_think"}


@pytest.mark.parametrize("steps", [0, 1])
def test_runs_that_hardly_began(run, steps):
    before = [run.result.evaluation("before")]
    changes = {"state": "interrupted", "stopped_by": "interrupt", "steps": steps, "checkpoint": None}
    report = run.report(history=run.result.history[:steps], evaluations=before, **changes)
    html = render_report(report)
    assert ("No step was trained." in html) == (steps == 0)
    assert [row.change for row in report.results.rows] == [None] * 4
    assert [what for what, _ in report.commands] == ["Go on with this run"]
    empty = run.report(history=[], evaluations=[], **changes)
    assert empty.stories == [] and "</html>" in render_report(empty)


def test_what_a_step_lacks_is_a_gap(run):
    first, *rest = run.result.history
    bare = replace(first, reward=math.nan, success_by_mode={}, thinking_by_mode={}, trainer={}, turns=math.nan)
    report = run.report(history=[bare, *rest])
    assert math.isnan(charts(report)["success"].series[0].ys[0])
    assert "nan" not in render_report(report).split("<main>")[1].split('id="episodes"')[0]


def test_alarms_say_since_when(run):
    alarm = Alarm(kind="no_variance", message="m", first=2, last=4)
    alarms = [replace(alarm, count=3), replace(alarm, count=2), replace(alarm, last=2)]
    whens = [notice.when for notice in run.report(alarms=alarms).notices]
    assert whens == ["steps 2 to 4", "2 of the steps 2 to 4", "step 2"]


def test_a_page_that_cannot_be_written_costs_no_result(toy_recipe, monkeypatch):
    monkeypatch.setattr(loop_run, "write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        askesis.train(toy_recipe, overrides=["run.steps=1", "eval.tasks=0"], display=False)
    folder = find_run("latest", out=Path(toy_recipe["run"]["out"]))
    assert folder.status()["state"] == "finished"
    assert json.loads(folder.result.read_text())["steps"] == 1


def test_commands_go_on_from_here(run):
    commands = dict(run.report().commands)
    assert commands["Train it for longer"] == f"askesis train --resume {run.result.folder} --set run.steps=8"
    exam = commands["Evaluate its last checkpoint"]
    assert f"{run.result.checkpoint} --env" in exam and exam.endswith("--option max_turn_tokens=10")


def test_supervised_runs_show_their_loss_and_no_groups(supervised):
    report = supervised.report()
    drawn = charts(report)
    assert report.sections[0].hero.title == "loss"
    assert not {"groups", "success", "reward"} & drawn.keys()
    assert "tokens trained a second" in drawn
    assert dict(report.facts)["demonstrations"] == "16"
    assert report.results is None and "Nothing was evaluated." in render_report(report)
    assert [story.title for story in report.stories] == ["Thinking", "No thinking"]


def test_characters_of_several_tokens_stand_at_their_last_one(run):
    renderer = run.bundle.renderer
    tokens = np.array(renderer.tokenizer.encode("a日b"), dtype=np.int32)
    node = run.report().stories[0].episodes[0].trace.nodes[-1]
    assert token_texts(replace(node, token_ids=tokens), renderer) == ["a", "", "", "日", "b"]
