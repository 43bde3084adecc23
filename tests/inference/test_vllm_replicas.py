"""Several vLLMs behind the router, as a recipe has them: on doubles; with the real one in test_vllm_real.py."""

import asyncio
import contextlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm_double import DoubleLLM, Routes, install, serving

from askesis.inference import EmbeddedEngine
from askesis.inference.remote import EngineHost
from askesis.inference.vllm import Local, VLLMEngine, VLLMSettings
from askesis.loop.engines import make_engine, vllm_elsewhere
from askesis.loop.recipe import VLLM, ClusterSettings, Rollout
from askesis.models import fingerprint
from askesis.types import EngineError, EngineGone, Sampling, ids

CONTEXT = 128


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


def shift(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)


async def test_servers_of_a_recipe_share_the_work_and_one_that_is_killed_comes_back_with_the_weights(model, tmp_path):
    first = DoubleLLM(model).model
    shift(model)
    alone = EmbeddedEngine(model, slots=4, context_length=CONTEXT)
    doubles = [Routes(DoubleLLM(first, context=CONTEXT)) for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as mortal:
        urls = (
            await mortal.enter_async_context(serving(doubles[0])),
            await stack.enter_async_context(serving(doubles[1])),
        )
        rollout = Rollout(engine="vllm-server", context_length=CONTEXT, vllm=VLLM(url=urls))
        router = make_engine(rollout, model, tmp_path, threads=1, cluster=ClusterSettings(silent_s=5.0))
        await router.start()
        await router.update_weights(model.state_dict(), 1, fingerprint=fingerprint(model))

        async def speak(engine, number):
            said = ids([4 + number])
            for turn in range(3):
                sampling = Sampling(max_tokens=15, temperature=0, seed=turn)
                completion = await engine.generate(said, sampling, session=f"s{number}")
                said = np.concatenate([said, completion.token_ids])
            return said.tolist()

        assert [await speak(router, n) for n in range(2)] == [await speak(alone, n) for n in range(2)]
        homes = [{prompt[0] for prompt in one.llm.prompts} for one in doubles]
        assert sorted(map(sorted, homes)) == [[4], [5]]  # turns of a session stay where its cache is
        speaking = asyncio.gather(*(speak(router, n) for n in range(8)))
        await until(lambda: doubles[0].llm.alive)
        await mortal.aclose()
        assert await speaking == [await speak(alone, n) for n in range(8)]
        assert [bool(one.why_out) for one in router.replicas] == [True, False]
        shift(model)
        await router.update_weights(model.state_dict(), 2, fingerprint=fingerprint(model))
        doubles[0] = Routes(DoubleLLM(first, context=CONTEXT))  # whoever started it does so again, with its old weights
        await stack.enter_async_context(serving(doubles[0], port=int(urls[0].rpartition(":")[2])))
        await until(lambda: not router.replicas[0].why_out)
        assert fingerprint(doubles[0].llm.model) == fingerprint(model)
        doubles[0].llm.prompts.clear()
        said = await asyncio.gather(*(router.generate(ids([9]), Sampling(max_tokens=9, seed=1)) for _ in range(4)))
        assert doubles[0].llm.prompts and {int(v) for one in said for v in one.policy_versions} == {2}
        assert len({tuple(one.token_ids.tolist()) for one in said}) == 1
        await router.close()
    await alone.close()


async def test_where_a_vllm_dies_its_host_says_so_starts_another_and_samples_only_once_it_has_weights(
    model, monkeypatch
):
    install(monkeypatch)

    class EngineDeadError(Exception):
        """vLLM's, by its name."""

    async def dead(*args, **kwargs):
        raise EngineDeadError

    class Mortal(Local):
        """Starts a double of other weights."""

        async def start(self):
            self._llm = self._llm or DoubleLLM(first, context=CONTEXT)

    first = DoubleLLM(model).model
    shift(model)
    transport = Mortal(VLLMSettings(checkpoint="none", context_length=CONTEXT))
    host = EngineHost(lambda: VLLMEngine(transport, context_length=CONTEXT, vocab_size=96))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    ask = (ids([4]), Sampling(max_tokens=5, seed=1), None)
    (await host.start()).read()
    (await host.ping()).read()
    with pytest.raises(EngineGone, match="no weights yet"):
        (await host.generate(*ask)).read()
    (await host.update_weights(weights, 1, fingerprint(model))).read()
    said = (await host.generate(*ask)).read()
    assert said.policy_versions.tolist() == [1] * 5
    transport._llm.collective_rpc = transport._llm.pause_generation = dead
    for asked in (host.ping(), host.generate(*ask)):
        with pytest.raises(EngineGone, match=r"has died"):
            (await asked).read()
    (await host.start()).read()
    (await host.ping()).read()
    with pytest.raises(EngineError, match="nobody knows which weights"):
        (await host.generate(*ask)).read()
    (await host.update_weights(weights, 1, fingerprint(model))).read()
    again = (await host.generate(*ask)).read()
    assert again.token_ids.tolist() == said.token_ids.tolist()
    (await host.close()).read()


def test_an_engine_for_another_machine_travels_with_the_configuration_alone(model, tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    rollout = Rollout(engine="vllm-server", context_length=CONTEXT, vllm=VLLM(python="env/bin/python"))
    made = pickle.loads(pickle.dumps(vllm_elsewhere(rollout, model, tmp_path, threads=3)))()
    server = made._transport
    arguments = server._settings.arguments()
    assert json.loads((Path(arguments["model"]) / "config.json").read_text()) == {"model_type": "qwen3"}
    assert arguments["load_format"] == "dummy" and made.context_length == CONTEXT
    assert server._python == tmp_path / "env/bin/python"
    assert server._env == {"OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
