"""Advantages, losses and optimisers against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from askesis.train import (
    ADVANTAGES,
    CLIPS,
    CORRECTIONS,
    POLICY_LOSSES,
    Lag,
    LossInputs,
    Muon,
    correction,
    k3,
    orthogonalise,
    policy_loss,
    rate_factor,
    supervised,
    weigh,
)
from askesis.types import AskesisError

# -- advantages ----------------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    assert ADVANTAGES["dr_grpo"]([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]
    # mean 1/4, variance 3/16, deviation sqrt(3)/4: 0.75 / 0.4330 = sqrt(3), -0.25 / 0.4330 = -1 / sqrt(3)
    expected = [math.sqrt(3), *[-1 / math.sqrt(3)] * 3]
    assert ADVANTAGES["grpo"]([1.0, 0.0, 0.0, 0.0]) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=16), st.floats(-1e3, 1e3))
def test_advantages_add_up_to_nothing_and_ignore_a_shift(rewards, shift):
    for advantages in ADVANTAGES.values():
        values = advantages(rewards)
        assert math.fsum(values) == pytest.approx(0.0, abs=1e-6)
        if max(rewards) - min(rewards) > 1e-2:
            assert advantages([reward + shift for reward in rewards]) == pytest.approx(values, abs=1e-3)


# -- losses --------------------------------------------------------------------------------------------------------

# Two outputs: the first has tokens 0 and 1, the second token 2. Ratios 1.5, 0.5, 1.1.
RATIOS = [1.5, 0.5, 1.1]


def inputs(**changes):
    proximal = torch.tensor([-1.0, -2.0, -3.0])
    current = (proximal + torch.tensor(RATIOS).log()).requires_grad_()
    values = {
        "current": current,
        "proximal": proximal,
        "sampler": proximal,
        "advantages": torch.tensor([1.0, -1.0, 2.0]),
        "lengths": torch.tensor([2.0, 2.0, 1.0]),
        "tokens": 3,
        "outputs": 2,
        "horizon": 10,
    }
    return LossInputs(**(values | changes))


# With low 0.2, high 0.28 a token's surrogate min(ratio A, clipped A) is 1.28, min(-0.5, -0.8) = -0.8, and 2.2.
@pytest.mark.parametrize(
    ("name", "expected", "weights"),
    [
        ("dapo", -(1.28 - 0.8 + 2.2) / 3, [1 / 3] * 3),
        ("grpo", -((1.28 - 0.8) / 2 + 2.2) / 2, [1 / 4, 1 / 4, 1 / 2]),
        ("dr_grpo", -(1.28 - 0.8 + 2.2) / 20, [1 / 20] * 3),
    ],
)
def test_policy_losses_by_hand(name, expected, weights):
    given_ = inputs()
    output = POLICY_LOSSES[name](given_, low=0.2, high=0.28, kl=0.0)
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert {key: value.tolist() for key, value in output.figures.items()} == {
        "clipped_high": [True, False, False],
        "clipped_low": [False, True, False],
        "ratio": pytest.approx(RATIOS),
    }
    output.loss.backward()
    # clipped tokens have no gradient; the third has -weight x ratio x advantage
    assert given_.current.grad.tolist() == pytest.approx([0.0, 0.0, -weights[2] * 2.2], rel=1e-5)


# The first output's ratio is sqrt(1.5 x 0.5) = 0.8660 at both of its tokens.
@pytest.mark.parametrize(("high", "second", "slope"), [(0.28, 2.2, -1.1), (0.05, 2.1, 0.0)])
def test_gspo_by_hand(high, second, slope):
    first = math.sqrt(0.75)
    given_ = inputs(advantages=torch.tensor([1.0, 1.0, 2.0]), drift=torch.tensor([first, first, 1.1]).log())
    output = POLICY_LOSSES["gspo"](given_, low=0.2, high=high, kl=0.0)
    assert output.loss.item() == pytest.approx(-(first + second) / 2, rel=1e-6)
    output.loss.backward()
    assert given_.current.grad.tolist() == pytest.approx([-first / 4, -first / 4, slope], rel=1e-5)
    with pytest.raises(AskesisError, match="whole outputs are missing"):
        POLICY_LOSSES["gspo"](inputs(), low=0.2, high=high, kl=0.0)


def test_cispo_by_hand():
    given_ = inputs()
    output = POLICY_LOSSES["cispo"](given_, low=1.0, high=0.28, kl=0.0)
    weights = [1.28, -0.5, 2.2]  # clipped ratio x advantage
    expected = -sum(w * c for w, c in zip(weights, given_.current.tolist(), strict=True)) / 3
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    output.loss.backward()
    assert given_.current.grad.tolist() == pytest.approx([-w / 3 for w in weights], rel=1e-5)
    assert output.figures["clipped_high"].tolist() == [True, False, False]


def test_losses_have_their_bounds_by_name():
    assert set(CLIPS) == set(POLICY_LOSSES)
    assert policy_loss("dapo").keywords == {"low": 0.2, "high": 0.28, "kl": 0.0}
    assert policy_loss("grpo", low=0.1, kl=0.5).keywords == {"low": 0.1, "high": 0.1, "kl": 0.5}
    assert policy_loss("gspo", low=0.1).keywords == {"low": 0.1, "high": 4e-4, "kl": 0.0}
    with pytest.raises(AskesisError, match="did you mean 'gspo'"):
        policy_loss("gpso")


@given(st.lists(st.floats(0, 3), min_size=3, max_size=3), st.sampled_from(sorted(POLICY_LOSSES)))
def test_weights_weigh_a_token(weights, name):
    """As many gradients as there are tokens, each times its weight."""
    slopes = []
    for given_ in (inputs(drift=torch.zeros(3)), inputs(drift=torch.zeros(3), weights=torch.tensor(weights))):
        POLICY_LOSSES[name](given_, low=0.2, high=0.28, kl=0.0).loss.backward()
        slopes.append(given_.current.grad)
    assert slopes[1].tolist() == pytest.approx((slopes[0] * torch.tensor(weights)).tolist(), rel=1e-5)


# -- corrections ---------------------------------------------------------------------------------------------------

# Ratios of tokens are 4, 0.5 and 0.2; of the first output, which has two, 2, or sqrt(2) a token.
LAG = Lag(
    token=torch.tensor([4.0, 0.5, 0.2]).log(),
    output=torch.tensor([2.0, 2.0, 0.2]).log(),
    lengths=torch.tensor([2.0, 2.0, 1.0]),
)


@pytest.mark.parametrize(
    ("name", "low", "high", "weights", "masked", "truncated"),
    [
        ("tis", None, None, [2.0, 0.5, 0.2], [0, 0, 0], [1, 0, 0]),
        ("tis", 0.4, 3.0, [3.0, 0.5, 0.4], [0, 0, 0], [1, 0, 1]),
        ("mis", None, 3.0, [0.0, 0.5, 0.2], [1, 0, 0], [0, 0, 0]),
        ("icepop", None, None, [4.0, 0.5, 0.0], [0, 0, 1], [0, 0, 0]),
        ("band", None, None, [0.0, 1.0, 0.0], [1, 0, 1], [0, 0, 0]),
        ("seq_tis", None, 1.5, [1.5, 1.5, 0.2], [0, 0, 0], [1, 1, 0]),
        ("seq_mis", None, 1.5, [0.0, 0.0, 0.2], [1, 1, 0], [0, 0, 0]),
        ("seq_band", 0.3, 3.0, [1.0, 1.0, 0.0], [0, 0, 1], [0, 0, 0]),
        ("geo_band", 0.1, 1.5, [1.0, 1.0, 1.0], [0, 0, 0], [0, 0, 0]),
        ("geo_band", None, 1.3, [0.0, 0.0, 0.0], [1, 1, 1], [0, 0, 0]),
    ],
)
def test_corrections_by_hand(name, low, high, weights, masked, truncated):
    found = weigh([correction(name, low=low, high=high)], LAG)
    assert found.weights.tolist() == pytest.approx(weights, rel=1e-5)
    assert found.figures["masked"].tolist() == [bool(value) for value in masked]
    assert found.figures["truncated"].tolist() == [bool(value) for value in truncated]


def test_corrections_together():
    found = weigh([correction("tis"), correction("band", low=0.3, high=5.0), correction("seq_band")], LAG)
    assert found.weights.tolist() == pytest.approx([2.0, 0.5, 0.0], rel=1e-5)
    assert found.figures["masked"].tolist() == [False, False, True]


def test_a_correction_that_cannot_be():
    with pytest.raises(AskesisError, match="did you mean 'icepop'"):
        correction("icepopp")
    with pytest.raises(AskesisError, match="low <= 1 <= high"):
        correction("tis", high=0.9)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.sampled_from(sorted(CORRECTIONS)))
def test_weights_stay_within_their_bounds(gaps, name):
    token = torch.tensor(gaps)
    kind = CORRECTIONS[name]
    weights = weigh([kind], Lag(token=token, output=token.sum().expand(len(gaps)), lengths=torch.tensor(len(gaps))))
    assert all(weight == 0 or kind.low <= weight <= kind.high for weight in weights.weights.tolist())
    none = torch.zeros(len(gaps))
    assert weigh([kind], Lag(token=none, output=none, lengths=torch.tensor(len(gaps)))).weights.tolist() == [1.0] * len(
        gaps
    )


# -- parts ---------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_minibatch_add_up_to_it():
    whole = inputs(drift=torch.tensor([-0.1, -0.1, 0.1]), weights=torch.tensor([1.0, 0.5, 2.0]))
    for loss in POLICY_LOSSES.values():
        parts = [
            replace(
                whole,
                **{
                    name: getattr(whole, name)[part]
                    for name in ("current", "proximal", "sampler", "advantages", "lengths", "drift", "weights")
                },
            )
            for part in (slice(0, 1), slice(1, 3))
        ]
        shares = [loss(part, low=0.2, high=0.2, kl=0.0).loss.item() for part in parts]
        assert sum(shares) == pytest.approx(loss(whole, low=0.2, high=0.2, kl=0.0).loss.item())


def test_divergence_from_a_teacher_by_hand():
    current, teacher = torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -1.0 + math.log(2)])
    assert k3(current, teacher).tolist() == pytest.approx([0.0, 1 - math.log(2)], abs=1e-6)  # e^ln2 - ln2 - 1
    plain = POLICY_LOSSES["dapo"](inputs(), low=0.2, high=0.28, kl=0.0).loss.item()
    near = inputs()
    taught = replace(near, teacher=near.current.detach() + math.log(2))
    output = POLICY_LOSSES["dapo"](taught, low=0.2, high=0.28, kl=0.5)
    assert output.loss.item() == pytest.approx(plain + 0.5 * (1 - math.log(2)), rel=1e-5)
    assert output.figures["kl"].tolist() == pytest.approx([1 - math.log(2)] * 3, rel=1e-5)


def test_supervised_is_weighted_likelihood():
    current = torch.tensor([-1.0, -2.0, -3.0])
    output = supervised(inputs(current=current, advantages=torch.tensor([1.0, 1.0, 0.5])))
    assert output.loss.item() == pytest.approx((1 + 2 + 1.5) / 3)


# -- optimisers ----------------------------------------------------------------------------------------------------


def test_muon_makes_steps_of_even_size_in_every_direction():
    torch.manual_seed(0)
    for shape in ((3, 24, 8), (2, 40, 16), (1, 16, 40)):
        singular = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert singular.min() > 0.4 and singular.max() < 1.3
    tall, wide = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((32, 8), (8, 32)))
    optimiser = Muon([tall, wide], lr=0.1)
    for parameter in (tall, wide):
        parameter.grad = torch.randn(parameter.shape)
    gradient = tall.grad.clone()
    optimiser.step()
    # Nesterov at the first step: 0.95 x (0.05 g) + 0.05 g points along g
    assert torch.allclose(tall, -0.1 * 2.0 * orthogonalise(gradient[None])[0], atol=1e-5)  # sqrt(32 / 8) = 2
    assert torch.linalg.svdvals(wide.detach()).max() < 0.13


@pytest.mark.parametrize(
    ("progress", "schedule", "warmup", "factor"),
    [
        (0.05, "constant", 0.1, 0.5),
        (0.5, "constant", 0.1, 1.0),
        (0.55, "linear", 0.1, 0.5),
        (0.55, "cosine", 0.1, 0.5),
        (1.0, "cosine", 0.0, 0.0),
        (1.2, "linear", 0.0, 0.0),
    ],
)
def test_rates_go_as_scheduled(progress, schedule, warmup, factor):
    assert rate_factor(progress, schedule, warmup) == pytest.approx(factor, abs=1e-9)
