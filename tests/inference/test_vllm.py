"""The vLLM engine against a double of vLLM's async API; with the real one in test_vllm_real.py."""

import asyncio
import copy
import dataclasses
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from vllm_double import DoubleLLM, Routes, install, serving

from askesis.inference import EmbeddedEngine
from askesis.inference.vllm import Devices, Local, Server, SharedMemory, VLLMEngine, VLLMSettings
from askesis.inference.vllm.experts import plainly
from askesis.inference.vllm.fused import held
from askesis.inference.vllm.http import Client
from askesis.inference.vllm.remote import Remote
from askesis.models import build, fingerprint
from askesis.types import (
    ConfigError,
    ContextOverflow,
    EngineError,
    EngineGone,
    MissingExtra,
    Sampling,
    ThinkingLimit,
    ids,
)

VOCAB, CONTEXT = 96, 128
OPEN, CLOSE, END, CALL, UNCALL = 1, 2, 3, 50, 51
CLOSING = (60, 61, CLOSE, 62)


class Damaging(SharedMemory):
    """A courier that changes a file on its way: one bit, its end, one weight less."""

    how = ""

    def write(self, weights, version):
        if self.how == "one less":
            name = next(iter(weights))
            weights = {key: value for key, value in weights.items() if key != name}
        path = super().write(weights, version)
        data = bytearray(path.read_bytes())
        if self.how == "bit":
            data[-40] ^= 4
        path.write_bytes(data[:-100] if self.how == "cut" else data)
        return path


@pytest.fixture
def make(monkeypatch, model):
    """An engine on a double, with the double as `engine.llm`."""
    install(monkeypatch)

    def made(of=None, *, double=None, **options):
        of = of if of is not None else model
        llm = DoubleLLM(of, context=CONTEXT) if double is None else double
        settings = VLLMSettings(checkpoint="none", context_length=CONTEXT)
        engine = VLLMEngine(Local(settings, llm=llm), context_length=CONTEXT, vocab_size=VOCAB, model=of, **options)
        engine.llm = llm
        return engine

    return made


async def until(condition):
    """Wait for what nothing tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def shift(model, by=0.5):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(by)


def recomputed(model, prompt, said, temperature=1.0):
    """The log-probabilities of what was said, by the model in one pass."""
    sequence = torch.tensor([[*prompt, *said.token_ids.tolist()]])
    with torch.no_grad():
        logprobs = (model.logits(model(sequence)) / temperature).log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logprobs.gather(1, sequence[0, len(prompt) :, None])[:, 0].numpy()


async def test_tokens_and_log_probabilities_are_the_models_and_seeds_repeat_them(make, model):
    engine = make()
    sampling = Sampling(temperature=0.7, max_tokens=20, seed=5)
    said, again = [await engine.generate(ids([4, 5, 6]), sampling) for _ in range(2)]
    other = await engine.generate(ids([4, 5, 6]), Sampling(temperature=0.7, max_tokens=20, seed=6))
    assert said.token_ids.tolist() == again.token_ids.tolist() != other.token_ids.tolist()
    assert len(said.token_ids) == 20 and said.finish_reason == "length" and not said.forced.any()
    np.testing.assert_allclose(said.logprobs, recomputed(model, [4, 5, 6], said, 0.7), atol=1e-4)


@pytest.mark.parametrize("open_", [False, True])
async def test_budgets_are_kept_as_the_embedded_engine_keeps_them(make, model, scripted, open_):
    """Over random sharp models that think, call, close and think again: token by token the same, forced ones too."""
    closing = [(60, CLOSE), (60, 61, CLOSE, 62), (CLOSE,)]
    compared = 0
    for seed in range(6):
        draws = np.random.default_rng(seed)
        steps = draws.permutation([CLOSE, CALL, UNCALL, *range(10, 10 + 2 * seed), *[END] * (seed % 3 == 0)]).tolist()
        script = dict(zip([0, OPEN, *steps], [OPEN, *steps, OPEN], strict=True))  # round and round
        of = scripted(script)
        ours, theirs = make(of), EmbeddedEngine(of, slots=2, context_length=CONTEXT, backend="torch")
        for budget in (0, 1, 2, 4):
            limit = ThinkingLimit(
                budget=budget,
                open_id=OPEN,
                close_id=CLOSE,
                closing=closing[seed % 3],
                open=open_,
                call_open_id=CALL,
                call_close_id=UNCALL,
            )
            most = int(draws.integers(1, 30))
            sampling = Sampling(temperature=0, max_tokens=most, stop=(END,), thinking=limit)
            got, want = [await one.generate(ids([7, 0]), sampling) for one in (ours, theirs)]
            assert got.token_ids.tolist() == want.token_ids.tolist(), (seed, budget, most)
            assert got.forced.tolist() == want.forced.tolist() and got.finish_reason == want.finish_reason
            np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
            compared += int(got.forced.any())
        await theirs.close()
    assert compared > 10


async def test_pieces_joined_are_the_completion_and_a_listeners_error_ends_the_request(make):
    engine, heard = make(), []
    limit = ThinkingLimit(budget=3, open_id=OPEN, close_id=CLOSE, closing=CLOSING, open=True)
    said = await engine.generate(ids([9]), Sampling(max_tokens=30, seed=1, thinking=limit), on_tokens=heard.append)
    assert len(heard) > 5 and said.forced.any()
    for name in ("token_ids", "logprobs", "forced", "policy_versions"):
        assert np.concatenate([getattr(one, name) for one in heard]).tolist() == getattr(said, name).tolist()

    def fail(piece):
        raise RuntimeError("deaf")

    with pytest.raises(RuntimeError, match="deaf"):
        await engine.generate(ids([9]), Sampling(max_tokens=30), on_tokens=fail)
    assert not engine.llm.alive


async def test_an_update_in_flight_goes_on_under_the_new_weights_with_a_version_on_every_token(make, model):
    engine, old = make(), DoubleLLM(model).model
    sampling = [Sampling(max_tokens=60, seed=i) for i in range(6)]
    tasks = [asyncio.create_task(engine.generate(ids([i + 4]), one)) for i, one in enumerate(sampling)]
    streamed, enough = [], asyncio.Event()

    def hear(piece):
        streamed.append(piece)
        if len(streamed) == 20:
            enough.set()

    tasks.append(asyncio.create_task(engine.generate(ids([30]), Sampling(max_tokens=60, seed=9), on_tokens=hear)))
    await enough.wait()
    shift(model)
    await engine.update_weights({}, 7, fingerprint=fingerprint(model))
    assert (
        engine.version == 7
        and engine.llm.version == f"7-{fingerprint(model)}"
        and engine.llm.calls == ["start", "update", "finish"]
    )
    for prompt, said in zip([*range(4, 10), 30], await asyncio.gather(*tasks), strict=True):
        assert len(said.token_ids) == 60
        versions = said.policy_versions
        assert versions[0] == 0 and versions[-1] == 7 and (np.diff(versions) >= 0).all()
        for version, weights in ((0, old), (7, model)):
            exact = recomputed(weights, [prompt], said)
            np.testing.assert_allclose(said.logprobs[versions == version], exact[versions == version], atol=1e-4)
    after = await engine.generate(ids([4]), Sampling(max_tokens=3))
    assert after.policy_versions.tolist() == [7, 7, 7]


@pytest.mark.parametrize("how", ["bit", "cut", "one less"])
async def test_a_damaged_update_is_refused_and_the_old_weights_stay_until_it_is_repeated(make, model, how, tmp_path):
    courier = Damaging(tmp_path)
    engine = make(courier=courier)
    before = await engine.generate(ids([4]), Sampling(max_tokens=9, seed=1))
    shift(model, 0.9)
    courier.how = how
    with pytest.raises(EngineError, match=r"did not arrive .*keeps version 0"):
        await engine.update_weights({}, 1, fingerprint=fingerprint(model))
    again = await engine.generate(ids([4]), Sampling(max_tokens=9, seed=1))
    assert again.token_ids.tolist() == before.token_ids.tolist() and again.policy_versions.max() == 0
    assert again.logprobs.tolist() == before.logprobs.tolist()
    courier.how = ""
    await engine.update_weights({}, 1, fingerprint=fingerprint(model))
    said = await engine.generate(ids([4]), Sampling(max_tokens=9, seed=1))
    assert said.policy_versions.min() == 1
    np.testing.assert_allclose(said.logprobs, recomputed(model, [4], said), atol=1e-4)
    assert list(tmp_path.iterdir()) == []


async def test_weights_of_another_version_are_not_sent_and_wrong_ones_in_the_engine_stop_it(make, model):
    engine = make()
    meant = fingerprint(model)
    shift(model)
    with pytest.raises(EngineError, match=f"{meant}.*keeps version 0"):
        await engine.update_weights({}, 1, fingerprint=meant)
    assert engine.llm.calls == []

    async def corrupting():
        engine.llm.calls.append("finish")
        next(iter(engine.llm.model.parameters())).view(-1)[3] += 1

    engine.llm.finish_weight_update, sound = corrupting, engine.llm.finish_weight_update
    with pytest.raises(EngineError, match="nothing is sampled until an update is right"):
        await engine.update_weights({}, 1)
    with pytest.raises(EngineError, match="not those that the last update meant"):
        await engine.generate(ids([4]), Sampling(max_tokens=2))
    engine.llm.finish_weight_update = sound
    await engine.update_weights({}, 1, fingerprint=fingerprint(model))
    assert (await engine.generate(ids([4]), Sampling(max_tokens=2))).policy_versions.tolist() == [1, 1]


async def test_a_vllm_that_was_restarted_or_is_paused_by_others_is_an_error_and_no_policy(make):
    engine = make()
    await engine.start()
    engine.llm.version = "default"
    with pytest.raises(EngineError, match="restarted, or somebody else updates it"):
        await engine.generate(ids([4]), Sampling(max_tokens=2))
    await engine.update_weights({}, 1)
    task = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=90)))
    await until(lambda: engine.llm.alive)
    await engine.llm.pause_generation(mode="abort", clear_cache=True)
    with pytest.raises(EngineError, match="somebody else pauses it"):
        await task


async def test_a_vllm_that_died_fails_its_requests_as_gone_and_the_next_update_starts_it_anew(make, model):
    class Mortal(Local):
        """Starts a double, of the weights that the model had at first."""

        async def start(self):
            self._llm = self._llm or DoubleLLM(first, context=CONTEXT)

    class EngineDeadError(Exception):
        """vLLM's, by its name."""

    async def dead(*args, **kwargs):
        raise EngineDeadError

    make()
    first = DoubleLLM(model).model
    settings = VLLMSettings(checkpoint="none", context_length=CONTEXT)
    transport = Mortal(settings)
    engine = VLLMEngine(transport, context_length=CONTEXT, vocab_size=VOCAB, model=model)
    shift(model, 0.9)
    await engine.update_weights({}, 1, fingerprint=fingerprint(model))
    task = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=100)))
    await until(lambda: transport._llm.alive)
    for name in ("_draw", "collective_rpc", "pause_generation", "resume_generation", "update_weight_version"):
        monkey = dead if name != "_draw" else lambda *args: (_ for _ in ()).throw(EngineDeadError())
        setattr(transport._llm, name, monkey)
    with pytest.raises(EngineGone, match="has died"):
        await task
    with pytest.raises(EngineGone):
        await engine.generate(ids([4]), Sampling(max_tokens=2))
    shift(model, 0.9)
    await engine.update_weights({}, 2, fingerprint=fingerprint(model))
    said = await engine.generate(ids([4]), Sampling(max_tokens=5, seed=1))
    assert said.policy_versions.tolist() == [2] * 5
    np.testing.assert_allclose(said.logprobs, recomputed(model, [4], said), atol=1e-4)


async def test_before_the_first_update_it_samples_only_under_the_models_own_weights(make, model, scripted):
    other = make(scripted({0: 4}), double=DoubleLLM(model, context=CONTEXT))
    nobody = make()
    nobody.model = None
    for engine in (other, nobody):
        with pytest.raises(EngineError, match="nobody knows which weights"):
            await engine.generate(ids([4]), Sampling(max_tokens=2))
        await engine.update_weights(dict(model.named_parameters()), 1)
        assert len((await engine.generate(ids([4]), Sampling(max_tokens=2))).token_ids) == 2


async def test_two_trainers_of_one_server_do_not_take_each_others_tokens_for_their_own(make, model):
    """Both are at version 1."""
    first = make()
    await first.update_weights({}, 1)
    second = make(copy.deepcopy(model), double=first.llm)
    shift(second.model, 0.9)
    await second.update_weights({}, 1)
    with pytest.raises(EngineError, match="somebody else updates it"):
        await first.generate(ids([4]), Sampling(max_tokens=2))
    first.llm.spans = False
    with pytest.raises(EngineError, match="that it calls None"):
        await second.generate(ids([4]), Sampling(max_tokens=2))


async def test_a_vllm_that_dies_in_an_update_leaves_no_request_waiting_and_is_started_again_by_the_next(make, model):
    engine = make()
    transport = engine._transport
    flying = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=100)))
    await until(lambda: engine.llm.alive)

    async def dead(*args, **kwargs):
        raise EngineGone("vLLM has died")

    transport.begin_update = transport.finish_update = transport.resume = transport.call = dead
    with pytest.raises(EngineGone):
        await engine.update_weights({}, 1)
    with pytest.raises(EngineGone, match=r"has died; the next update .* starts it again"):
        await asyncio.wait_for(flying, 5)
    with pytest.raises(EngineGone):
        await engine.generate(ids([4]), Sampling(max_tokens=2))
    started = asyncio.Event()

    async def restart():
        await started.wait()
        for name in ("begin_update", "finish_update", "resume", "call"):
            delattr(transport, name)

    transport.restart = restart
    with pytest.raises(TimeoutError):  # whoever does not wait for it finds it further on
        await asyncio.wait_for(engine.update_weights({}, 2), 0.01)
    started.set()
    await engine.update_weights({}, 2, fingerprint=fingerprint(model))
    assert (await engine.generate(ids([4]), Sampling(max_tokens=2))).policy_versions.tolist() == [2, 2]


async def test_an_update_that_is_cancelled_while_vllm_goes_on_again_leaves_it_going(make):
    engine = make()
    await engine.start()
    resuming, go = asyncio.Event(), asyncio.Event()
    resume = engine.llm.resume_generation

    async def slowly():
        resuming.set()
        await go.wait()
        await resume()

    engine.llm.resume_generation = slowly
    update = asyncio.create_task(engine.update_weights({}, 1))
    await resuming.wait()
    update.cancel()
    await asyncio.gather(update, return_exceptions=True)
    asked = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=3)))
    go.set()
    assert (await asyncio.wait_for(asked, 5)).policy_versions.tolist() == [1, 1, 1]


async def test_files_of_weights_are_removed_after_a_cancelled_update_and_after_an_owner_that_was_killed(tmp_path):
    writing, go = threading.Event(), threading.Event()

    class Slow(SharedMemory):
        def write(self, weights, version):
            path = super().write(weights, version)
            writing.set()
            go.wait()
            return path

    slow = Slow(tmp_path)
    update = asyncio.create_task(slow.deliver({"a": torch.zeros(3)}, 1, "", None))
    await asyncio.to_thread(writing.wait)
    update.cancel()
    await asyncio.gather(update, return_exceptions=True)
    slow.close()
    go.set()
    await until(lambda: not list(tmp_path.iterdir()))
    living, other = SharedMemory(tmp_path), SharedMemory(tmp_path)
    held = living.write({"a": torch.zeros(3)}, 1)
    left = tmp_path / "askesis-weights-left"
    left.mkdir()
    for folder in (held.parent, left):
        os.utime(folder, (0, 0))
    path = other.write({"a": torch.zeros(3)}, 1)
    assert {one.name for one in tmp_path.iterdir()} == {held.parent.name, path.parent.name}
    living.close()
    other.close()
    assert not list(tmp_path.iterdir())


async def test_cancelled_calls_are_aborted_and_closing_ends_those_in_flight(make):
    engine = make()
    task = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=100)))
    await until(lambda: engine.llm.alive)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not engine.llm.alive
    task = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=100)))
    await until(lambda: engine.llm.alive)
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await task
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(ids([4]), Sampling())


async def test_requests_that_make_no_sense_are_refused_before_vllm_sees_them(make):
    engine = make()
    for prompt in ([], [[1]], [VOCAB], [-1]):
        with pytest.raises(EngineError, match="prompt"):
            await engine.generate(np.array(prompt), Sampling())
    with pytest.raises(ContextOverflow, match="leaves no room"):
        await engine.generate(ids([4] * CONTEXT), Sampling())
    with pytest.raises(EngineError, match="top_p=0"):
        await engine.generate(ids([4]), Sampling(top_p=0))
    assert engine.llm.prompts == []
    with pytest.raises(EngineError, match="another model"):
        await VLLMEngine(engine._transport, context_length=CONTEXT, vocab_size=VOCAB + 1).start()


@pytest.mark.parametrize("experts", [0, 3])
def test_what_vllm_fuses_is_taken_apart_again_also_from_several_ranks(model, experts):
    if experts:
        sizes = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        model = build(dataclasses.replace(model.config, **sizes))
        model.initialise(0, 0.3)
    parts = dict(model.named_parameters())
    heads, shared, size = 4, 2, 8
    for ranks in (1, 2, 4):
        shards = [_fused(parts, heads, shared, size, rank, ranks) for rank in range(ranks)]
        names = [name for name, _ in shards[0].named_parameters()]
        assert any("qkv_proj" in name for name in names)
        walks = [dict(held(one)) for one in shards] if ranks == 1 else None
        found = walks[0] if walks else dict(_together(shards))
        assert found.keys() == parts.keys()
        for name, tensor in parts.items():
            assert torch.equal(found[name], tensor), (name, ranks)


def _together(shards):
    """What rank 0 gathers, where every rank gathers at the same time."""
    import queue
    import threading

    ranks = len(shards)
    boxes = [queue.Queue() for _ in range(ranks)]
    answers = [queue.Queue() for _ in range(ranks)]

    def run(rank):
        def gather(part, dim):
            boxes[rank].put(part)
            if rank == 0:
                whole = torch.cat([box.get() for box in boxes], dim)
                for answer in answers:
                    answer.put(whole)
            return answers[rank].get()

        results[rank] = list(held(shards[rank], ranks=ranks, gather=gather))

    results = [None] * ranks
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results[0]


def _fused(parts, heads, shared, size, rank, ranks):
    """The parameters of a model as vLLM's worker `rank` of `ranks` holds them."""
    model = nn.Module()

    def put(name, tensor, **attributes):
        *path, last = name.split(".")
        module = model
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, nn.Module())
            module = getattr(module, step)
        module.register_parameter(last, nn.Parameter(tensor.clone(), requires_grad=False))
        for key, value in attributes.items():
            setattr(module, key, value)

    def rows(tensor, count=ranks, at=rank):
        return tensor.chunk(count)[at]

    replicas = max(1, ranks // shared)
    count = 1 + max((int(name.split(".experts.")[1].split(".")[0]) for name in parts if ".experts." in name), default=0)
    for name, tensor in parts.items():
        tensor = tensor.detach()
        if ".experts." in name:
            layer, _, expert = name.partition(".experts.")
            fused = f"{layer}.experts.routed_experts.w13_weight"  # as vLLM 0.32 names them, and lays them out
            if expert == "0.gate_proj.weight":
                gates, ups, downs = (
                    torch.stack([parts[f"{layer}.experts.{n}.{which}.weight"] for n in range(count)])
                    for which in ("gate_proj", "up_proj", "down_proj")
                )
                put(fused, torch.cat([gates.chunk(ranks, 1)[rank], ups.chunk(ranks, 1)[rank]], 1))
                put(fused.replace("w13", "w2"), downs.chunk(ranks, 2)[rank])
        elif ".q_proj." in name:
            k, v = parts[name.replace("q_proj", "k_proj")], parts[name.replace("q_proj", "v_proj")]
            fewer = ranks // replicas
            three = [rows(tensor), rows(k, fewer, rank // replicas), rows(v, fewer, rank // replicas)]
            own = {"num_heads": heads // ranks, "num_kv_heads": max(1, shared // ranks)}
            own |= {"num_kv_head_replicas": replicas, "head_size": size, "v_head_size": size}
            put(name.replace("q_proj", "qkv_proj"), torch.cat(three), **own)
        elif ".gate_proj." in name:
            up = parts[name.replace("gate_proj", "up_proj")]
            put(name.replace("gate_proj", "gate_up_proj"), torch.cat([rows(tensor), rows(up)]))
        elif "embed_tokens" in name or "lm_head" in name:
            padded = torch.cat([tensor, torch.full((160 - len(tensor), tensor.shape[1]), 9.0)])
            put(name, rows(padded), org_vocab_size=len(tensor))
        elif "o_proj" in name or "down_proj" in name:
            put(name, tensor.chunk(ranks, 1)[rank])
        elif not any(part in name for part in (".k_proj.", ".v_proj.", ".up_proj.")):
            put(name, tensor)
    return model


@pytest.mark.parametrize("weighted", [True, False])
def test_experts_in_plain_torch_are_those_of_the_model(model, weighted):
    """From the matrices as vLLM lays them out; what its kernel for CPUs would make of packed ones."""
    sizes = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    ours = build(dataclasses.replace(model.config, **sizes))
    ours.initialise(0, 0.3)
    block = ours.model.layers[0].mlp
    held_there = dict(_fused(dict(ours.named_parameters()), 4, 2, 8, 0, 1).named_parameters())
    w13, w2 = (held_there[f"model.layers.0.mlp.experts.routed_experts.{name}"] for name in ("w13_weight", "w2_weight"))
    hidden = torch.randn(7, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    weights, chosen = block.gate(hidden).softmax(-1).topk(2, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    if weighted:
        found = plainly(hidden, w13, w2, weights, chosen.int())
        torch.testing.assert_close(found, block(hidden[None])[0], atol=1e-5, rtol=1e-4)
    else:  # of one choice a token, whose weight is in what comes in already
        first = torch.stack([block.experts[n](row) for n, row in zip(chosen[:, 0].tolist(), hidden, strict=True)])
        found = plainly(hidden, w13, w2, weights[:, :1], chosen[:, :1].int(), weighted=False)
        torch.testing.assert_close(found, first, atol=1e-5, rtol=1e-4)
    with pytest.raises(NotImplementedError, match="'relu2'"):
        plainly(hidden, w13, w2, weights, chosen, activation="relu2")


def test_a_weight_that_vllm_has_packed_away_is_an_error():
    model = nn.Module()
    model.proj = nn.Linear(2, 2)
    model.proj.weight = nn.Parameter(torch.empty(0))
    with pytest.raises(EngineError, match="packed"):
        list(held(model))


async def test_gpu_senders_of_vllm_are_driven_through_its_own_client_protocol(make, model, monkeypatch):
    """NCCL and IPC: vLLM's senders stood in for, which call back as the real ones do; not run on a GPU."""
    engine = make(courier=Devices("ipc"))
    sent = []

    class Sender:
        def __init__(self, client, source):
            self.client, self.source = client, source
            client.init_weight_transfer_engine({"packed": True})

        def send_weights(self):
            assert [meta.name for meta in self.source.metadata()] == [name for name, _ in self.source]
            self.client.start_weight_update()
            self.client.update_weights({"weights": dict(self.source)})
            self.client.finish_weight_update()
            sent.append(len(dict(self.source)))

        def shutdown(self):
            sent.append("shutdown")

    async def rpc(method, args=(), kwargs=None):
        if method == "init_weight_transfer_engine":
            assert kwargs == {"init_info": {"packed": True}}
            return [None]
        if method == "update_weights":
            engine.llm.model.load_state_dict(kwargs["update_info"]["weights"], strict=False)
            return [None]
        return await DoubleLLM.collective_rpc(engine.llm, method, args, kwargs)

    engine.llm.collective_rpc = rpc
    base = SimpleNamespace(ParamMeta=lambda name, dtype, shape: SimpleNamespace(name=name), WeightSource=object)
    factory = SimpleNamespace(trainer_init=lambda info, client, source: Sender(client, source))
    transfer = "vllm.distributed.weight_transfer"
    for name, module in {
        "vllm.distributed": SimpleNamespace(),
        transfer: SimpleNamespace(),
        f"{transfer}.base": base,
        f"{transfer}.factory": SimpleNamespace(WeightTransferTrainerFactory=factory),
        f"{transfer}.ipc_engine": SimpleNamespace(IPCTrainerInitInfo=lambda **info: info),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    for version in (1, 2):
        shift(model, 0.9)
        await engine.update_weights({}, version, fingerprint=fingerprint(model))
    assert sent == [len(list(model.parameters()))] * 2 and fingerprint(engine.llm.model) == fingerprint(model)
    await engine.close()
    assert sent[-1] == "shutdown"


@pytest.fixture
async def served(model):
    """Routes on a port of this machine, and the url."""
    routes = Routes(DoubleLLM(model, context=CONTEXT))
    async with serving(routes) as url:
        yield routes, url


async def test_over_http_it_is_the_same_engine(served, model):
    routes, url = served
    courier = Damaging()
    engine = VLLMEngine(Remote(url, key="k"), context_length=CONTEXT, vocab_size=VOCAB, model=model, courier=courier)
    heard = []
    said = await engine.generate(ids([4, 5]), Sampling(max_tokens=30, seed=3), on_tokens=heard.append)
    again = await engine.generate(ids([4, 5]), Sampling(max_tokens=30, seed=3))
    assert said.token_ids.tolist() == again.token_ids.tolist() and len(heard) > 10
    np.testing.assert_allclose(said.logprobs, recomputed(model, [4, 5], said), atol=1e-4)
    assert {key for _, key in routes.asked} == {"Bearer k"}
    tasks = [asyncio.create_task(engine.generate(ids([i + 4]), Sampling(max_tokens=100, seed=i))) for i in range(8)]
    await until(lambda: routes.llm.alive)
    shift(model, 0.9)
    courier.how = "bit"
    with pytest.raises(EngineError, match=r"damaged on the way; the engine keeps version 0"):
        await engine.update_weights({}, 1, fingerprint=fingerprint(model))
    courier.how = ""
    await engine.update_weights({}, 1, fingerprint=fingerprint(model))
    for one in await asyncio.gather(*tasks):
        assert len(one.token_ids) == 100 and set(one.policy_versions.tolist()) <= {0, 1}
    heard.clear()
    task = asyncio.create_task(engine.generate(ids([4]), Sampling(max_tokens=100), on_tokens=heard.append))
    await until(lambda: heard)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not routes.llm.alive)  # the server has heard of it
    await engine.close()


async def test_behind_the_gateway_and_the_router_it_answers_a_client_and_the_tokens_are_recorded(make, tmp_path):
    import httpx

    import askesis
    from askesis.inference import Router
    from askesis.rollout import TraceStore
    from askesis.serve import Gateway, Served, Settings

    bundle = askesis.load("askesis-tiny")
    settings = VLLMSettings(checkpoint=str(bundle.path), context_length=512)
    vocab = bundle.config.vocab_size
    engines = [
        VLLMEngine(
            Local(settings, llm=DoubleLLM(bundle.model, context=512)),
            context_length=512,
            vocab_size=vocab,
            model=bundle.model,
        )
        for _ in range(2)
    ]
    router = Router(engines)
    await router.update_weights({}, 3, fingerprint=fingerprint(bundle.model))
    served = Served(renderer=bundle.renderer, names=("tiny",), checkpoint="askesis-tiny")
    gateway = Gateway(router, served, settings=Settings(record=tmp_path))
    asked = {"model": "tiny", "max_tokens": 12, "seed": 1, "messages": [{"role": "user", "content": "hi"}]}
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answers = [await client.post("/v1/chat/completions", json=asked | {"stream": on}) for on in (False, True)]
    await gateway.close()
    await router.close()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["usage"]["completion_tokens"] == 12 and "data: [DONE]" in answers[1].text
    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        nodes = [node for trace in store.traces() for node in trace.nodes if node.sampled]
    assert len(nodes) == 2 and nodes[0].token_ids.tolist() == nodes[1].token_ids.tolist()
    assert {int(v) for node in nodes for v in node.policy_versions} == {3}


async def test_a_server_that_is_not_there_or_is_another_is_said_in_one_line():
    with pytest.raises(EngineError, match="cannot be reached"):
        await Client("http://127.0.0.1:9").get("/health")
    with pytest.raises(EngineError, match="expected http://HOST:PORT"):
        Client("https://vllm.example")
    with pytest.raises(ConfigError, match="expected the python of an environment with vLLM"):
        await Server(VLLMSettings(checkpoint="x"), python="/no/python").start()


async def test_without_vllm_it_says_what_to_install_and_settings_are_vllms_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'askesis\[vllm\]'"):
        await Local(VLLMSettings(checkpoint="x")).start()
    settings = VLLMSettings(checkpoint="x", cache_gib=0.5, more={"swap_space": 1, "hf_overrides": {"a": 1}})
    flags = settings.flags()
    assert flags[flags.index("--kv-cache-memory-bytes") + 1] == str(2**29)
    assert flags[flags.index("--hf-overrides") + 1] == '{"a": 1}' and "--enforce-eager" in flags
    assert "--model" not in flags and flags[flags.index("--logprobs-mode") + 1] == "processed_logprobs"
    with pytest.raises(ConfigError, match="'logprobs_mode' is set by Askesis"):
        VLLMSettings(checkpoint="x", more={"logprobs_mode": "raw_logprobs"})
