"""Training on trees beside training on separate sequences: branches, groups with shared prompts, turns."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from train_doubles import VOCAB, separate, small_mixture, small_model

from askesis.loop.samples import trace_samples
from askesis.models import TransformersLM
from askesis.train import Optimisers, Trainer, grove, supervised
from askesis.train.forest import lexical, plant
from askesis.train.trees import BLOCK, ByBlock, ByChain, blocks, chains, last_seen, padded
from askesis.types import Message, Node, Outcome, Task, Text, Timing, Trace, ids

CPU = torch.device("cpu")


def node(rng, parent, sampled, longest):
    size = int(rng.integers(1, longest + 1))
    mask = np.full(size, sampled)
    if sampled and size > 2:
        mask[int(rng.integers(size))] = False  # something was forced
    return Node(
        parent=parent,
        message=Message(role="assistant" if sampled else "user", parts=(Text(text="."),)),
        sampled=sampled,
        token_ids=ids(rng.integers(0, VOCAB, size)),
        mask=mask,
        logprobs=np.where(mask, -4.0, 0.0).astype(np.float32),
        policy_versions=np.zeros(size, dtype=np.int32),
        temperature=float(rng.choice([1.0, 0.8])) if sampled else None,
    )


def tree(rng, prompt, *, turns, longest, name):
    """A trace that goes on from some node of itself, mostly from the last."""
    nodes = [prompt]
    for turn in range(turns):
        parent = len(nodes) - 1 if rng.random() < 0.7 else int(rng.integers(len(nodes)))
        nodes.append(node(rng, parent, turn % 2 == 0 or rng.random() < 0.5, longest))
    return Trace(
        id=name,
        task=Task(env="none", prompt="."),
        harness="none",
        nodes=tuple(nodes),
        rewards=(),
        outcome=Outcome(by="policy", reason="submitted"),
        timing=Timing(),
    )


def groups(seed, *, count, size, turns, longest):
    """Traces by group, which share their prompt."""
    rng = np.random.default_rng(seed)
    return [
        [tree(rng, prompt, turns=turns, longest=longest, name=f"{g}/{k}") for k in range(size)]
        for g in range(count)
        for prompt in [node(rng, -1, False, longest)]
    ]


def samples_of(traces, rng):
    return [
        one
        for group, members in enumerate(traces)
        for trace in members
        for one in trace_samples(trace, float(rng.normal()), group=str(group))
    ]


def gradient(model, samples, **changes):
    optimisers = Optimisers(model, kind="adamw", lr=1e-2, muon_lr=1e-2)
    made = Trainer(model, loss=supervised, optimisers=optimisers, grad_clip=0.0, **changes)
    made.optimisers.step = lambda progress: 1.0
    figures = made.step(samples)
    return [parameter.grad.clone() for parameter in model.parameters()], figures


def distance(got, want):
    """Of each parameter's gradient, as a share of it; one that is next to nothing is only rounding."""
    total = torch.stack([value.norm() for value in want]).norm()
    return [float((a - b).norm() / torch.maximum(b.norm(), 1e-3 * total)) for a, b in zip(got, want, strict=True)]


KINDS = {"native": small_model, "torch": small_model, "mixture": small_mixture}


SHAPES = {
    "seed": st.integers(0, 10**6),
    "count": st.integers(1, 3),
    "size": st.integers(1, 4),
    "turns": st.integers(1, 12),
    "longest": st.sampled_from([1, 5, 30]),
    "least": st.sampled_from([1, 8, None]),
    "batch_tokens": st.sampled_from([40, 10**6]),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(**SHAPES)
def test_a_tree_teaches_what_its_branches_teach(kind, **shape):
    check(kind, **shape)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(**SHAPES)
def test_many_trees_teach_what_their_branches_teach(kind, **shape):
    check(kind, **shape)


def check(kind, *, seed, count, size, turns, longest, least, batch_tokens):
    """Gradients in float32 within 1e-4 of those of separate sequences in float64."""
    model = KINDS[kind](seed)
    traces = groups(seed, count=count, size=size, turns=turns, longest=longest)
    samples = samples_of(traces, np.random.default_rng(seed))
    sampled = sum(int(node.mask.sum()) for members in traces for trace in members for node in trace.nodes)
    assert sum(int(one.mask.sum()) for one in samples) == sampled  # once each, however many branches share it
    options = {"backend": "native" if kind == "native" else "torch", "least": least, "batch_tokens": batch_tokens}
    got, figures = gradient(model, samples, **options)
    want, loss = separate(copy.deepcopy(model).double(), samples, supervised)
    plain, _ = separate(model, samples, supervised)
    rounding = distance(plain, want)  # of separate sequences in float32; where sums cancel, ours may be some of it
    for error, off in zip(distance(got, want), rounding, strict=True):
        assert error < max(1e-4, 4 * off)
    assert figures["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-4)


def test_what_is_shared_is_there_once():
    """A group's prompt, a trace's turns, and what its branches have in common."""
    traces = groups(3, count=3, size=4, turns=12, longest=40)
    samples = samples_of(traces, np.random.default_rng(0))
    (part,) = grove(samples, 10**6, device=torch.device("meta"), least=1).parts
    several = sum(len(one) for one in samples)
    tokens = sum(len(members[0].nodes[0].token_ids) for members in traces)
    tokens += sum(len(node.token_ids) for members in traces for trace in members for node in trace.nodes[1:])
    assert len(part.forest.tokens) <= tokens < several / 2
    assert part.visits.sum() == sum(int(np.flatnonzero(one.mask)[-1]) for one in samples)


def random_forest(seed, least, count=12, longest=60):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        fresh = rng.integers(0, VOCAB, int(rng.integers(1, longest))).astype(np.int32)
        if made and rng.random() < 0.8:
            other = made[int(rng.integers(len(made)))]
            length = min(len(other), len(fresh), int(rng.integers(1, longest)))
            fresh[:length] = other[:length]
        made.append(fresh)
    made = [made[place] for place in lexical(made)]
    return plant(made, least=least)


def seen_by(forest, places):
    """Who sees whom, out of the sequences: [queries, keys]."""
    mask = torch.zeros(len(forest.tokens), len(forest.tokens), dtype=torch.bool)
    for lie in places:
        for at in range(len(lie)):
            mask[lie[at], lie[: at + 1]] = True
    return mask


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 8, None]), st.sampled_from([(4, 2), (3, 3), (6, 1)]))
def test_attention_chain_by_chain_is_exact(seed, least, heads):
    forest, places = random_forest(seed, least)
    count, mask = len(forest.tokens), seen_by(forest, places)
    along = chains(forest)
    assert [chain.first for chain in along] == [0, *(chain.last for chain in along[:-1])]
    torch.manual_seed(seed)
    inputs = [torch.randn(1, h, count, 16, dtype=torch.float64, requires_grad=True) for h in (heads[0], *heads[1:] * 2)]
    slope = torch.randn_like(inputs[0])
    got = ByChain(forest)(0, *inputs)
    want = F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(got, want)
    slopes = [torch.autograd.grad((x * slope).sum(), inputs) for x in (got, want)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


def padded_mask(seed, least):
    """A forest of several blocks, and who sees whom; padding sees itself."""
    forest, places = random_forest(seed, least, count=25, longest=150)
    count, size = len(forest.tokens), padded(len(forest.tokens))
    mask = torch.eye(size, dtype=torch.bool)
    mask[:count, :count] = seen_by(forest, places)
    return forest, mask


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 8, None]))
def test_blocks_are_those_of_the_mask(seed, least):
    """FlexAttention's blocks, worked out of segments, beside the mask of the sequences."""
    forest, mask = padded_mask(seed, least)
    tiles = mask.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).transpose(1, 2).flatten(2)
    some, whole = blocks(last_seen(forest, len(mask)))
    assert torch.equal(torch.from_numpy(whole), tiles.all(-1))
    assert torch.equal(torch.from_numpy(some), tiles.any(-1) & ~tiles.all(-1))
    places = torch.arange(len(mask))
    sees = ByBlock(forest, CPU).mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None])
    assert torch.equal(sees, mask)


def test_flex_attention_sees_the_forest(monkeypatch):
    """Forward and back, without its fused kernels: so it has a backward on a CPU too, though it refuses it."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    forest, mask = padded_mask(0, 8)
    inputs = [torch.randn(1, heads, len(mask), 8, requires_grad=True) for heads in (4, 2, 2)]
    slope = torch.randn(1, 4, len(mask), 8)
    got = ByBlock(forest, CPU)(0, *inputs)
    want = F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    slopes = [torch.autograd.grad((x * slope).sum(), inputs) for x in (got, want)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_model_of_transformers_gets_rows():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = TransformersLM(LlamaForCausalLM(LlamaConfig(**sizes, **heads)))
    samples = samples_of(groups(1, count=2, size=3, turns=6, longest=20), np.random.default_rng(0))
    got, _ = gradient(model, samples, batch_tokens=300)
    total = torch.zeros(())
    for one in samples:
        tokens, mask = torch.from_numpy(one.token_ids.astype(np.int64)), torch.from_numpy(one.mask[1:])
        scores = model.inner(tokens[None]).logits[0, :-1] / one.temperature
        losses = F.cross_entropy(scores, tokens[1:], reduction="none") * torch.from_numpy(one.advantages[1:])
        total = total + losses[mask].sum()
    total = total / sum(int(one.mask[1:].sum()) for one in samples)
    want = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
    assert max(distance(got, want)) < 1e-4


def test_logits_that_are_too_many_are_computed_again(monkeypatch):
    """With a large vocabulary: the same numbers in pieces."""
    model = small_model(0)
    samples = samples_of(groups(1, count=2, size=3, turns=6, longest=20), np.random.default_rng(0))
    want, _ = gradient(model, samples, backend="torch")
    monkeypatch.setattr("askesis.train.scores._KEPT", 7 * VOCAB)
    monkeypatch.setattr("askesis.train.scores._AT_ONCE", 7 * VOCAB)
    got, _ = gradient(model, samples, backend="torch")
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
