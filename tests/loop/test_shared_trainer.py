"""Runs whose trainer is a group of processes."""

import pytest
import torch
from safetensors.torch import load_file
from toy_env import TOY

import askesis
from askesis.loop import load_recipe
from askesis.types import ConfigError


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


@pytest.mark.full
def test_a_run_is_the_same_with_two_processes_and_goes_on_with_one(toy_model, tmp_path):
    alone = askesis.train(recipe(toy_model, tmp_path / "one"), display=False)
    shared = recipe(toy_model, tmp_path / "two", processes=2)
    half = askesis.train(shared, overrides=["run.steps=2"], display=False)
    assert half.history[-1].trainer["loss"] == pytest.approx(alone.history[1].trainer["loss"], abs=1e-4)
    whole = askesis.train(resume=half.folder, overrides=["run.steps=4", "train.processes=1"], display=False)
    assert whole.steps == 4
    for (name, got), want in zip(
        sorted(load_file(whole.checkpoint / "model.safetensors").items()),
        (tensor for _, tensor in sorted(load_file(alone.checkpoint / "model.safetensors").items())),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-2, msg=name)


def test_what_does_not_go_together_is_refused(toy_model, tmp_path):
    with pytest.raises(ConfigError, match="by torch, but"):
        load_recipe(recipe(toy_model, tmp_path, processes=2, backend="native"))
    with pytest.raises(ConfigError, match="do not go together"):
        load_recipe(recipe(toy_model, tmp_path, processes=2, lora={"rank": 4}))
