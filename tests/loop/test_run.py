"""Whole runs with a random model on a toy environment: what comes out, interruption, resuming, kills."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_env import SPEC, TOY
from transformers import AutoModelForCausalLM, AutoTokenizer

import askesis
from askesis.loop import RunFolder, checkpoints, find_run, load_recipe, training
from askesis.loop.checkpoints import written
from askesis.models import build, fingerprint
from askesis.rollout import Ledger, TraceStore
from askesis.types import CheckpointError, ConfigError, StoreError

# Not plain forks: earlier tests leave threads here, and a lock that one of them holds is held for ever in a fork.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["askesis.loop.training", "askesis.loop.plan"])


def quietly(*args, **kwargs):
    return askesis.train(*args, display=False, **kwargs)


def weights(folder):
    return load_file(folder / "model.safetensors")


def the_run(recipe) -> RunFolder:
    return find_run("latest", out=Path(load_recipe(recipe).run.out))


@pytest.fixture(scope="module")
def uninterrupted(toy_model, tmp_path_factory):
    """What eight steps without a fault come to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return quietly(long_recipe(toy_model, folder))


def long_recipe(toy_model, folder):
    return {
        "run": {"name": "toy", "steps": 8, "threads": 1, "out": str(folder)},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": TOY, "options": {"delay": 0.01}},
        "rollout": {"tasks_per_step": 3, "group_size": 3, "context_length": 640, "slots": 16},
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 3},
        "log": {"tensorboard": False},
        "train": {"lr": 3e-3},
    }


def test_a_run_end_to_end(toy_recipe):
    toy_recipe["log"] = {"tensorboard": True}
    result = quietly(toy_recipe)
    assert (result.state, result.stopped_by, result.steps) == ("finished", "steps", 4)
    assert [evaluation.name for evaluation in result.evaluations] == ["before", "after"]
    row = result.evaluation("after").row("think")
    assert row.summary.episodes == 8
    assert 0 <= row.summary.interval[0] <= row.summary.success <= row.summary.interval[1] <= 1
    assert row.metrics["said"][1] == 8
    folder = RunFolder(result.folder)
    assert folder.status()["state"] == "finished"
    assert json.loads(folder.result.read_text())["steps"] == 4
    assert "</html>" in folder.report.read_text()
    assert list(folder.tensorboard.iterdir())
    assert [path.name for path in written(folder)] == ["step-2", "step-4"]
    assert load_recipe(tomllib.loads(folder.recipe.read_text())) == load_recipe(toy_recipe)
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []
        assert store.ledger.position() == 16
        traces = list(store.traces(label="train"))
        assert len(traces) == 4 * 4 * 4
        assert {trace.thinking.mode for trace in traces} == {"think", "no_think"}
        assert len(list(store.traces(label="eval:before"))) == 16
    changed = weights(result.checkpoint)
    assert any(not torch.equal(changed[name], tensor) for name, tensor in weights(_start(toy_recipe)).items())


def _start(recipe):
    return checkpoints.resolve(recipe["model"]["checkpoint"])


def test_the_ecosystem_opens_a_checkpoint_and_so_do_we(toy_recipe):
    toy_recipe["eval"] = {"tasks": 0}
    result = quietly(toy_recipe, overrides=["run.steps=1"])
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    text = [{"role": "user", "content": "Add 3 and 4."}]
    theirs = tokenizer.apply_chat_template(text, add_generation_prompt=True, enable_thinking=False, return_dict=False)
    bundle = askesis.load(result.folder)
    ours = bundle.renderer.render(
        [askesis.loop.bundle.as_message(text[0])], thinking=askesis.types.Thinking(enabled=False)
    )
    assert theirs == ours.tolist()
    tokens = torch.tensor([theirs])
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens).logits, bundle.model.logits(bundle.model(tokens)), atol=1e-4, rtol=1e-4
        )
    said = bundle.generate("Add 3 and 4.", thinking=False, max_tokens=5, seed=1)
    assert said == bundle.generate(text, thinking=False, max_tokens=5, seed=1)
    assert said.role == "assistant"


def test_the_same_recipe_gives_the_same_weights(uninterrupted, toy_model, tmp_path):
    again = quietly(long_recipe(toy_model, tmp_path))
    for name, tensor in weights(again.checkpoint).items():
        assert torch.equal(tensor, weights(uninterrupted.checkpoint)[name])
    other = quietly(long_recipe(toy_model, tmp_path), overrides=["run.seed=1"])
    assert any(not torch.equal(t, weights(again.checkpoint)[n]) for n, t in weights(other.checkpoint).items())


def test_supervised_learning_makes_its_own_model(toy_recipe):
    toy_recipe |= {
        "run": toy_recipe["run"] | {"kind": "sft"},
        "model": {
            "init": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 16},
            "tokenizer": {"vocab_size": 300, "episodes": 20},
        },
        "env": toy_recipe["env"] | {"options": {"max_turn_tokens": 40}},
        "demonstrations": {"episodes": 64, "per_step": 16, "epochs": 3, "keep": 10},
        "train": {"lr": 2e-2},
    }
    del toy_recipe["run"]["steps"]
    result = quietly(toy_recipe)
    assert (result.stopped_by, result.steps) == ("demonstrations", 12)
    losses = [record.trainer["loss"] for record in result.history]
    assert losses[-1] < losses[0] / 2
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
        assert store.ledger.position() == 64 * 3
        kept = list(store.traces(label="train"))
    assert len(kept) == 10
    renderer = askesis.load(result.folder).renderer
    schema = renderer.render([askesis.loop.bundle.as_message("x")], tools=[SPEC])
    assert len(schema) < 30  # the tools' schema is one token each piece
    assert all(trace.outcome.reason == "submitted" for trace in kept)


def test_a_mixture_of_experts_trains_and_shows_its_balance(toy_recipe, toy_model, tmp_path):
    renderer = askesis.load(toy_model).renderer
    config = replace(askesis.load(toy_model).config, num_experts=4, num_experts_per_tok=1, moe_intermediate_size=32)
    model = build(config)
    model.initialise(0, 0.1)
    checkpoints.save_model(tmp_path / "mixture", model, renderer)
    toy_recipe |= {"eval": {"tasks": 0}, "log": {"tensorboard": True}}
    toy_recipe["model"] = {"checkpoint": str(tmp_path / "mixture")}
    result = quietly(toy_recipe, overrides=["run.steps=2", "train.router_aux=0.1"])
    for record in result.history:
        assert record.trainer["router_balance"] >= 1.0
        assert record.trainer["logprob_gap"] < 1e-4
    assert "experts' balance 1." in RunFolder(result.folder).log.read_text()
    changed, start = weights(result.checkpoint), weights(tmp_path / "mixture")
    assert all(not torch.equal(changed[name], start[name]) for name in changed if "mlp.gate.weight" in name)


# -- ends ----------------------------------------------------------------------------------------------------------


def test_an_interruption_saves_what_was_sampled_and_trained(uninterrupted, toy_model, tmp_path):
    recipe = long_recipe(toy_model, tmp_path)
    child = CLEAN.Process(target=quietly, args=(recipe,))
    child.start()
    folder = _when(recipe, child, step=4)
    os.kill(child.pid, signal.SIGINT)
    child.join(30)
    assert child.exitcode == 0
    result = json.loads(folder.result.read_text())
    assert (result["state"], result["stopped_by"]) == ("interrupted", "interrupt")
    with TraceStore(folder.traces, readonly=True) as store:
        last = store.ledger.last_step()
        assert last.checkpoint == f"step-{last.step}"  # nothing that was trained is lost
        assert last.step == result["steps"] >= 4
        assert store.ledger.check() == []
    resumed = quietly(resume=folder.path)
    assert resumed.state == "finished"
    _same_as(resumed, uninterrupted)


def _when(recipe, child, *, step: int) -> RunFolder:
    """Wait until the run that `child` does is past `step`."""
    until = time.monotonic() + 60
    while time.monotonic() < until and child.is_alive():
        try:
            folder = the_run(recipe)
            if folder.status().get("step", -1) >= step:
                return folder
        except ConfigError:
            pass
        time.sleep(0.005)
    raise AssertionError(f"the run did not get to step {step}")


def _same_as(result, uninterrupted):
    """Nothing skipped, nothing trained twice; and so the weights are those of a run without a fault, to the bit."""
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
        assert store.ledger.position() == 24
        steps = store.ledger.steps()
    assert [step.step for step in steps] == list(range(1, 9))
    assert all(b.version == a.version + 1 for a, b in pairwise(steps))
    assert [record.step for record in result.history] == list(range(1, 9))
    expected = weights(uninterrupted.checkpoint)
    for name, tensor in weights(result.checkpoint).items():
        assert torch.equal(tensor, expected[name]), name


def _die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(where: str):
    """Make this process die at a named moment of the fifth or sixth step, where a checkpoint is due."""
    moments = {
        "after the draws are entered": (Ledger, "draw", 5, True),
        "before the checkpoint": (training, "write_checkpoint", 2, False),
        "in the middle of the checkpoint": (checkpoints, "save_model", 2, True),
        "between checkpoint and commit": (Ledger, "commit_step", 6, False),
        "between commit and pruning": (Ledger, "commit_step", 6, True),
        "in the middle of pruning": (checkpoints, "_discard", 1, False),
    }
    owner, name, nth, after = moments[where]
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def dying(*args, **kwargs):
        here = next(calls) == nth
        if here and not after:
            _die()
        value = original(*args, **kwargs)
        if here:
            _die()
        return value

    setattr(owner, name, dying)


def _train_and_die(recipe, where):
    _kill_at(where)
    quietly(recipe)


@pytest.mark.parametrize(
    "where",
    [
        "after the draws are entered",
        "before the checkpoint",
        "in the middle of the checkpoint",
        "between checkpoint and commit",
        "between commit and pruning",
        "in the middle of pruning",
    ],
)
def test_killed_at_the_worst_moment_a_run_goes_on_as_if_nothing_had_happened(where, uninterrupted, toy_model, tmp_path):
    recipe = long_recipe(toy_model, tmp_path) | {"checkpoint": {"every_steps": 3, "keep": 1}}
    child = CLEAN.Process(target=_train_and_die, args=(recipe, where))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    folder = the_run(recipe)
    assert folder.status()["state"] == "killed"
    result = quietly(resume=folder.path)
    _same_as(result, uninterrupted)


def _evaluate_and_die(recipe, name):
    """Die when half of an evaluation's traces are in the store."""
    original, calls = TraceStore.add, iter(range(1, 1000))

    def dying(self, traces, *, label, **where):
        original(self, traces, label=label, **where)
        if label == f"eval:{name}" and next(calls) == 8:
            _die()

    TraceStore.add = dying
    quietly(recipe)


@pytest.mark.parametrize("name", ["before", "step 2", "after"])
def test_an_evaluation_that_was_cut_off_counts_once(name, toy_recipe):
    toy_recipe["eval"]["every"] = 2
    child = CLEAN.Process(target=_evaluate_and_die, args=(toy_recipe, name))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    result = quietly(resume=the_run(toy_recipe).path)
    evaluations = {f"eval:{one.name}": one for one in result.evaluations}
    assert list(evaluations) == ["eval:before", "eval:step 2", "eval:after"]
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        for label, evaluation in evaluations.items():
            rows = {row.mode: row.summary for row in evaluation.rows}
            assert len(list(store.traces(label=label))) == 16
            figures = {one.mode: one for one in store.summary(label=label)}
            assert {mode: one.episodes for mode, one in figures.items()} == dict.fromkeys(rows, 8)
            assert all(one.success == pytest.approx(rows[mode].success) for mode, one in figures.items())
        everything = store.traces(label=f"eval:{name}", abandoned=True)
        assert len(list(everything)) > 16  # what was sampled before the kill is kept to be looked at


def _killed_at_random(recipe, kills: int, seed: int):
    """Start and kill until `kills` are spent, then let it finish."""
    rng = random.Random(seed)
    target, spent = (recipe,), 0
    while True:
        kwargs = {} if target else {"resume": the_run(recipe).path}
        child = CLEAN.Process(target=quietly, args=target, kwargs=kwargs)
        child.start()
        child.join(rng.uniform(0.05, 1.0) if spent < kills else None)
        if child.exitcode is None:
            child.kill()
            child.join()
            spent += 1
        elif child.exitcode == 0:
            return spent
        try:
            target = () if the_run(recipe) else (recipe,)
        except ConfigError:
            target = (recipe,)


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.full)])
def test_killed_at_random_moments(kills, seed, uninterrupted, toy_model, tmp_path):
    recipe = long_recipe(toy_model, tmp_path)
    _killed_at_random(recipe, kills, seed)
    _same_as(quietly(resume=the_run(recipe).path), uninterrupted)


def test_two_processes_cannot_do_one_run(toy_model, tmp_path):
    recipe = long_recipe(toy_model, tmp_path)
    child = CLEAN.Process(target=quietly, args=(recipe,), kwargs={"overrides": ["run.steps=1000"]})
    child.start()
    try:
        folder = _when(recipe, child, step=1)
        with pytest.raises(StoreError, match="has a writer already"):
            quietly(resume=folder.path)
    finally:
        child.kill()
        child.join()


# -- resuming on purpose -------------------------------------------------------------------------------------------


def test_a_finished_run_can_go_on_for_longer(toy_recipe):
    first = quietly(toy_recipe, overrides=["run.steps=2"])
    longer = quietly(resume=first.folder, overrides=["run.steps=4"])
    assert (longer.steps, longer.state) == (4, "finished")
    assert [evaluation.name for evaluation in longer.evaluations] == ["before", "after"]
    assert longer.evaluation("before").to_json() == first.evaluation("before").to_json()
    with TraceStore(RunFolder(longer.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
        assert store.ledger.position() == 16


def test_alarms_of_a_resumed_run_are_those_of_all_its_steps(toy_recipe):
    toy_recipe |= {"eval": {"tasks": 0}, "train": {"lr": 1e-9}}  # of one kind at each step: nobody submits
    toy_recipe["rollout"] |= {"limits": {"max_turn_tokens": 1}}
    first = quietly(toy_recipe, overrides=["run.steps=2"])
    longer = quietly(resume=first.folder, overrides=["run.steps=4"])
    for result, steps in ((first, 2), (longer, 4)):
        (alarm,) = [alarm for alarm in result.alarms if alarm.kind == "all_truncated"]
        assert (alarm.first, alarm.last, alarm.count) == (1, steps, steps)
    assert "ALARM all_truncated" in RunFolder(longer.folder).log.read_text()
    assert RunFolder(longer.folder).log.read_text().count("ALARM all_truncated") == 1


def test_weights_are_those_that_the_step_before_made(toy_recipe, monkeypatch):
    result = quietly(toy_recipe, overrides=["eval.tasks=0"])
    chain = [(record.began, record.made) for record in result.history]
    assert len({made for _, made in chain}) == 4
    assert all(last[1] == following[0] for last, following in pairwise(chain))
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert [(step.began, step.made) for step in store.ledger.steps()] == chain
    assert fingerprint(askesis.load(result.folder).model) == chain[-1][1]

    newest = weights(result.checkpoint)
    newest["model.norm.weight"][3] += 1e-3
    save_file(newest, result.checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"step-4 is damaged: .* Delete that folder"):
        quietly(resume=result.folder, overrides=["run.steps=6"])
    shutil.rmtree(result.checkpoint)
    resumed = quietly(resume=result.folder, overrides=["run.steps=6"])
    assert [record.made for record in resumed.history[:4]] == [made for _, made in chain]
    assert not resumed.alarms or all(alarm.kind != "weights" for alarm in resumed.alarms)


def test_weights_changed_behind_the_trainers_back_are_an_alarm(toy_recipe, monkeypatch):
    original = training.Training._line

    async def spoilt(self):
        line = await original(self)
        judge = line.source.judge

        async def judge_and_spoil(groups, step):
            batch = await judge(groups, step)
            if step == 2:
                self.prepared.model.model.norm.weight.data[0] += 1e-3  # `data`: torch itself does not notice
            return batch

        line.source.judge = judge_and_spoil
        return line

    monkeypatch.setattr(training.Training, "_line", spoilt)
    result = quietly(toy_recipe, overrides=["eval.tasks=0"])
    (alarm,) = [alarm for alarm in result.alarms if alarm.kind == "weights"]
    assert (alarm.first, alarm.count) == (2, 1)
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert "step 2 trained weights" in store.ledger.check()[0]


def test_what_cannot_be_resumed_says_so(toy_recipe, tmp_path):
    with pytest.raises(ConfigError, match="no run 'nothing'"):
        quietly(resume="nothing")
    result = quietly(toy_recipe, overrides=["run.steps=2", "eval.tasks=0"])
    with pytest.raises(ConfigError, match=r"override 'train\.lr': a run that goes on keeps"):
        quietly(resume=result.folder, overrides=["train.lr=1.0"])
    for path in written(RunFolder(result.folder)):
        (path / "position.json").unlink()
    with pytest.raises(CheckpointError, match="none is left"):
        quietly(resume=result.folder)
    with pytest.raises(ConfigError, match="not both, not neither"):
        quietly()
