"""Samples of other policies at the trainer's door: against plain sums over whole episodes, by both back ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_doubles import sample, small_mixture, small_model

from askesis.train import CLIPS, CORRECTIONS, POLICY_LOSSES, Optimisers, Trainer, correction, grove, policy_loss
from askesis.types import AskesisError

BACKENDS = ("native", "torch")


def trainer(model, loss, *, lr=1e-2, **changes):
    optimisers = Optimisers(model, kind="adamw", lr=lr, muon_lr=lr)
    return Trainer(model, loss=loss, optimisers=optimisers, **{"grad_clip": 0.0, "backend": "torch"} | changes)


def episodes(seed, count=5, apart=0.5, longest=30):
    """Samples of episodes with one to three branches each, whose sampler was about `apart` nats a token from the
    model of seed 0."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        advantage = float(rng.normal())
        for _ in range(int(rng.integers(1, 4))):
            one = sample(rng, int(rng.integers(4, longest)), trace=str(number), group=str(number), advantage=advantage)
            found.append(one)
    said = trainer(small_model(), policy_loss("dapo")).logprobs(found)
    return [
        replace(one, logprobs=np.where(one.mask, values + rng.normal(0, apart, len(values)), 0).astype(np.float32))
        for one, values in zip(found, said, strict=True)
    ]


def gradient(model, samples, loss, **changes):
    made = trainer(model, loss, **changes)
    made.optimisers.step = lambda progress: 1.0
    figures = made.step(samples)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), figures


def plainly(samples, slope):
    """The gradient of sum over tokens of slope x log-probability. slope: of an episode's advantages and log-ratios of
    trainer to sampler, its tokens' slopes; and its weight is 1 for all episodes together."""
    model = small_model()
    by_trace = {}
    for one in samples:
        tokens = torch.as_tensor(one.token_ids.astype(np.int64))
        scores = model.logits(model(tokens[None]))[0, :-1].log_softmax(-1)
        carrying = torch.as_tensor(one.mask[1:])
        values = scores.gather(-1, tokens[1:, None])[:, 0][carrying]
        rest = (torch.as_tensor(one.advantages[1:])[carrying], torch.as_tensor(one.logprobs[1:])[carrying])
        by_trace.setdefault(one.trace_id, []).append((values, *rest))
    joined = [[torch.cat(column) for column in zip(*parts, strict=True)] for parts in by_trace.values()]
    tokens = sum(len(values) for values, _, _ in joined)
    loss = sum(
        (slope(advantages, values.detach() - sampler, tokens, len(joined)) * values).sum()
        for values, advantages, sampler in joined
    )
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def close(got, want):
    assert float((got - want).norm() / want.norm()) < 1e-4


def _tis(advantages, lag, tokens, outputs):
    return -lag.exp().clamp(max=2.0) * advantages / tokens


def _seq_mis(advantages, lag, tokens, outputs):
    ratio = lag.sum().exp()
    return -(ratio if ratio <= 2.0 else 0.0) * advantages / tokens


def _geo_band(advantages, lag, tokens, outputs):
    ratio = lag.exp()  # against the sampler: a band leaves the loss's ratios to the loss
    free = torch.where(advantages > 0, ratio <= 1.28, ratio >= 0.8)
    return -ratio * advantages * free * (0.9 <= lag.mean().exp() <= 1.1) / tokens


def _gspo(advantages, lag, tokens, outputs):
    ratio = lag.mean().exp()
    free = torch.where(advantages > 0, ratio <= 1.3, ratio >= 0.8)
    return -ratio * advantages * free / (len(lag) * outputs)


REFERENCES = {
    "tis": (policy_loss("dapo"), ["tis"], _tis),
    "seq_mis": (policy_loss("dapo"), ["seq_mis"], _seq_mis),
    "geo_band": (policy_loss("dapo"), ["geo_band"], _geo_band),
    "gspo": (policy_loss("gspo", low=0.2, high=0.3), [], _gspo),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", REFERENCES)
def test_gradients_are_those_of_plain_sums_over_episodes(name, backend):
    """However an episode's branches are spread over parts."""
    loss, names, slope = REFERENCES[name]
    samples = episodes(3, count=9, apart=0.3, longest=120)
    assert grove(samples, 1).split and not grove(samples, 10**6, together=1).split
    want = plainly(samples, slope)
    assert want.norm() > 1e-3
    for batch_tokens in (1, 60, 10**6):
        got, _ = gradient(
            small_model(),
            samples,
            loss,
            corrections=[correction(one) for one in names],
            backend=backend,
            batch_tokens=batch_tokens,
        )
        close(got, want)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(POLICY_LOSSES)),
    st.sampled_from([(one,) for one in sorted(CORRECTIONS)] + [("tis", "band", "geo_band"), ("seq_mis", "band")]),
    st.sampled_from(BACKENDS),
    st.sampled_from([1, 50, 10**6]),
)
def test_on_what_the_policy_itself_sampled_every_correction_is_nothing(seed, loss, names, backend, batch_tokens):
    samples = episodes(seed, apart=0.0)
    options = {"backend": backend, "batch_tokens": batch_tokens}
    want, _ = gradient(small_model(), samples, policy_loss(loss), backend=backend)
    chosen = [correction(one) for one in names]
    got, figures = gradient(small_model(), samples, policy_loss(loss), corrections=chosen, **options)
    close(got, want)
    assert figures["masked"] == figures["truncated"] == 0.0
    assert figures["ess"] == pytest.approx(1.0, abs=1e-4) and figures["logprob_gap"] < 1e-4


@settings(max_examples=5, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(sorted(POLICY_LOSSES)), st.sampled_from(["seq_tis", "icepop", "geo_band"])
)
def test_parts_back_ends_and_threads_change_nothing_over_several_updates(seed, name, of):
    """The second minibatch's ratios are against weights that are no longer there."""
    samples = episodes(seed, count=8, longest=120)
    made = []
    for changes in ({}, {"batch_tokens": 1}, {"backend": "native", "batch_tokens": 1}, {"threads": 2}):
        model = small_model()
        loss = policy_loss(name, low=min(0.3, CLIPS[name][0] * 10), high=0.3)
        # one far learning rate gives every token another ratio; adamw's first step has the gradient's sign alone
        one = trainer(model, loss, lr=1e-3, minibatches=2, corrections=[correction(of)], **changes)
        one.optimisers = _Plain(model)
        figures = one.step(samples)
        assert figures["updates"] == 2
        made.append((torch.cat([p.detach().flatten() for p in model.parameters()]), figures))
    begun = torch.cat([p.detach().flatten() for p in small_model().parameters()])
    for weights, figures in made[1:]:
        close(weights - begun, made[0][0] - begun)
        assert figures == pytest.approx(made[0][1], rel=1e-3, abs=1e-4)


class _Plain:
    """Gradient descent: what a gradient is off by, weights are off by."""

    def __init__(self, model):
        self._parameters = list(model.parameters())

    def step(self, progress):
        with torch.no_grad():
            for parameter in self._parameters:
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
        return 1.0


def test_the_proximal_policy_is_that_with_which_the_step_began():
    samples = episodes(1, count=6)
    for proximal, backend in (("recompute", "native"), ("recompute", "torch"), ("sampler", "torch")):
        model, seen = small_model(), []

        def loss(inputs, seen=seen):
            seen.append(inputs)
            return policy_loss("dapo")(inputs)

        made = trainer(model, loss, lr=3e-2, minibatches=3, proximal=proximal, backend=backend)
        began = torch.as_tensor(
            np.concatenate([v[s.mask] for v, s in zip(made.logprobs(samples), samples, strict=True)])
        )
        said = torch.as_tensor(np.concatenate([s.logprobs[s.mask] for s in samples]))
        made.step(samples)
        got = torch.cat([inputs.proximal for inputs in seen]).sort().values
        want = (said if proximal == "sampler" else began).sort().values
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
        moved = torch.cat([(inputs.current - inputs.proximal).detach().abs() for inputs in seen[1:]])
        assert moved.max() > 0.01
        if proximal == "recompute":
            assert (seen[0].current == seen[0].proximal).all()


def test_what_would_count_twice_is_refused():
    with pytest.raises(AskesisError, match="would count twice"):
        trainer(small_model(), policy_loss("dapo"), corrections=[correction("tis")], proximal="sampler")
    with pytest.raises(AskesisError, match="2 corrections weigh"):
        trainer(small_model(), policy_loss("dapo"), corrections=[correction("tis"), correction("seq_mis")])
    with pytest.raises(AskesisError, match="expected one of auto, sampler, recompute"):
        trainer(small_model(), policy_loss("dapo"), proximal="old")
    trainer(small_model(), policy_loss("dapo"), corrections=[correction("band")], proximal="sampler")


def test_figures_by_version_distance():
    """Versions 9, 8, 6 and none: the trainer is at 9."""
    samples = episodes(5, count=4, apart=0.0)
    aparts = {"0": 0.0, "1": 0.1, "2": 0.5, "3": 0.0}  # nats, by episode
    versions = {"0": 9, "1": 8, "2": 6, "3": -1}
    samples = [
        replace(
            one,
            logprobs=np.where(one.mask, one.logprobs + aparts[one.trace_id], 0).astype(np.float32),
            policy_versions=np.full(len(one), versions[one.trace_id], dtype=np.int32),
        )
        for one in samples
    ]
    counts = {trace: sum(int(one.mask.sum()) for one in samples if one.trace_id == trace) for trace in versions}
    tokens = sum(counts.values())
    made = trainer(small_model(), policy_loss("dapo"), corrections=[correction("icepop", low=0.7)], lr=1e-9)
    figures = made.step(samples, version=9)
    assert figures["tokens/0"] == pytest.approx((counts["0"] + counts["3"]) / tokens)
    assert figures["tokens/1"] == pytest.approx(counts["1"] / tokens)
    assert figures["tokens/2-3"] == pytest.approx(counts["2"] / tokens)
    assert figures["tokens/4-7"] == figures["tokens/8+"] == 0.0
    assert figures["staleness"] == pytest.approx((counts["1"] + 3 * counts["2"]) / tokens)
    assert figures["staleness_max"] == 3.0
    assert figures["gap_mean/1"] == pytest.approx(0.1, rel=1e-3)
    assert figures["gap_max/2-3"] == figures["gap_max"] == pytest.approx(0.5, rel=1e-3)
    assert figures["gap_mean"] == pytest.approx((0.1 * counts["1"] + 0.5 * counts["2"]) / tokens, rel=1e-3)
    assert figures["sampler_kl/2-3"] == pytest.approx(np.exp(-0.5) - 1 + 0.5, rel=1e-3)
    assert figures["masked/2-3"] == 1.0 and figures["masked/1"] == figures["masked/0"] == 0.0  # exp(-0.5) = 0.61
    assert figures["masked"] == pytest.approx(counts["2"] / tokens)
    assert figures["logprob_gap"] < 1e-4  # of what was sampled under version 9 alone
    assert figures["ratio_min"] == pytest.approx(np.exp(-0.5), rel=1e-3)
    weights = np.repeat([1.0, np.exp(-0.1), 0.0, 1.0], [counts[trace] for trace in sorted(counts)])
    assert figures["ess"] == pytest.approx(weights.sum() ** 2 / (tokens * (weights**2).sum()), rel=1e-3)
    assert 0 < figures["ess_episodes"] < 1
    assert not any("/" in name or name == "staleness" for name in made.step(samples))


def test_distances_fall_into_buckets():
    one = episodes(5, count=1, apart=0.0, longest=60)[0]
    versions = np.random.default_rng(0).integers(0, 12, len(one)).astype(np.int32)
    figures = trainer(small_model(), policy_loss("dapo"), lr=1e-9).step(
        [replace(one, policy_versions=versions)], version=11
    )
    distances = (11 - versions)[one.mask]
    for name, low, high in (("0", 0, 0), ("1", 1, 1), ("2-3", 2, 3), ("4-7", 4, 7), ("8+", 8, 11)):
        share = np.mean((distances >= low) & (distances <= high))
        assert figures[f"tokens/{name}"] == pytest.approx(share)


def test_a_token_is_fresh_if_all_before_it_was_sampled_by_the_same_weights():
    """An engine that goes on under new weights keeps what it had cached under the old."""
    one = episodes(2, count=1, apart=0.0)[0]
    versions = np.where(np.arange(len(one)) < len(one) // 2, 3, 4).astype(np.int32)
    versions[0] = -1
    off = np.where(one.mask & (versions == 4), one.logprobs - 0.2, one.logprobs).astype(np.float32)
    mixed = replace(one, policy_versions=versions, logprobs=off)
    figures = trainer(small_model(), policy_loss("dapo"), lr=1e-9).step([mixed], version=4)
    assert "logprob_gap" not in figures and figures["gap_max/0"] == pytest.approx(0.2, rel=1e-2)
    whole = replace(mixed, policy_versions=np.where(versions < 0, -1, 4).astype(np.int32))
    assert trainer(small_model(), policy_loss("dapo"), lr=1e-9).step([whole], version=4)["logprob_gap"] > 0.19


def test_a_mixture_of_experts_is_corrected_too():
    figures = trainer(small_mixture(), policy_loss("gspo"), corrections=[correction("tis")], batch_tokens=1).step(
        episodes(4, count=3)
    )
    assert figures["updates"] == 1 and np.isfinite(figures["grad_norm"]) and figures["truncated"] > 0
