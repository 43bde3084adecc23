"""Shared by all tests: one thread a process (two processes of two threads on two cores crawl), no deadlines.

And for the loop and what stands on it: a random model of 28,000 parameters, and a recipe on the toy environment
(`toy_env.py`) that takes a second or two.
"""

import os
from multiprocessing import forkserver, resource_tracker

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("askesis", deadline=None, max_examples=50)
settings.load_profile("askesis")


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory) -> Path:
    from askesis.chat import Qwen3Renderer, train_bpe
    from askesis.loop.checkpoints import save_model
    from askesis.models import ModelConfig, build

    folder = tmp_path_factory.mktemp("toy-model")
    renderer = Qwen3Renderer(train_bpe(["Add 3 and 4. answer value"] * 3, 300), closing="\n</think>\n\n")
    config = ModelConfig(
        vocab_size=renderer.tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = build(config)
    model.initialise(0, 0.1)
    save_model(folder, model, renderer)
    return folder


@pytest.fixture
def toy_recipe(toy_model, tmp_path) -> dict:
    """Four steps of 4 x 4 episodes, a checkpoint every two."""
    from toy_env import TOY

    return {
        "run": {"name": "toy", "steps": 4, "threads": 1, "out": str(tmp_path / "runs")},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": TOY},
        "rollout": {"tasks_per_step": 4, "group_size": 4, "context_length": 640, "slots": 16},
        "eval": {"tasks": 8, "greedy": False},
        "checkpoint": {"every_steps": 2},
        "log": {"tensorboard": False},
        "train": {"lr": 3e-3},
    }


@pytest.fixture(autouse=True, scope="module")
def no_server_of_processes_stays():
    """Tests that start clean processes leave two servers of `multiprocessing` behind, which others would count."""
    yield
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()
