"""Gradients in C++ beside torch's: odd sizes, shared beginnings, temperatures, threads."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_doubles import VOCAB, sample, small_mixture, small_model

from askesis.train import POLICY_LOSSES, Optimisers, Trainer, grove, supervised
from askesis.train.forest import lexical, plant
from askesis.types import AskesisError, Sample, ids

DAPO = functools.partial(POLICY_LOSSES["dapo"], low=0.2, high=0.28, kl=0.1)
SIZES = {
    "small": {},
    "odd": {"vocab_size": 83, "hidden_size": 65, "head_dim": 24, "intermediate_size": 77},
    "untied": {"tie_word_embeddings": False, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 36},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 80, "hidden_size": 130},
    "yarn": {"yarn_factor": 4.0, "yarn_original": 64, "rope_theta": 10_000.0},
}


def trainer(model, *, loss=supervised, **changes):
    return Trainer(model, loss=loss, optimisers=Optimisers(model, kind="adamw", lr=1e-2, muon_lr=1e-2), **changes)


def gradient(model, samples, **changes):
    """Of a step, by name; and the step's figures."""
    made = trainer(model, grad_clip=0.0, **changes)
    made.optimisers.step = lambda progress: 1.0
    figures = made.step(samples)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, figures


def with_tokens(one, tokens, temperature=1.0):
    return Sample(
        token_ids=ids(tokens),
        mask=one.mask,
        logprobs=one.logprobs,
        advantages=one.advantages,
        policy_versions=one.policy_versions,
        trace_id=one.trace_id,
        group=one.group,
        temperature=temperature,
    )


def families(seed, count, longest, temperatures=(1.0,)):
    """Samples that begin alike in many ways: each goes on from some place in another, or is the same."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        fresh = sample(rng, int(rng.integers(2, longest)), trace=str(number), share=rng.random())
        tokens = fresh.token_ids.copy()
        if made and rng.random() < 0.8:
            other = made[int(rng.integers(len(made)))].token_ids
            length = min(len(other), len(tokens), int(rng.integers(1, longest)))
            tokens[:length] = other[:length]
        made.append(with_tokens(fresh, tokens, temperatures[int(rng.integers(len(temperatures)))]))
    return made


def errors(got, want):
    """Of each parameter's gradient, as a share of it."""
    total = torch.stack([value.norm() for value in want.values()]).norm()
    # a lone token's queries and keys have no gradient, only rounding
    return {
        name: float((got[name] - value).norm() / torch.maximum(value.norm(), 1e-3 * total))
        for name, value in want.items()
    }


def close(got, want, tolerance=1e-4, rounding=None):
    """rounding: what torch is off by in float32; where sums cancel, ours may be off by a few times that."""
    for name, error in errors(got, want).items():
        allowed = tolerance if rounding is None else max(tolerance, 4 * rounding[name])
        assert error < allowed, f"{name}: {error}, at most {allowed}"


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_torch(size):
    model, teacher = small_model(1, **SIZES[size]), small_model(2, **SIZES[size])
    samples = families(3, 12, 120, temperatures=(1.0, 0.7, 1.4))
    for changes in ({}, {"loss": DAPO, "teacher": teacher, "threads": 2, "batch_tokens": 150}):
        want, before = gradient(model, samples, backend="torch", **changes)
        got, after = gradient(model, samples, backend="native", **changes)
        close(got, want)
        assert after == pytest.approx(before, rel=1e-3, abs=1e-4)
    native, plain = (trainer(model, backend=name).logprobs(samples) for name in ("native", "torch"))
    for a, b in zip(native, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(3, 60))
def test_a_forest_has_every_sequence_in_it(seed, count, longest):
    sequences = [one.token_ids for one in families(seed, count, longest)]
    sequences = [sequences[place] for place in lexical(sequences)]
    forest, places = plant(sequences)
    owner = np.repeat(np.arange(len(forest.starts)), forest.lengths)
    assert len(owner) == len(forest.tokens) <= sum(map(len, sequences))
    for sequence, lie in zip(sequences, places, strict=True):
        assert (forest.tokens[lie] == sequence).all()
        assert (forest.positions[lie] == np.arange(len(sequence))).all()
        segments = owner[lie][np.flatnonzero(np.diff(owner[lie], prepend=-1))]
        assert forest.parents[segments].tolist() == [-1, *segments[:-1]]
        for segment in segments:  # whole: what comes after is no ancestor's rest
            assert (owner[lie] == segment).sum() == forest.lengths[segment]


def test_a_group_is_computed_once_up_to_where_it_parts():
    rng = np.random.default_rng(0)
    groups = [rng.integers(0, VOCAB, 100) for _ in range(4)]
    samples = []
    for group, prompt in enumerate(groups):
        for number in range(8):
            one = sample(rng, 130, trace=f"{group}/{number}", group=str(group))
            samples.append(with_tokens(one, np.concatenate([prompt, one.token_ids[100:]])))
    batch = grove(samples, 2048, together=4)
    sizes = [len(part.forest.tokens) for part in batch.parts]
    assert len(sizes) == 4 and sum(sizes) <= 4 * (100 + 8 * 30)


def test_a_large_model_on_many_cores_is_left_to_torch(monkeypatch):
    model = small_model()
    assert trainer(model, threads=4).backend == "native"
    monkeypatch.setattr("askesis.train.trainer._REPLICAS", 1000)
    assert [trainer(model, threads=threads).backend for threads in (1, 2, 4)] == ["native", "native", "torch"]
    assert trainer(model, threads=4, backend="native").backend == "native"


def test_any_number_of_threads_gives_the_same_bits():
    model, samples = small_model(), families(5, 24, 90)
    one, *others = (
        gradient(model, samples, backend="native", loss=DAPO, threads=threads, batch_tokens=300)[0]
        for threads in (1, 2, 2, 4)
    )
    for other in others:
        assert all(torch.equal(other[name], one[name]) for name in one)


@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_is_near(size):
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor does not multiply bfloat16")
    model, samples = small_model(1, std=0.08, **SIZES[size]), families(3, 12, 120, temperatures=(1.0, 0.7))
    want, before = gradient(model, samples, backend="native")
    got, after = gradient(model, samples, dtype="bfloat16")
    close(got, want, 0.05)
    assert after["loss"] == pytest.approx(before["loss"], abs=0.02) and after["loss"] != before["loss"]


def test_who_computes_is_told_and_can_be_asked_for(monkeypatch, caplog):
    assert trainer(small_model()).backend == "native"
    assert trainer(small_model(), backend="torch").backend == "torch"
    assert trainer(small_mixture()).backend == "torch"
    assert trainer(small_model().bfloat16()).backend == "torch"
    assert trainer(small_model(), teacher=small_mixture()).backend == "torch"
    with pytest.raises(AskesisError, match="not a dense Qwen3"):
        trainer(small_mixture(), backend="native")
    with pytest.raises(AskesisError, match="expected one of auto, native, torch"):
        trainer(small_model(), backend="cuda")
    with pytest.raises(AskesisError, match="knows 0 to 60"):
        trainer(small_model()).step([with_tokens(sample(np.random.default_rng(0), 3), [1, 61, 2])])
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert trainer(small_model()).backend == "torch"
    assert "no-such-compiler" in caplog.text


def test_it_reads_the_weights_anew_when_they_change():
    model, samples = small_model(), families(0, 6, 40)
    made = trainer(model)
    for _ in range(3):
        made.step(samples)
        for a, b in zip(made.logprobs(samples), trainer(model, backend="torch").logprobs(samples), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_frozen_parameters_stay():
    model = small_model()
    model.model.embed_tokens.requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    trainer(model, backend="native").step(families(0, 6, 40))
    same = [torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True)]
    assert same[0] and not any(same[1:])
