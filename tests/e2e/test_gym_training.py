"""From a name on the command line to a trained model: an environment of Gymnasium's, and a model of two layers."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import askesis
from askesis.cli.app import app
from askesis.loop import to_toml
from askesis.rollout import TraceStore

CLASSES = Path(__file__).parents[1] / "envs" / "gym_classes.py"
NAME = "gymnasium:FrozenLake-v1"
OPTIONS = {
    "prompt": "Cross the ice.",
    "actions": ["left", "down", "right", "up"],
    "vary": f"{CLASSES}:maps",
    "demonstrator": f"{CLASSES}:crossing_by_name",
    "tell_reward": False,
    "max_turns": 12,
    "max_turn_tokens": 40,
}
INIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A fresh model after a few steps on demonstrations."""
    out = tmp_path_factory.mktemp("gym")
    recipe = {
        "run": {"kind": "sft", "name": "ice", "steps": 4, "threads": 1, "out": str(out)},
        "model": {"init": INIT, "tokenizer": {"vocab_size": 384, "episodes": 20}},
        "env": {"name": NAME, "options": OPTIONS},
        "rollout": {"context_length": 1024},
        "demonstrations": {"per_step": 4},
        "train": {"lr": 3e-3, "muon_lr": 0.02},
        "eval": {"tasks": 0},
        "log": {"tensorboard": False},
    }
    return out, askesis.train(recipe, display=False)


def test_demonstrations_and_one_step_of_reinforcement(taught, tmp_path):
    out, result = taught
    (store,) = out.glob("*/traces.db")
    with TraceStore(store, readonly=True) as traces:
        shown = list(traces.traces(label="train"))
    assert len(shown) == 16 and all(trace.success and trace.reward == 1.0 for trace in shown)
    recipe = {
        "run": {"name": "ice_rl", "steps": 1, "threads": 1, "out": str(tmp_path)},
        "model": {"checkpoint": str(result.checkpoint)},
        "env": {"name": NAME, "options": OPTIONS},
        "rollout": {"tasks_per_step": 2, "group_size": 4, "context_length": 1024},
        "eval": {"tasks": 4, "greedy": False},
        "log": {"tensorboard": False},
    }
    assert askesis.train(recipe, display=False).state == "finished"
    (store,) = tmp_path.glob("*/traces.db")
    with TraceStore(store, readonly=True) as traces:
        played = list(traces.traces(label="train"))
    assert len(played) == 8 and all(trace.outcome.learnable for trace in played)
    assert {term.name for trace in played for term in trace.rewards} == {"success", "return", "steps"}


def test_the_command_line_evaluates_it_and_says_what_training_would_be(taught, tmp_path):
    checkpoint = str(taught[1].checkpoint)
    options = [part for key, value in OPTIONS.items() for part in ("--option", f"{key}={json.dumps(value)}")]
    told = ["--env", NAME, *options, "--tasks", "3", "--context-length", "1024", "--json"]
    done = CliRunner().invoke(app, ["eval", checkpoint, *told])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"]
    recipe = {
        "run": {"steps": 1},
        "model": {"checkpoint": checkpoint},
        "env": {"name": NAME, "options": OPTIONS},
        "rollout": {"context_length": 1024},
    }
    path = tmp_path / "ice.toml"
    path.write_text(to_toml(recipe))
    done = CliRunner().invoke(app, ["train", str(path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Cross the ice." in done.output
