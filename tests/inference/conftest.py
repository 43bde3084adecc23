"""Small models for the engine: one with random weights, and one that says what a script tells it to."""

from collections.abc import Callable

import pytest
import torch

from askesis.inference import EmbeddedEngine
from askesis.inference.native import why_not
from askesis.models import ModelConfig, Qwen3, build

VOCAB = 96


def _config(**changes) -> ModelConfig:
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 4096}
    return ModelConfig(**(sizes | changes))


@pytest.fixture
def model() -> Qwen3:
    """Random weights, sharp enough that its distributions are far from uniform."""
    made = build(_config())
    made.initialise(0, 0.3)
    return made


@pytest.fixture(params=["torch", "native"])
def make_engine(request) -> Callable[..., EmbeddedEngine]:
    """`EmbeddedEngine` on either backend."""

    def make(model: Qwen3, **options) -> EmbeddedEngine:
        if request.param == "native" and (reason := why_not(model)):
            pytest.skip(f"not run: {reason}")
        return EmbeddedEngine(model, backend=request.param, **options)

    return make


@pytest.fixture
def scripted() -> Callable[[dict[int, int]], Qwen3]:
    """Make a model that, greedily, follows token `a` with `script[a]` (default: the token after it)."""

    def make(script: dict[int, int]) -> Qwen3:
        made = build(_config(hidden_size=VOCAB, num_attention_heads=1, num_key_value_heads=1))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
            made.model.norm.weight.fill_(1.0)
            made.model.embed_tokens.weight.copy_(torch.eye(VOCAB))
            for token in range(VOCAB):
                made.lm_head.weight[script.get(token, (token + 1) % VOCAB), token] = 2.0
        return made

    return make
