"""Monitors in a run: a hit is an alarm, keeps its group out, or ends the run; another verifier over what was kept."""

import json

import pytest
from toy_env import TOY, Adder, Toy

import askesis
from askesis.audit import Ground
from askesis.audit.twins import MARK
from askesis.loop import RunFolder
from askesis.loop.recipe import MonitorSettings
from askesis.loop.rescoring import rescore
from askesis.loop.watch import Watch, monitors_of
from askesis.rollout import TraceStore
from askesis.types import ConfigError, Finding, Group, Reward

TWINNED = """
from dataclasses import replace

from toy_env import Toy


class Twinned(Toy):
    def impossible(self, task):
        return replace(task, data={**task.data, "sum": -1})
"""


def recipe(toy_model, folder, steps=2, **monitors):
    return {
        "run": {"name": "watched", "steps": steps, "threads": 1, "out": str(folder)},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": TOY},
        "rollout": {"tasks_per_step": 4, "group_size": 2, "context_length": 640, "slots": 16},
        "eval": {"tasks": 0},
        "log": {"tensorboard": False},
        "monitors": monitors,
    }


class Suspicious:
    """Finds something in every second trace."""

    def __init__(self, severity):
        self.severity, self.seen = severity, 0

    def observe(self, trace):
        self.seen += 1
        found = Finding(
            probe="odd", severity=self.severity, rate=1.0, n=1, interval=(0, 1), evidence=f"trace {trace.id}: odd"
        )
        return [found] if self.seen % 4 == 1 else []


@pytest.fixture
def suspicious(monkeypatch):
    """Put in place of the monitors."""

    def put(severity):
        monkeypatch.setattr("askesis.loop.watch.monitors_of", lambda settings: [Suspicious(severity)])

    return put


@pytest.mark.parametrize(
    ("action", "severity", "kept_out", "stopped_by", "staleness"),
    [
        ("alarm", "high", 0, "steps", 0),
        ("quarantine", "high", 2, "steps", 0),
        ("quarantine", "medium", 0, "steps", 0),
        ("stop", "high", 2, "monitors", 0),
        ("stop", "high", 2, "monitors", 2),
    ],
)
def test_a_hit_has_the_consequence_that_the_recipe_wants(
    toy_model, tmp_path, suspicious, action, severity, kept_out, stopped_by, staleness
):
    suspicious(severity)
    settings = recipe(toy_model, tmp_path, action=action)
    settings["rollout"]["staleness"] = staleness
    result = askesis.train(settings, display=False)
    first = result.history[0]
    assert first.dropped.get("quarantine", 0) == kept_out and first.findings == {"odd": 2}
    assert result.stopped_by == stopped_by and len(result.history) == (1 if stopped_by == "monitors" else 2)
    kept = [json.loads(line) for line in RunFolder(result.folder).findings.read_text().splitlines()]
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert {one["trace"] for one in kept} <= {trace.id for trace in store.traces(label="train")}
    alarmed = [alarm for alarm in result.alarms if alarm.kind == "monitor"]
    assert bool(alarmed) == (severity == "high")
    if kept_out:
        assert "2 of 4 groups were kept out of training" in alarmed[0].message


@pytest.mark.parametrize("staleness", [0, 1])
def test_canaries_are_played_and_never_trained_on(toy_model, tmp_path, staleness):
    settings = recipe(toy_model, tmp_path, canaries=0.5)
    settings["rollout"]["staleness"] = staleness
    with pytest.raises(ConfigError, match="no impossible twins"):
        askesis.train(settings, display=False)
    file = tmp_path / "twinned.py"
    file.write_text(TWINNED)
    result = askesis.train(settings | {"env": {"name": f"{file}:Twinned"}}, display=False)
    assert sum(record.dropped.get("canary", 0) for record in result.history) >= 1
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        played = list(store.traces(label="train"))
    canaries = [trace for trace in played if MARK in trace.task.data]
    assert 0 < len(canaries) < len(played)
    assert sum(record.episodes for record in result.history) == len(played) - len(canaries)


async def test_another_verifier_over_what_was_kept(toy_model, tmp_path):
    result = askesis.train(recipe(toy_model, tmp_path), display=False)
    folder = RunFolder(result.folder)
    rows, untrue = await rescore(folder, lambda trace: 0.0, parts=2)
    assert [row.step for row in rows] == [1, 2] and sum(row.n for row in rows) == 16
    assert sum(row.paid_untrue for row in rows) == len(untrue) == sum(row.paid for row in rows)
    file = tmp_path / "checks.py"
    file.write_text("def fails(trace):\n    raise KeyError(trace.id)\n\n\nasync def all_true(trace):\n    return 1\n")
    rows, untrue = await rescore(folder, f"{file}:fails", parts=1)
    assert (rows[0].failed, untrue) == (16, [])
    rows, _ = await rescore(folder, f"{file}:all_true", parts=1)
    assert rows[0].true == 16 and rows[0].unpaid_true == 16 - rows[0].paid
    with pytest.raises(ConfigError, match="has no function 'al_true'; did you mean 'all_true'"):
        await rescore(folder, f"{file}:al_true")
    with pytest.raises(ConfigError, match="no traces labelled 'after'"):
        await rescore(folder, f"{file}:fails", label="after")


def test_the_watch_is_made_of_the_recipe(tmp_path):
    names = [one.name for one in monitors_of(MonitorSettings(canaries=0.1, held_out="true_success"))]
    assert names == ["tampering", "shortcut-family", "trend", "canary-paid", "paid-untrue"]
    assert Watch(MonitorSettings(), tmp_path / "findings.jsonl", None).counts == {}


def test_a_run_that_goes_on_remembers_what_it_saw(toy_model, tmp_path, monkeypatch):
    seen = []

    class Sees:
        def observe(self, trace):
            seen.append(trace.id)
            return []

    monkeypatch.setattr("askesis.loop.watch.monitors_of", lambda settings: [Sees()])
    first = askesis.train(recipe(toy_model, tmp_path), display=False)
    before, seen[:] = set(seen), []
    askesis.train(resume=first.folder, overrides=["run.steps=3"], display=False)
    assert len(before) == 16 and set(seen[:16]) == before and len(set(seen[16:]) - before) == 8


class Summed(Toy):
    """Pays for the sum; from the second episode on for none, if it flips."""

    flips, verdicts = False, 0

    async def verify(self, trace, state):
        said = [call.arguments.get("value") for node in trace.nodes for call in node.message.tool_calls]
        self.verdicts += 1
        right = trace.task.data["sum"] in said and not (self.flips and self.verdicts > 1)
        return [Reward(name="success", value=float(right))]


@pytest.mark.parametrize("flips", [False, True])
async def test_a_verdict_that_flips_is_found_by_playing_again(tmp_path, flips):
    env = Summed(max_turn_tokens=200)
    env.flips = flips
    task = env.tasks("train", limit=1)[0]
    trace = await Ground(env=env).play(task, lambda task, specs: Adder(task))
    assert trace.success
    group = Group(id="g", task=task, thinking=trace.thinking, traces=[trace])
    watch = Watch(MonitorSettings(replays=1.0, action="quarantine", severity="medium"), tmp_path / "found.jsonl", env)
    watch.begin(1)
    await watch.replay([group])
    assert env.verdicts == 2
    assert watch.judge(group) == ("quarantine" if flips else "")
    assert watch.counts == ({"verdict-flips": 1} if flips else {})
    if flips:
        assert "played again, success is False and was True; all the answers were the same" in watch.worst
