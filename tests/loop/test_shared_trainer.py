"""Runs whose trainer is a group of processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_env import TOY

import askesis
from askesis.loop import RunFolder, find_run, load_recipe, shared
from askesis.models import load_checkpoint
from askesis.rollout import TraceStore
from askesis.types import ConfigError, StallError, TrainerError


def recipe(toy_model, folder, **train):
    return {
        "run": {"name": "toy", "steps": 4, "threads": 1, "out": str(folder)},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": TOY},
        "rollout": {"tasks_per_step": 3, "group_size": 3, "context_length": 640, "slots": 16},
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 2},
        "log": {"tensorboard": False},
        "train": {"lr": 3e-3, "kl": 0.1, "backend": "torch"} | train,
    }


STEPS = 6


@pytest.fixture(scope="module")
def alone(toy_model, tmp_path_factory):
    """The run in one process that nothing befalls."""
    made = recipe(toy_model, tmp_path_factory.mktemp("alone"))
    return askesis.train(made, overrides={"run.steps": STEPS, "checkpoint.every_steps": 1}, display=False)


def same(result, alone):
    """Every step learned what it learned there, and no sample was skipped or trained twice."""
    assert (result.state, result.steps) == ("finished", STEPS)
    for name in ("loss", "grad_norm", "entropy"):
        got, want = ([step.trainer[name] for step in one.history] for one in (result, alone))
        assert got == pytest.approx(want, abs=1e-4, rel=1e-4), name
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
    ours, theirs = (load_file(one.checkpoint / "model.safetensors") for one in (result, alone))
    for name, want in theirs.items():
        torch.testing.assert_close(ours[name], want, atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.full
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_is_the_same_with_any_number_of_processes(first, then, alone, toy_model, tmp_path):
    made = recipe(toy_model, tmp_path, processes=first)
    half = askesis.train(made, overrides={"run.steps": 3}, display=False)
    assert half.steps == 3
    more = {"run.steps": STEPS, "train.processes": then}
    same(askesis.train(resume=half.folder, overrides=more, display=False), alone)


class Started:
    """A run by the command, in a session of its own as in a terminal."""

    def __init__(self, made, folder):
        file = folder / "recipe.json"
        file.write_text(json.dumps(made))
        code = "import askesis, json, sys; askesis.train(json.load(open(sys.argv[1])), display=True)"
        self.said = folder / "said"
        with self.said.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(file)], stdout=output, stderr=output, start_new_session=True
            )
        self._out = folder

    def after(self, step):
        """Its folder, once it has committed that step."""
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(ConfigError):
                found = find_run("latest", out=self._out)
                if found.status().get("step", -1) >= step:
                    return found
            time.sleep(0.02)
        raise AssertionError(self.said.read_text())

    def ranks(self):
        """Process ids of its trainers, by rank."""
        return sorted((pid for pid in descendants(self.process.pid) if b"\0RANK=" in told(pid)), key=rank)


def descendants(pid):
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [one for child in map(int, children) for one in (child, *descendants(child))]


def told(pid):
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


def rank(pid):
    return int(told(pid).split(b"\0RANK=")[1].split(b"\0")[0])


def soon(true):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.full
@pytest.mark.parametrize("what", ["one of the trainers is lost", "the run is killed", "the run is interrupted"])
def test_whatever_ends_a_run_of_two_it_goes_on(what, alone, toy_model, tmp_path):
    """With a reason, without a process that stays, and with as many processes as one likes."""
    made = recipe(toy_model, tmp_path, processes=2)
    made["run"]["steps"], made["checkpoint"]["every_steps"] = STEPS, 1
    run = Started(made, tmp_path)
    folder = run.after(1)
    trainers = run.ranks()
    assert len(trainers) == 2
    match what:
        case "one of the trainers is lost":
            os.kill(trainers[1], signal.SIGSTOP)  # the step that comes cannot end
            time.sleep(3)
            os.kill(trainers[1], signal.SIGKILL)
            assert run.process.wait(120) == 1
            said = run.said.read_text()
            assert "the group of trainers ended at" in said and "SIGKILL" in said
            assert folder.status()["state"] == "failed"
            then = 2
        case "the run is killed":
            run.process.kill()
            run.process.wait()
            assert folder.status()["state"] == "killed"
            then = 1
        case _:
            os.killpg(run.process.pid, signal.SIGINT)  # all that Ctrl-C reaches
            assert run.process.wait(120) == 0
            assert folder.status()["state"] == "interrupted"
            then = 3
    assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in trainers))
    assert folder.status()["step"] < STEPS
    same(askesis.train(resume=folder.path, overrides={"train.processes": then}, display=False), alone)


@pytest.mark.full
def test_trainers_that_somebody_starts_with_torchrun(alone, toy_model, tmp_path, monkeypatch):
    """Before there is anybody to give orders; and the run goes on with processes of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    monkeypatch.setenv("ASKESIS_TRAINER_KEY", "ab" * 32)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"ASKESIS_TRAINER": address}
    started = subprocess.Popen([*torchrun, "-m", "askesis.train.worker"], env=environment)
    time.sleep(8)
    made = recipe(toy_model, tmp_path, processes=2, address=address)
    half = askesis.train(made, overrides={"run.steps": 3}, display=False)
    assert started.wait(60) == 0
    more = {"run.steps": STEPS, "train.processes": 2, "train.address": ""}
    same(askesis.train(resume=half.folder, overrides=more, display=False), alone)


def test_what_does_not_go_together_is_refused(toy_model, tmp_path):
    with pytest.raises(ConfigError, match="by torch, but"):
        load_recipe(recipe(toy_model, tmp_path, processes=2, backend="native"))
    with pytest.raises(ConfigError, match="do not go together"):
        load_recipe(recipe(toy_model, tmp_path, processes=2, lora={"rank": 4}))
    with pytest.raises(ConfigError, match="not HOST:PORT"):
        load_recipe(recipe(toy_model, tmp_path, processes=2, address="here"))
    with pytest.raises(ConfigError, match="a port from 1 to 65535"):
        load_recipe(recipe(toy_model, tmp_path, processes=2, address="127.0.0.1:70000"))
    with pytest.raises(ConfigError, match=r"no use without train\.processes"):
        load_recipe(recipe(toy_model, tmp_path, address="127.0.0.1:1"))
    with pytest.raises(ConfigError, match="ASKESIS_TRAINER_KEY"):
        askesis.dry_run(recipe(toy_model, tmp_path, processes=2, address="127.0.0.1:1"))


class Group:
    """In place of a group of processes. fails: what its step raises."""

    def __init__(self, size=2, fails=None):
        self.size, self._fails, self.orders, self.places = size, fails, [], []

    def step(self, samples, **_):
        self.orders.append("step")
        if self._fails is not None:
            raise self._fails
        return {}

    def save(self, folder):
        self.places.append(folder)

    def load(self, folder):
        self.places.append(folder)

    def wait(self):
        self.orders.append("wait")

    def close(self):
        self.orders.append("close")


@pytest.mark.parametrize("fails", [StallError("stalled"), RuntimeError("torn")])
def test_a_step_that_a_group_was_told_to_make_is_not_made_again(fails, toy_model, tmp_path, monkeypatch):
    """What came of it is not known here: the weights here are those from before it in any case."""
    group = Group(fails=fails)
    monkeypatch.setattr(shared, "_begin_here", lambda spec, count: group)
    with pytest.raises(TrainerError, match="may have changed the weights already"):
        askesis.train(recipe(toy_model, tmp_path, processes=2), display=False)
    assert group.orders == ["step", "close"]


def test_a_group_is_told_whole_paths(toy_model, tmp_path, monkeypatch):
    """Its processes may have been started in another folder."""
    monkeypatch.chdir(tmp_path)
    group = Group()

    def begin(spec, count):
        group.places += [spec.checkpoint, spec.teacher]
        return group

    model = load_checkpoint(toy_model)[0]
    made = shared.SharedTrainer(
        model,
        count=2,
        loss=max,
        optimisers={},
        settings={},
        teacher=True,
        begin=begin,
        scratch=".",
    )
    made.save(Path("runs/state"))
    made.load(Path("runs/state"))
    made.close()
    assert len(group.places) == 4
    assert all(place.is_absolute() and tmp_path in place.parents for place in group.places)


def test_a_group_of_another_size_is_refused(monkeypatch):
    monkeypatch.setenv("ASKESIS_TRAINER_KEY", "ab" * 32)
    group = Group(size=3)
    monkeypatch.setattr(shared, "TrainerProcesses", lambda *_, **__: group)
    begin = shared.awaited("127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"train\.processes is 4, but the group that came .* has 3"):
        begin(None, 4)
    assert group.orders == ["wait", "close"]
    assert begin(None, 3) is group
