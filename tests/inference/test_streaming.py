"""Tokens as they are sampled: each is told once, in order, whatever happens to the request."""

import asyncio

import numpy as np
import pytest

from askesis.types import Sampling, ThinkingLimit, ids

VOCAB = 96


def prompt(seed, length):
    return ids(np.random.default_rng(seed).integers(0, VOCAB, size=length))


def joined(pieces):
    names = ("token_ids", "logprobs", "forced", "policy_versions")
    return [np.concatenate([getattr(piece, name) for piece in pieces]) for name in names]


async def test_pieces_joined_are_the_completion_with_forced_and_thrown_away_tokens(make_engine, model):
    engine = make_engine(model, slots=4, context_length=200)
    heard = {i: [] for i in range(9)}

    async def one(i):
        limit = ThinkingLimit(budget=i % 3, open_id=1, close_id=2, closing=(9, 2, 8), open=True) if i % 2 else None
        sampling = Sampling(max_tokens=20 + i, stop=(5, 6), seed=i, thinking=limit)
        said = await engine.generate(prompt(i, 4 + i), sampling, on_tokens=heard[i].append)
        assert said.token_ids.tolist() == (await engine.generate(prompt(i, 4 + i), sampling)).token_ids.tolist()
        return said

    for i, said in enumerate(await asyncio.gather(*map(one, range(9)))):
        tokens, logprobs, forced, versions = joined(heard[i])
        assert len(heard[i]) > 1
        assert tokens.tolist() == said.token_ids.tolist()
        assert logprobs.tolist() == said.logprobs.tolist()
        assert forced.tolist() == said.forced.tolist()
        assert versions.tolist() == said.policy_versions.tolist()


async def test_a_cancelled_call_has_told_of_all_that_it_sampled(make_engine, model):
    engine = make_engine(model, slots=2, context_length=200)
    heard = []
    enough = asyncio.Event()

    def hear(piece):
        heard.append(piece)
        if len(heard) == 3:
            enough.set()

    sampling = Sampling(max_tokens=150, seed=3)
    call = asyncio.create_task(engine.generate(prompt(1, 5), sampling, on_tokens=hear))
    await enough.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    told = joined(heard)[0]
    assert engine.stats().sampled_tokens == len(told)
    assert engine.stats().running == 0
    whole = await engine.generate(prompt(1, 5), sampling)
    assert whole.token_ids[: len(told)].tolist() == told.tolist()


async def test_a_listener_that_fails_fails_alone(make_engine, model):
    engine = make_engine(model, slots=2, context_length=100)

    def fail(piece):
        raise ValueError("no")

    good = asyncio.create_task(engine.generate(prompt(2, 5), Sampling(max_tokens=40, seed=1)))
    with pytest.raises(ValueError, match="no"):
        await engine.generate(prompt(1, 5), Sampling(max_tokens=40, seed=1), on_tokens=fail)
    assert len((await good).token_ids) == 40
    assert engine.stats().running == 0
