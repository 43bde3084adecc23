"""The trainer at its door: gradients, batching that changes nothing, resuming, and what it does with bad numbers."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from train_doubles import VOCAB, sample, separate, small_mixture, small_model

from askesis.inference import EmbeddedEngine
from askesis.train import POLICY_LOSSES, Optimisers, Trainer, deal, minibatch, supervised
from askesis.types import CheckpointError, Sample, Sampling, ids

BACKEND = ["auto"]
DAPO = functools.partial(POLICY_LOSSES["dapo"], low=0.2, high=0.28, kl=0.0)


def trainer(model, *, loss=supervised, kind="adamw", lr=1e-2, **settings):
    optimisers = Optimisers(model, kind=kind, lr=lr, muon_lr=lr)
    return Trainer(model, loss=loss, optimisers=optimisers, **({"backend": BACKEND[0]} | settings))


@pytest.fixture(params=["auto", "torch"], autouse=True, scope="module")
def _backend(request):
    """Every test once with the C++ gradients, where the model has them, and once without."""
    BACKEND[:] = [request.param]


def some_samples(seed=0, groups=3, size=3, longest=40, **changes):
    rng = np.random.default_rng(seed)
    return [
        sample(rng, int(rng.integers(5, longest)), trace=f"{g}/{k}", group=str(g), **changes)
        for g in range(groups)
        for k in range(size)
    ]


def gradient_of(model, samples, **settings):
    """The gradient of a step, as the optimiser would have got it."""
    made = trainer(model, grad_clip=0.0, **settings)
    made.optimisers.step = lambda progress: 1.0
    made.step(samples)
    return [parameter.grad.clone() for parameter in model.parameters()]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["grpo", "dr_grpo", "dapo"]))
def test_how_samples_are_batched_changes_nothing(seed, name):
    model = small_model()
    samples = some_samples(seed)
    loss = functools.partial(POLICY_LOSSES[name], low=0.2, high=0.28, kl=0.0)
    alone, _ = separate(model, samples, loss)
    for settings_ in ({"batch_tokens": 64}, {"batch_tokens": 10**6}, {"batch_tokens": 64, "threads": 2}):
        for got, want in zip(gradient_of(model, samples, loss=loss, **settings_), alone, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_experts_are_balanced_over_the_whole_minibatch(threads):
    """However it is split: the same figure, worked out by hand from the routers' scores, and the same gradient."""
    model = small_mixture()
    samples = some_samples(groups=12)
    seen = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _, __, scores: seen.append(scores.detach()))
    terms = []
    for one in samples:  # without padding, and before the last token that carries loss
        end = int(np.flatnonzero(one.mask)[-1])
        model(torch.as_tensor(one.token_ids[:end].astype(np.int64))[None])
    for layer in range(2):
        probabilities = torch.cat(seen[layer::2]).softmax(-1)
        chosen = probabilities.topk(2, dim=-1).indices
        shares = [(chosen == expert).float().mean() for expert in range(4)]
        terms.append(4 * sum(share * probabilities[:, expert].mean() for expert, share in enumerate(shares)))
    expected = float(sum(terms) / 2)
    assert expected > 1.01
    made = trainer(model, lr=1e-9, router_aux=0.1, batch_tokens=64, threads=threads)
    assert made.step(samples)["router_balance"] == pytest.approx(expected, rel=1e-4)
    assert "router_balance" not in trainer(model, lr=1e-9).step(samples)
    whole = gradient_of(model, samples, router_aux=0.1, batch_tokens=10**6)
    split = gradient_of(model, samples, router_aux=0.1, batch_tokens=64, threads=threads)
    without = gradient_of(model, samples, batch_tokens=10**6)
    for got, want in zip(split, whole, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3)
    assert any((got - want).abs().max() > 1e-4 for got, want in zip(without, whole, strict=True))


def test_balancing_makes_experts_more_even():
    model, samples = small_mixture(), some_samples(advantage=0.0)  # nothing else to learn
    made = trainer(model, lr=1e-2, router_aux=1.0)
    found = [made.step(samples)["router_balance"] for _ in range(20)]
    assert found[-1] - 1 < (found[0] - 1) / 2
    assert "router_balance" not in trainer(small_model(), router_aux=1.0).step(samples)


def test_a_supervised_gradient_is_that_of_plain_cross_entropy():
    model = small_model()
    samples = some_samples(advantage=1.0)
    total = torch.zeros(())
    for one in samples:
        tokens = torch.as_tensor(one.token_ids.astype(np.int64))
        scores = model.logits(model(tokens[None]))[0, :-1]
        losses = F.cross_entropy(scores, tokens[1:], reduction="none")
        total = total + losses[torch.as_tensor(one.mask[1:])].sum()
    total = total / sum(int(one.mask[1:].sum()) for one in samples)
    expected = torch.autograd.grad(total, list(model.parameters()))
    for got, want in zip(gradient_of(model, samples), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400))
def test_every_token_that_carries_loss_is_in_one_part_once(seed, batch_tokens):
    samples = some_samples(seed, last=3)
    batch = minibatch(samples, batch_tokens, torch.device("cpu"))
    found = {place: [] for place in range(len(samples))}
    for part in batch.parts:
        assert part.tokens.numel() <= batch_tokens or part.tokens.shape[0] == 1
        rows, columns = np.divmod(part.index.numpy(), part.tokens.shape[1])
        assert (part.positions == columns + 1).all()
        for row, place, position, target in zip(rows, part.samples, part.positions, part.targets.tolist(), strict=True):
            found[place].append(int(position))
            assert samples[place].token_ids[position] == target
            assert (part.tokens[row, :position].numpy() == samples[place].token_ids[:position]).all()
    for place, positions in found.items():
        assert sorted(positions) == np.flatnonzero(samples[place].mask).tolist()
    assert batch.tokens == sum(int(one.mask.sum()) for one in samples)


def test_branches_of_one_episode_count_as_one_output():
    rng = np.random.default_rng(0)
    samples = [sample(rng, 9, trace="a", group="g"), sample(rng, 12, trace="a", group="g"), sample(rng, 9, trace="b")]
    batch = minibatch(samples, 10**6, torch.device("cpu"))
    assert batch.outputs == 2
    whole = int(samples[0].mask.sum() + samples[1].mask.sum())
    assert set(batch.parts[0].lengths.tolist()) == {float(whole), float(samples[2].mask.sum())}


def test_groups_stay_whole_when_dealt_into_minibatches():
    samples = some_samples(groups=7)
    hands = deal(samples, 3, seed=5)
    assert sorted(len(hand) for hand in hands) == [6, 6, 9]
    owners = [{one.group for one in hand} for hand in hands]
    assert sum(map(len, owners)) == 7
    assert [[s.trace_id for s in hand] for hand in hands] == [[s.trace_id for s in h] for h in deal(samples, 3, seed=5)]
    assert len(deal(samples[:3], 4, seed=0)) == 1


async def test_the_trainer_recomputes_what_the_engine_sampled():
    model = small_model()
    engine = EmbeddedEngine(model, slots=4, context_length=96, threads=1)
    samples = []
    for seed, temperature in enumerate((1.0, 0.7, 1.3)):
        prompt = ids(np.random.default_rng(seed).integers(0, VOCAB, 11 + seed))
        got = await engine.generate(prompt, Sampling(max_tokens=40, seed=seed, temperature=temperature))
        count = len(got.token_ids)
        samples.append(
            Sample(
                token_ids=ids(np.concatenate([prompt, got.token_ids])),
                mask=np.concatenate([np.zeros(len(prompt), bool), np.ones(count, bool)]),
                logprobs=np.concatenate([np.zeros(len(prompt), np.float32), got.logprobs]),
                advantages=np.concatenate([np.zeros(len(prompt), np.float32), np.ones(count, np.float32)]),
                policy_versions=np.zeros(len(prompt) + count, dtype=np.int32),
                trace_id=str(seed),
                temperature=temperature,
            )
        )
    await engine.close()
    made = trainer(model, loss=DAPO)
    for values, one in zip(made.logprobs(samples), samples, strict=True):
        np.testing.assert_allclose(values, one.logprobs, atol=1e-4)
    assert made.step(samples)["logprob_gap"] < 1e-4


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_learns(kind):
    model = small_model(seed=1)
    samples = some_samples(groups=2, advantage=1.0)
    made = trainer(model, kind=kind)
    losses = [made.step(samples)["loss"] for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_reinforcement_moves_probability_towards_what_was_better():
    model = small_model()
    good, bad = some_samples(groups=1, size=2)
    good = sample(np.random.default_rng(1), 20, trace="g", advantage=1.0)
    bad = sample(np.random.default_rng(2), 20, trace="b", advantage=-1.0)
    made = trainer(model, loss=DAPO, lr=1e-3)
    before = [values.sum() for values in made.logprobs([good, bad])]
    aligned = [_as_sampled(one, values) for one, values in zip((good, bad), made.logprobs([good, bad]), strict=True)]
    figures = made.step(aligned)
    assert figures["logprob_gap"] < 1e-5 and figures["updates"] == 1.0
    after = [values.sum() for values in made.logprobs([good, bad])]
    assert after[0] > before[0] and after[1] < before[1]


def _as_sampled(one, values):
    return Sample(
        token_ids=one.token_ids,
        mask=one.mask,
        logprobs=values,
        advantages=one.advantages,
        policy_versions=one.policy_versions,
        trace_id=one.trace_id,
    )


def test_going_on_is_the_same_as_never_having_stopped(tmp_path):
    samples = some_samples(groups=5)

    def make(model):
        return trainer(model, loss=DAPO, kind="muon", minibatches=2)

    straight = small_model()
    made = make(straight)
    for _ in range(4):
        made.step(samples)
    stopped = small_model()
    first = make(stopped)
    first.step(samples), first.step(samples)
    first.save(tmp_path / "t")
    second = make(stopped)
    second.load(tmp_path / "t")
    second.step(samples), second.step(samples)
    for got, want in zip(stopped.parameters(), straight.parameters(), strict=True):
        assert torch.equal(got, want)


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    made = trainer(small_model(), kind="muon")
    with pytest.raises(CheckpointError, match="cannot take over"):
        made.load(tmp_path)
    made.step(some_samples())
    made.save(tmp_path)
    with pytest.raises(CheckpointError, match="cannot take over"):
        trainer(small_model(), kind="adamw").load(tmp_path)


def test_a_gradient_that_is_not_finite_changes_nothing():
    model = small_model()
    before = [parameter.clone() for parameter in model.parameters()]
    figures = trainer(model, loss=DAPO).step(some_samples(advantage=float("inf")))
    assert figures["skipped"] == figures["updates"] == 1.0
    assert not np.isfinite(figures["grad_norm"])
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_samples_without_loss_are_no_step():
    rng = np.random.default_rng(0)
    empty = Sample(
        token_ids=ids(rng.integers(0, VOCAB, 5)),
        mask=np.zeros(5, dtype=bool),
        logprobs=np.zeros(5, dtype=np.float32),
        advantages=np.zeros(5, dtype=np.float32),
        policy_versions=np.zeros(5, dtype=np.int32),
    )
    assert trainer(small_model()).step([empty]) == {}
    others = some_samples(groups=1, size=1)
    for seed in range(4):  # whichever minibatch it is dealt into
        figures = trainer(small_model(), loss=DAPO, minibatches=2, seed=seed).step([empty, *others])
        assert figures["updates"] == 1.0 and figures["logprob_gap"] > 0


def test_a_mixture_of_experts_learns_too():
    model = small_model(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    made = trainer(model, kind="muon")
    samples = some_samples(groups=2, advantage=1.0)
    losses = [made.step(samples)["loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
