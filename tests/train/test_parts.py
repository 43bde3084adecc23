"""How a minibatch of sequences that begin alike is cut into parts."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_doubles import VOCAB, sample

from askesis.train import grove
from askesis.types import ids

META = torch.device("meta")


def family(rng, roots, branches, children, longest):
    """Samples that begin alike by what they are told before they part, at up to three places; some carry no loss."""
    made = []
    for root in range(roots):
        trunk = rng.integers(0, VOCAB, int(rng.integers(0, longest)))
        for branch in range(int(rng.integers(1, branches + 1))):
            bough = np.concatenate([trunk, rng.integers(0, VOCAB, int(rng.integers(0, longest)))])
            for child in range(int(rng.integers(1, children + 1))):
                own = rng.integers(0, VOCAB, int(rng.integers(2, longest + 2)))
                made.append(told(rng, bough, own, trace=f"{root}/{branch}/{child}", group=str(root)))
                made[-1].mask[:] &= rng.random() > 0.1
    rng.shuffle(made)
    return made


def told(rng, before, own, **names):
    """A sample that goes on from `before`."""
    made = sample(rng, len(before) + len(own), **names)
    made.token_ids[:] = ids(np.concatenate([before, own]))
    made.mask[: len(before)] = False
    return made


def sizes(batch):
    return [len(part.forest.tokens) for part in batch.parts]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    roots=st.integers(1, 5),
    branches=st.integers(1, 4),
    children=st.integers(1, 6),
    longest=st.sampled_from([3, 40, 300]),
    batch_tokens=st.sampled_from([1, 100, 400, 1000, 10**6]),
    together=st.sampled_from([1, 2, 3, 4]),
    least=st.sampled_from([1, 8, None]),
)
def test_a_part_has_no_more_than_it_may(seed, roots, branches, children, longest, batch_tokens, together, least):
    """Every sample that carries loss is in one part, none has too many tokens, and all have not too many together."""
    samples = family(np.random.default_rng(seed), roots, branches, children, longest)
    carrying = [place for place, one in enumerate(samples) if one.mask[1:].any()]
    batch = grove(samples, batch_tokens, together=together, device=META, least=least)
    owners = [sorted(set(part.samples.tolist())) for part in batch.parts]
    assert sorted(place for places in owners for place in places) == carrying
    if not carrying:
        return
    before = {place: samples[place].token_ids[: np.flatnonzero(samples[place].mask)[-1]] for place in carrying}
    alone = max(map(len, before.values()))
    most = batch_tokens if alone <= batch_tokens else 2 * alone
    assert max(sizes(batch)) <= most
    one = sum(sizes(grove(samples, 10**9, together=1, device=META, least=least)))
    ordered = sorted(before.values(), key=lambda tokens: tokens.astype(">i4").tobytes())
    shared = max((common(a, b) for a, b in itertools.pairwise(ordered)), default=0) if least else 0
    if shared < most:
        factor, forks = 1 + 2 * shared / (most - shared), ((least or 1) - 1) * len(carrying)
        assert sum(sizes(batch)) <= (one + forks) * factor + together * shared


def common(a, b):
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def prompted(prompts, episodes, length, own):
    rng = np.random.default_rng(0)
    return [
        told(rng, prompt, rng.integers(0, VOCAB, own), trace=f"{group}/{n}", group=str(group))
        for group, prompt in enumerate(rng.integers(0, VOCAB, (prompts, length)))
        for n in range(episodes)
    ]


@pytest.mark.parametrize(("batch_tokens", "most"), [(2048, 2 * 4199), (6000, 6000), (8192, 8192), (20_000, 20_000)])
def test_a_long_beginning_is_not_computed_over_and_over(batch_tokens, most):
    """64 episodes of 200 tokens after 4,000 that all share: a forest of 16,736 tokens, 268,736 one by one."""
    samples = prompted(1, 64, 4000, 200)
    for together in (1, 4):
        found = sizes(grove(samples, batch_tokens, together=together, device=META))
        assert max(found) <= most
        assert sum(found) <= 3 * 16_736
        assert max(found) <= 1.15 * min(found)  # of about one size


def test_nothing_is_cut_for_little():
    """Four parts of 4,060 tokens are no gain over one of 4,240; four of 332 are one over one of 1,328."""
    assert len(sizes(grove(prompted(1, 8, 4000, 31), 8192, together=4, device=META))) == 1
    assert sizes(grove(prompted(4, 8, 100, 30), 8192, together=4, device=META)) == [332] * 4
    assert len(sizes(grove(prompted(4, 8, 100, 30), 8192, together=1, device=META))) == 1
