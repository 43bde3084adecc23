"""Rollout that runs ahead of training: bounded, complete, and so after any kill."""

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from toy_env import TOY

import askesis
from askesis.cli.app import main
from askesis.inference import EmbeddedEngine
from askesis.loop import RunFolder, find_run, load_recipe
from askesis.loop.ageing import age
from askesis.models import fingerprint
from askesis.rollout import Ledger, TraceStore
from askesis.train import Trainer
from askesis.types import ConfigError, Sample
from bench.kills_store import second_reading

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["askesis.loop.training", "askesis.loop.plan"])
STEPS, TASKS = 8, 3


@pytest.fixture
def ahead(toy_model, tmp_path):
    """Eight steps of three groups, at most two versions behind; set-ups take their time."""
    return {
        "run": {"name": "toy", "steps": STEPS, "threads": 2, "out": str(tmp_path)},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": TOY, "options": {"delay": 0.03}},
        "rollout": {
            **{"tasks_per_step": TASKS, "group_size": 3, "context_length": 640, "slots": 16},
            **{"staleness": 2, "concurrency": 20},
        },
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 3},
        "log": {"tensorboard": False},
        "train": {"lr": 3e-3},
    }


def quietly(*args, **kwargs):
    return askesis.train(*args, display=False, **kwargs)


def the_run(recipe) -> RunFolder:
    return find_run("latest", out=Path(load_recipe(recipe).run.out))


def complete(folder):
    """Every prompt trained or dropped exactly once, none older than allowed."""
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []
        standing = store.ledger.standing()
    assert (standing.steps, standing.drawn, standing.open) == (STEPS, STEPS * TASKS, 0)
    assert standing.trained + standing.dropped == STEPS * TASKS
    assert standing.staleness <= 2
    assert second_reading(folder.traces) == (0, 0)
    return standing


def test_a_run_ahead_of_its_training(ahead, monkeypatch, capsys):
    ahead["eval"] = {"tasks": 4, "every": 4, "greedy": False}
    ahead["log"] = {"tensorboard": True}
    engines = []
    original = EmbeddedEngine.update_weights

    async def update(self, weights, version, **meant):
        engines.append(self)
        await original(self, weights, version, **meant)

    monkeypatch.setattr(EmbeddedEngine, "update_weights", update)
    result = quietly(ahead)
    assert (result.state, result.steps) == ("finished", STEPS)
    folder = RunFolder(result.folder)
    standing = complete(folder)
    assert 1 <= standing.staleness == max(record.staleness_max for record in result.history)
    for record in result.history:
        assert record.ahead and record.staleness <= record.staleness_max <= 2
        if record.trained_tokens:
            assert sum(record.distances.values()) == pytest.approx(1)
    assert [
        alarm.kind for alarm in result.alarms if alarm.kind in ("weights", "logprob_gap", "given_up", "update")
    ] == []
    # the engine has weights of its own, and at the end they are those that the last step made
    assert fingerprint(engines[-1].model) == result.history[-1].made
    with TraceStore(folder.traces, readonly=True) as store:
        for trace in store.traces(label="eval:step 4"):  # an exam is sat under one version
            assert {int(v) for node in trace.nodes if node.sampled for v in node.policy_versions} == {4}
        trained = {int(v) for trace in store.traces(label="train") for n in trace.nodes for v in n.policy_versions}
    assert len(trained - {-1}) > 2
    page = folder.report.read_text()
    assert "Ahead of training" in page and f"at most {standing.staleness}." in page
    assert "from the shortest to the longest" in page
    assert "nothing skipped, nothing trained twice" in checked(result.folder, capsys, code=0)
    told = json.loads(checked(result.folder, capsys, "--json", code=0))
    assert (told["wrong"], told["trained"], told["staleness"]) == ([], standing.trained, standing.staleness)
    with closing(sqlite3.connect(folder.traces)) as store:
        store.execute("UPDATE draws SET position = position + 1 WHERE position > 5")
        store.commit()
    assert "prompt 6 was skipped" in checked(result.folder, capsys, code=1)
    assert second_reading(folder.traces) == (1, 0)


def checked(folder, capsys, *flags, code):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["runs", "check", str(folder), *flags])
    assert ended.value.code == code
    return capsys.readouterr().out


def test_tokens_are_counted_by_their_distance():
    def sample(*versions):
        found = np.array(versions, dtype=np.int32)
        return Sample(token_ids=found, mask=found >= 0, logprobs=found, advantages=found, policy_versions=found)

    found = age([sample(-1, 10, 9, 9), sample(8, 7), sample(3, 2, 0)], 10)
    assert (found.most, found.mean) == (10, pytest.approx((0 + 1 + 1 + 2 + 3 + 7 + 8 + 10) / 8))
    assert found.shares == {"0": 1 / 8, "1": 2 / 8, "2-3": 2 / 8, "4-7": 1 / 8, "8+": 2 / 8}
    assert age([], 3).shares == {}


@pytest.mark.parametrize("cache", ["keep", pytest.param("drop", marks=pytest.mark.full)])
def test_updates_in_flight_change_nothing_but_the_weights(ahead, cache, monkeypatch):
    """With a rate of nothing all versions are the same weights: then what was sampled under any is what is trained."""
    ahead["rollout"] |= {"cache_at_update": cache, "limits": {"max_turn_tokens": 200}}
    ahead["env"]["options"]["max_turn_tokens"] = 200
    ahead["train"] = {"optimizer": "adamw", "lr": 1e-12}
    advance = EmbeddedEngine._advance
    monkeypatch.setattr(EmbeddedEngine, "_advance", lambda engine: (time.sleep(0.005), advance(engine)))
    result = quietly(ahead)
    found = [record.trainer for record in result.history if record.trainer]
    assert any(figures.get("staleness_max", 0) for figures in found)
    assert all(figures.get("gap_max", figures.get("logprob_gap", 0.0)) < 1e-4 for figures in found)
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        sampled = [node for trace in store.traces(label="train") for node in trace.nodes if node.sampled]
    assert any(len(set(node.policy_versions.tolist())) > 1 for node in sampled)  # one turn under several versions


def test_damaged_weights_are_refused_and_sent_again(ahead, monkeypatch):
    original, calls = EmbeddedEngine.update_weights, []

    async def damaged(self, weights, version, **meant):
        calls.append(version)
        if calls.count(version) < 2 and version == 3:
            weights = weights | {"model.norm.weight": weights["model.norm.weight"] + 1e-3}
        await original(self, weights, version, **meant)

    monkeypatch.setattr(EmbeddedEngine, "update_weights", damaged)
    result = quietly(ahead)
    (alarm,) = [alarm for alarm in result.alarms if alarm.kind == "update"]
    assert (alarm.first, calls.count(3), calls.count(4)) == (3, 2, 1)
    assert sum(record.infrastructure + record.retried for record in result.history) == 0  # no episode noticed
    complete(RunFolder(result.folder))


@pytest.mark.full
def test_what_is_too_late_is_given_up_and_drawn_again(ahead):
    ahead["env"]["options"] |= {"late": 0.6}
    ahead["rollout"] |= {"staleness": 1, "spare": 0.2}
    result = quietly(ahead)
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
        standing = store.ledger.standing()
        assert store.ledger.open() == []  # also what was given up in the last step
    assert standing.drawn == STEPS * TASKS == standing.trained + standing.dropped
    assert standing.given_up == sum(record.given_up for record in result.history) > 0
    assert "given_up" in {alarm.kind for alarm in result.alarms}
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        again = {trace.group for trace in store.traces(label="train") if "." in trace.group}
    assert len(again) == standing.given_up


# -- ends ----------------------------------------------------------------------------------------------------------


def _train(recipe):
    quietly(recipe)


def test_an_interruption_keeps_what_was_sampled_and_trained(ahead):
    ahead["env"]["options"]["delay"] = 0.2
    child = CLEAN.Process(target=_train, args=(ahead,))
    child.start()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if the_run(ahead).status().get("step", -1) >= 2:
                break
        except ConfigError:
            pass
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGINT)
    child.join(30)
    assert child.exitcode == 0
    folder = the_run(ahead)
    with TraceStore(folder.traces, readonly=True) as store:
        last = store.ledger.last_step()
        assert last.checkpoint == f"step-{last.step}" and store.ledger.check() == []
        assert store.ledger.open()
        assert "cancelled" in {trace.outcome.by for trace in store.traces(label="train", abandoned=True)}
    complete(RunFolder(quietly(resume=folder.path).folder))


def _die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def _train_and_die(recipe, where):
    owner, name, nth, after = {
        "right after prompts were drawn": (Ledger, "draw", 4, True),
        "when a group is emitted": (TraceStore, "add", 14, True),
        "between checkpoint and commit": (Ledger, "commit_step", 6, False),
        "before the next step begins": (Ledger, "commit_step", 6, True),
        "while the trainer computes": (Trainer, "step", 3, False),
        "while the engine is told": (EmbeddedEngine, "update_weights", 6, False),
    }[where]
    original, calls = getattr(owner, name), iter(range(1, 10_000))

    def dying(*args, **kwargs):
        here = next(calls) == nth
        if here and not after:
            _die()
        value = original(*args, **kwargs)
        if here:
            _die()
        return value

    setattr(owner, name, dying)
    quietly(recipe)


@pytest.mark.parametrize(
    "where",
    [
        "right after prompts were drawn",
        *(
            pytest.param(where, marks=pytest.mark.full)
            for where in (
                "between checkpoint and commit",
                "when a group is emitted",
                "before the next step begins",
                "while the trainer computes",
                "while the engine is told",
            )
        ),
    ],
)
def test_killed_at_the_worst_moment_nothing_is_skipped_or_trained_twice(where, ahead):
    child = CLEAN.Process(target=_train_and_die, args=(ahead, where))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    folder = the_run(ahead)
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []
    complete(RunFolder(quietly(resume=folder.path).folder))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_while_ahead(seed, ahead):
    rng, kills, given = random.Random(seed), 0, {"recipe": ahead}
    while True:
        child = CLEAN.Process(target=quietly, kwargs=given)
        child.start()
        child.join(rng.uniform(0.1, 1.5) if kills < 8 else None)
        if child.exitcode is None:
            child.kill()
            child.join()
            kills += 1
        elif child.exitcode == 0:
            break
        try:
            given = {"resume": the_run(ahead).path}
        except ConfigError:
            given = {"recipe": ahead}
    complete(the_run(ahead))
