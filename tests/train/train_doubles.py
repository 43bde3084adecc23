"""Samples and a small model for the trainer's tests."""

import numpy as np
import torch

from askesis.models import ModelConfig, build
from askesis.train import LossInputs, minibatch, token_logprobs
from askesis.types import Sample, ids

VOCAB = 61


def small_model(seed=0, std=0.2, **changes):
    config = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "tie_word_embeddings": True,
        "max_position_embeddings": 256,
    } | changes
    model = build(ModelConfig(**config))
    model.initialise(seed, std)
    return model


def small_mixture(seed=0):
    return small_model(seed, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)


def sample(rng, length, *, trace="", group="", advantage=None, share=0.5, temperature=1.0, last=None):
    mask = rng.random(length) < share
    mask[0] = False
    mask[-1] = True
    if last is not None:
        mask[last + 1 :] = False
        mask[last] = True
    value = float(rng.normal()) if advantage is None else advantage
    return Sample(
        token_ids=ids(rng.integers(0, VOCAB, length)),
        mask=mask,
        logprobs=np.where(mask, -4.0, 0.0).astype(np.float32),
        advantages=np.where(mask, value, 0.0).astype(np.float32),
        policy_versions=np.zeros(length, dtype=np.int32),
        trace_id=trace,
        group=group,
        temperature=temperature,
    )


def separate(model, samples, loss):
    """Gradient and loss of a step, each sequence in a row of its own: nothing packed, nothing shared."""
    batch = minibatch(samples, 4096, torch.device("cpu"))
    total, value = [torch.zeros_like(parameter) for parameter in model.parameters()], 0.0
    for part in batch.parts:
        current = token_logprobs(model, part)
        columns = {name: getattr(part, name) for name in ("sampler", "advantages", "lengths")}
        shared = {"tokens": batch.tokens, "outputs": batch.outputs, "horizon": 1024}
        output = loss(LossInputs(current=current, proximal=part.sampler, **columns, **shared))
        gradients = torch.autograd.grad(output.loss, list(model.parameters()), materialize_grads=True)
        for sum_, one in zip(total, gradients, strict=True):
            sum_ += one
        value += float(output.loss.detach())
    return total, value
