"""The embedded engine at its door: what it samples, what it computes, and how it fails."""

import asyncio
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from askesis.inference import EmbeddedEngine
from askesis.inference.native import why_not
from askesis.models import ModelConfig, build, fingerprint, save_checkpoint
from askesis.types import ContextOverflow, EngineError, Sampling, ThinkingLimit, ids

VOCAB = 96


def prompt(seed, length):
    return ids(np.random.default_rng(seed).integers(0, VOCAB, size=length))


def recomputed(model, context, completion, temperature=1.0):
    """What a trainer computes: one full forward over the sequence."""
    sequence = torch.tensor(np.concatenate([context, completion.token_ids]), dtype=torch.long)[None]
    with torch.no_grad():
        logprobs = (model.logits(model(sequence))[0] / temperature).log_softmax(dim=-1)
    return logprobs[len(context) - 1 : -1].gather(1, sequence[0, len(context) :, None])[:, 0].numpy()


async def play(engine, context, turns, sampling, session=None):
    """A conversation: (context, completion) of each turn; an observation of 7 tokens follows every turn."""
    said = []
    for turn in range(turns):
        completion = await engine.generate(context, sampling, session=session)
        said.append((context, completion))
        context = np.concatenate([context, completion.token_ids, prompt(1000 + turn, 7)])
    return said


async def test_greedy_equals_transformers_generate(make_engine, model, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_checkpoint(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    engine = make_engine(model, slots=4, context_length=128)
    prompts = [prompt(i, 3 + 5 * i) for i in range(6)]
    ours = await asyncio.gather(*(engine.generate(p, Sampling(temperature=0, max_tokens=24)) for p in prompts))
    for p, completion in zip(prompts, ours, strict=True):
        given = torch.tensor(p, dtype=torch.long)[None]
        out = theirs.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=24)
        assert completion.token_ids.tolist() == out[0, len(p) :].tolist()
        np.testing.assert_allclose(completion.logprobs, recomputed(model, p, completion), atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_logprobs_are_the_trainers_over_turns_lengths_and_forced_tokens(make_engine, model, temperature):
    engine = make_engine(model, slots=5, context_length=400, prefill_tokens=32)
    limit = ThinkingLimit(budget=3, open_id=1, close_id=2, closing=(9, 2, 8), open=True)

    async def episode(i):
        sampling = Sampling(
            temperature=temperature, max_tokens=9 + i, stop=(5, 6), seed=i, thinking=limit if i % 2 else None
        )
        return await play(engine, prompt(i, 3 + 11 * i), 4, sampling, session=f"s{i}")

    forced = 0
    for said in await asyncio.gather(*(episode(i) for i in range(12))):
        for context, completion in said:
            expected = recomputed(model, context, completion, temperature)
            expected[completion.forced] = 0.0
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
            forced += int(completion.forced.sum())
    assert forced > 0
    await engine.close()


async def test_a_seed_gives_the_same_tokens_whatever_shares_the_batch(make_engine, model):
    crowd = [prompt(i, 2 + i % 30) for i in range(20)]
    how = Sampling(max_tokens=20, seed=11, top_k=40, top_p=0.95, min_p=0.001, temperature=0.9)
    alone = await make_engine(model, slots=1, context_length=100).generate(crowd[3], how)
    engine = make_engine(model, slots=16, context_length=100)
    requests = [engine.generate(p, how if i == 3 else Sampling(max_tokens=5 + i, seed=i)) for i, p in enumerate(crowd)]
    together = (await asyncio.gather(*requests))[3]
    assert alone.token_ids.tolist() == together.token_ids.tolist()
    np.testing.assert_allclose(alone.logprobs, together.logprobs, atol=1e-4)
    other = await engine.generate(crowd[3], Sampling(max_tokens=20, seed=12))
    unseeded = [await engine.generate(crowd[3], Sampling(max_tokens=20)) for _ in range(2)]
    assert len({tuple(c.token_ids.tolist()) for c in (alone, other, *unseeded)}) == 4


async def test_an_episode_computes_nothing_twice(make_engine, model):
    engine = make_engine(model, slots=2, context_length=300)
    said = await play(engine, prompt(0, 30), 4, Sampling(max_tokens=12, seed=1), session="episode")
    context, completion = said[-1]
    stats = engine.stats()
    distinct = len(context) + len(completion.token_ids) - 1  # the very last token is never fed
    assert (stats.computed_tokens, stats.recomputed_tokens) == (distinct, 0)
    assert stats.sampled_tokens == 4 * 12


async def test_a_changed_continuation_keeps_the_common_prefix(make_engine, model):
    engine = make_engine(model, slots=1, rows=1, context_length=300)
    how = Sampling(max_tokens=4, temperature=0)
    first = prompt(0, 40)
    await engine.generate(first, how, session="a")
    before = engine.stats().computed_tokens
    second = np.concatenate([first[:25], prompt(1, 10)])
    second[25] = (first[25] + 1) % VOCAB
    completion = await engine.generate(second, how, session="a")
    assert engine.stats().computed_tokens - before == 10 + 3
    np.testing.assert_allclose(completion.logprobs, recomputed(model, second, completion), atol=1e-4)


async def test_a_group_computes_its_prompt_once(make_engine, model):
    engine = make_engine(model, slots=16, context_length=200)
    shared = prompt(0, 60)
    out = await asyncio.gather(
        *(engine.generate(shared, Sampling(max_tokens=8, seed=i), session=f"g{i}") for i in range(16))
    )
    stats = engine.stats()
    assert stats.computed_tokens == 60 + 15 + 16 * 7  # each feeds the last token of the prompt for itself
    assert stats.copied_tokens == 15 * 59
    for completion in out:
        np.testing.assert_allclose(completion.logprobs, recomputed(model, shared, completion), atol=1e-4)


async def test_many_more_episodes_than_rows(make_engine, model):
    engine = make_engine(model, slots=4, rows=6, context_length=200)
    episodes = await asyncio.gather(
        *(play(engine, prompt(i, 10), 3, Sampling(max_tokens=6, seed=i), session=f"e{i}") for i in range(40))
    )
    for said in episodes:
        for context, completion in said:
            np.testing.assert_allclose(completion.logprobs, recomputed(model, context, completion), atol=1e-4)
    stats = engine.stats()
    assert stats.evictions > 0 and stats.recomputed_tokens > 0
    assert 0 < stats.occupancy <= 1 and stats.running == stats.waiting == 0


async def test_length_stop_and_context(make_engine, model, scripted):
    engine = make_engine(scripted({}), slots=2, context_length=32)
    out = await engine.generate(ids([10]), Sampling(temperature=0, max_tokens=9, stop=(80, 15)))
    assert (out.token_ids.tolist(), out.finish_reason) == ([11, 12, 13, 14, 15], "stop")
    out = await engine.generate(ids([10]), Sampling(temperature=0, max_tokens=3))
    assert (out.token_ids.tolist(), out.finish_reason) == ([11, 12, 13], "length")
    out = await engine.generate(prompt(0, 30), Sampling(max_tokens=9))
    assert (len(out.token_ids), out.finish_reason) == (2, "length")
    with pytest.raises(ContextOverflow, match="32 tokens leaves no room"):
        await engine.generate(prompt(0, 32), Sampling())


@pytest.mark.parametrize(
    ("tokens", "sampling", "message"),
    [
        ([], Sampling(), "at least one token"),
        ([1, VOCAB], Sampling(), f"token id {VOCAB}; the vocabulary has ids 0 to {VOCAB - 1}"),
        ([-1], Sampling(), "token id -1"),
        ([1.5], Sampling(), "whole numbers"),
        ([1], Sampling(temperature=-1), "temperature=-1"),
        ([1], Sampling(temperature=float("nan")), "temperature=nan"),
        ([1], Sampling(top_p=0), "top_p=0"),
        ([1], Sampling(top_k=-1), "top_k=-1"),
        ([1], Sampling(min_p=2), "min_p=2"),
        ([1], Sampling(max_tokens=0), "max_tokens=0"),
        ([1], Sampling(stop=(VOCAB,)), "stop has ids outside"),
        ([1], Sampling(thinking=ThinkingLimit(budget=1, open_id=1, close_id=2, closing=(3,))), "lacks close_id=2"),
    ],
)
async def test_bad_requests_are_refused_in_one_clear_message(make_engine, model, tokens, sampling, message):
    engine = make_engine(model, slots=2, context_length=32)
    with pytest.raises(EngineError, match=message):
        await engine.generate(np.asarray(tokens) if tokens else ids([]), sampling)


async def test_cancelling_a_request_frees_its_slot(make_engine, model):
    engine = make_engine(model, slots=1, context_length=2000)
    running = asyncio.create_task(engine.generate(prompt(0, 5), Sampling(max_tokens=1900)))
    waiting = asyncio.create_task(engine.generate(prompt(1, 5), Sampling(max_tokens=1900)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (engine.stats().running, engine.stats().waiting) == (1, 1)
    waiting.cancel()
    running.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    assert len((await engine.generate(prompt(2, 5), Sampling(max_tokens=3))).token_ids) == 3


async def test_the_lowest_priority_is_served_first_and_then_who_came_first(make_engine, model):
    engine, order = make_engine(model, slots=1, context_length=64), []

    async def ask(name, priority):
        sampling = Sampling(max_tokens=3, seed=1, priority=priority)
        alone = await engine.generate(prompt(5, 4), sampling)
        order.append(name)
        return alone.token_ids.tolist()

    asked = [("running", 9), ("late", 7), ("early", -1), ("second", 7), ("given up", -5)]
    tasks = [asyncio.create_task(ask(name, priority)) for name, priority in asked]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks.pop().cancel()
    said = await asyncio.gather(*tasks)
    assert order in (["running", "early", "late", "second"], ["early", "late", "second", "running"])
    assert all(tokens == said[0] for tokens in said)  # it changes nothing that is sampled
    await engine.close()


async def test_close_and_a_failing_step_fail_what_is_in_flight(make_engine, model, monkeypatch):
    engine = make_engine(model, slots=1, context_length=2000)
    tasks = [asyncio.create_task(engine.generate(prompt(i, 5), Sampling(max_tokens=1900))) for i in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    monkeypatch.setattr(engine._backend, "step", lambda batch: 1 / 0)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, EngineError) and "ZeroDivisionError" in str(result)
    monkeypatch.undo()
    tasks = [asyncio.create_task(engine.generate(prompt(i, 5), Sampling(max_tokens=1900))) for i in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    await engine.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, EngineError) and "closed" in str(result)
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(prompt(0, 5), Sampling())
    await engine.close()


async def test_weights_that_are_not_finite_are_an_error_and_leave_no_trace(make_engine, model):
    engine = make_engine(model, slots=2, context_length=64)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    broken = {name: torch.full_like(value, float("nan")) for name, value in kept.items()}
    await engine.update_weights(broken, 1)
    with pytest.raises(EngineError, match="not finite under weights version 1"):
        await engine.generate(prompt(0, 5), Sampling())
    await engine.update_weights(kept, 2)
    out = await engine.generate(prompt(0, 5), Sampling(max_tokens=5))
    np.testing.assert_allclose(out.logprobs, recomputed(model, prompt(0, 5), out), atol=1e-4)


async def test_weights_update_in_place_and_by_value(make_engine, model):
    engine = make_engine(model, slots=2, context_length=64)
    how, context = Sampling(temperature=0, max_tokens=6), prompt(0, 20)
    first = await engine.generate(context, how, session="s")
    assert first.policy_versions.tolist() == [0] * 6
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    with pytest.raises(EngineError, match="changed in place"):
        await engine.generate(context, how, session="s")
    await engine.update_weights({}, 7)
    second = await engine.generate(context, how, session="s")
    assert second.policy_versions.tolist() == [7] * 6
    np.testing.assert_allclose(second.logprobs, recomputed(model, context, second), atol=1e-4)
    assert engine.stats().recomputed_tokens == 19  # what the old weights had computed of the prompt
    state = {name: value / 1.3 for name, value in model.state_dict().items()}
    for wrong, message in (
        ({**state, "model.norm.weight": torch.ones(3)}, "expected \\(32,\\)"),
        ({**state, "model.nrom.weight": torch.ones(32)}, "unknown \\['model.nrom.weight'\\]"),
        ({k: v for k, v in state.items() if "norm" not in k}, "missing"),
    ):
        with pytest.raises(EngineError, match=message):
            await engine.update_weights(wrong, 8)
    await engine.update_weights(state, 8)
    third = await engine.generate(context, how, session="s")
    np.testing.assert_allclose(third.logprobs, first.logprobs, atol=1e-4)
    assert engine.version == 8


async def test_weights_that_are_not_those_meant_are_refused(make_engine, model):
    engine = make_engine(model, slots=2, context_length=64)
    right = fingerprint(model)
    await engine.update_weights({}, 1, fingerprint=right)
    meant = {name: value * 1.1 for name, value in model.state_dict().items()}
    sent = copy.deepcopy(model)
    sent.load_state_dict(meant)
    damaged = meant | {"model.norm.weight": meant["model.norm.weight"].roll(1) + torch.eye(32)[3]}
    for weights in ({}, damaged):  # those of before, and others
        flies = asyncio.Event()
        said = engine.generate(prompt(1, 5), Sampling(max_tokens=58), on_tokens=lambda _, flies=flies: flies.set())
        flying = asyncio.create_task(said)
        if not weights:
            await flies.wait()
        with pytest.raises(EngineError, match=f"version 2 should have the fingerprint {fingerprint(sent)}"):
            await engine.update_weights(weights, 2, fingerprint=fingerprint(sent))
        with pytest.raises(EngineError):
            await flying
        with pytest.raises(EngineError, match="not those that the last update meant"):
            await engine.generate(prompt(0, 5), Sampling(max_tokens=2))
    await engine.update_weights(meant, 2, fingerprint=fingerprint(sent))
    assert (await engine.generate(prompt(0, 5), Sampling(max_tokens=2))).policy_versions.tolist() == [2, 2]


async def test_a_cache_that_is_kept_serves_its_own_session_alone(make_engine, model):
    """Under new weights a session goes on from what it has; nobody else begins with what the old ones computed."""
    engine = make_engine(model, slots=4, context_length=128, keep_cache=True)
    how, context = Sampling(temperature=0, max_tokens=6), prompt(0, 40)
    first = await engine.generate(context, how, session="a")
    other = {name: value * 1.2 for name, value in model.state_dict().items()}
    sent = copy.deepcopy(model)
    sent.load_state_dict(other)
    flying = asyncio.create_task(engine.generate(prompt(1, 9), Sampling(max_tokens=100, seed=1), session="b"))
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(EngineError, match="those that came have"):  # and nobody notices
        await engine.update_weights(model.state_dict(), 1, fingerprint=fingerprint(sent))
    await engine.update_weights(other, 1, fingerprint=fingerprint(sent))
    before = engine.stats()
    longer = np.concatenate([context, first.token_ids, prompt(2, 3)])
    second = await engine.generate(longer, how, session="a")
    assert engine.stats().reused_tokens - before.reused_tokens == 45  # all that was cached: nothing is computed again
    fresh = await engine.generate(context, how, session="c")
    assert engine.stats().reused_tokens - before.reused_tokens == 45
    np.testing.assert_allclose(fresh.logprobs, recomputed(sent, context, fresh), atol=1e-4)
    again = await engine.generate(context, how, session="d")  # what the new weights computed is anybody's
    assert engine.stats().reused_tokens - before.reused_tokens == 45 + 39
    assert again.token_ids.tolist() == fresh.token_ids.tolist()
    versions = (await flying).policy_versions
    assert versions[0] == 0 and versions[-1] == 1 and (np.diff(versions) >= 0).all()
    assert second.policy_versions.tolist() == [1] * 6


async def test_an_update_in_flight_shows_in_the_versions(make_engine, model):
    engine = make_engine(model, slots=2, context_length=256)
    task = asyncio.create_task(engine.generate(prompt(0, 9), Sampling(max_tokens=200)))
    for _ in range(20):
        await asyncio.sleep(0)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    await engine.update_weights({}, 1)
    out = await task
    versions = out.policy_versions
    assert versions[0] == 0 and versions[-1] == 1 and (np.diff(versions) >= 0).all()
    late = versions == 1
    np.testing.assert_allclose(out.logprobs[late], recomputed(model, prompt(0, 9), out)[late], atol=1e-4)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 33, "hidden_size": 20, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24},
        {"vocab_size": 200, "hidden_size": 65, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 40},
        {"vocab_size": 70, "hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16},
    ],
)
async def test_native_is_right_for_odd_sizes_and_exact_in_any_batch(sizes):
    shape = {"num_hidden_layers": 3, "intermediate_size": 61, "tie_word_embeddings": True, "rope_theta": 1e4}
    odd = build(ModelConfig(**shape, **sizes))
    odd.initialise(1, 0.3)
    if reason := why_not(odd):
        pytest.skip(f"not run: {reason}")
    contexts = [prompt(i, 1 + 9 * i) % sizes["vocab_size"] for i in range(30)]
    how = [Sampling(max_tokens=5 + i, seed=i, temperature=[1.0, 0.7, 0.0][i % 3]) for i in range(30)]
    crowd = EmbeddedEngine(odd, slots=23, context_length=333, threads=2, backend="native")
    alone = EmbeddedEngine(odd, slots=1, context_length=333, threads=1, backend="native", prefill_tokens=50)
    together = await asyncio.gather(*(crowd.generate(c, s) for c, s in zip(contexts, how, strict=True)))
    for context, sampling, completion in zip(contexts, how, together, strict=True):
        expected = recomputed(odd, context, completion, sampling.temperature or 1.0)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
        single = await alone.generate(context, sampling)
        assert single.token_ids.tolist() == completion.token_ids.tolist()
        assert single.logprobs.tolist() == completion.logprobs.tolist()
    # nor does it matter that others are truncated
    cut = [replace(s, top_p=0.9) if i % 4 == 1 else s for i, s in enumerate(how)]
    mixed = await asyncio.gather(*(crowd.generate(c, s) for c, s in zip(contexts, cut, strict=True)))
    for i, (completion, same) in enumerate(zip(together, mixed, strict=True)):
        if i % 4 != 1:
            assert completion.token_ids.tolist() == same.token_ids.tolist()
            assert completion.logprobs.tolist() == same.logprobs.tolist()


def in_float32(model):
    """A float32 copy."""
    twin = build(model.config)
    twin.load_state_dict(model.state_dict(), strict=False)
    return twin


def rounded(model):
    """The same arithmetic in torch: both factors of every product are bfloat16, all else is float32."""
    twin = in_float32(model)
    for module in twin.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.detach().bfloat16().float())
            module.register_forward_pre_hook(lambda _, given: (given[0].bfloat16().float(),))
    return twin


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
async def test_bfloat16_rounds_the_factors_and_nothing_else(own):
    sizes = {"vocab_size": 103, "hidden_size": 45, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
    shape = {"num_hidden_layers": 3, "intermediate_size": 61, "tie_word_embeddings": True, "rope_theta": 1e4}
    odd = build(ModelConfig(**shape, **sizes))
    odd.initialise(1, 0.2)
    odd.to(own)
    if reason := why_not(odd, torch.bfloat16):
        pytest.skip(f"not run: {reason}")
    crowd = EmbeddedEngine(odd, slots=23, context_length=333, threads=2, dtype="bfloat16")
    alone = EmbeddedEngine(odd, slots=1, context_length=333, threads=1, dtype="bfloat16", prefill_tokens=50)
    contexts = [prompt(i, 1 + 9 * i) for i in range(30)]
    errors = []
    for version in (0, 1):
        if version:  # the packed copy follows the parameters, also where torch does not count the change
            for parameter in odd.parameters():
                parameter.data.mul_(0.9)
            await crowd.update_weights({}, 1)
            await alone.update_weights({}, 1)
        twin, plain = rounded(odd), in_float32(odd)
        said = await asyncio.gather(
            *(play(crowd, c, 2, Sampling(max_tokens=5 + i, seed=i), f"s{i}") for i, c in enumerate(contexts))
        )
        for i, turns in enumerate(said):
            for context, completion in turns:
                near = np.abs(completion.logprobs - recomputed(twin, context, completion))
                errors.append(
                    (near.mean(), np.abs(completion.logprobs - recomputed(plain, context, completion)).mean())
                )
                single = await alone.generate(context, Sampling(max_tokens=5 + i, seed=i))
                assert single.token_ids.tolist() == completion.token_ids.tolist()
                assert single.logprobs.tolist() == completion.logprobs.tolist()
                assert near.max() < 0.1
    near, far = np.mean(errors, axis=0)
    assert near < 0.01 and (near < far or own == torch.bfloat16)  # whose weights are rounded as they are


async def test_types_that_cannot_be_had_are_refused(model):
    with pytest.raises(EngineError, match="dtype='float16', expected one of float32, bfloat16"):
        EmbeddedEngine(model, dtype="float16")
    with pytest.raises(EngineError, match="dtype='bfloat16' needs the backend 'native'"):
        EmbeddedEngine(model, dtype="bfloat16", backend="torch")


@pytest.mark.full
async def test_logprobs_of_the_compiled_torch_backend(model):
    engine = EmbeddedEngine(model, slots=4, context_length=200, backend="torch", compile=True)
    episodes = await asyncio.gather(
        *(play(engine, prompt(i, 10), 3, Sampling(max_tokens=6, seed=i), session=f"e{i}") for i in range(6))
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    await engine.update_weights({}, 1)
    episodes.append(await play(engine, prompt(9, 10), 2, Sampling(max_tokens=6, seed=9)))
    for context, completion in episodes[-1]:
        np.testing.assert_allclose(completion.logprobs, recomputed(model, context, completion), atol=1e-4)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    for context, completion in (turn for said in episodes[:-1] for turn in said):
        np.testing.assert_allclose(completion.logprobs, recomputed(model, context, completion), atol=1e-4)


async def test_a_mixture_of_experts_runs_on_torch():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "intermediate_size": 24}
    moe = build(ModelConfig(vocab_size=VOCAB, num_hidden_layers=2, **sizes, **experts))
    moe.initialise(0, 0.3)
    with pytest.raises(EngineError, match="'native' cannot be used: the model is a mixture of experts"):
        EmbeddedEngine(moe, backend="native")
    engine = EmbeddedEngine(moe, slots=3, context_length=100)
    for context, completion in await play(engine, prompt(0, 9), 2, Sampling(max_tokens=8, seed=0)):
        np.testing.assert_allclose(completion.logprobs, recomputed(moe, context, completion), atol=1e-4)
