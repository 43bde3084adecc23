"""The real vLLM, on the CPU, in what `make venv-vllm` makes: whole runs, updates in flight, damaged updates."""

import asyncio
import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import askesis
from askesis.inference.vllm import Server, VLLMEngine, VLLMSettings
from askesis.loop import RunFolder
from askesis.models import ModelConfig, build, fingerprint, save_checkpoint
from askesis.rollout import TraceStore
from askesis.types import EngineError, Sampling, ids
from bench import vllm_training
from bench.result import Options
from bench.vllm_training import Damaging

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


@pytest.fixture
def python():
    assert PYTHON.exists(), "no .venv-vllm here, against which this is tested: make venv-vllm (make test-full does)"
    return str(PYTHON)


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_behind_its_server_it_trains_is_updated_in_flight_and_refuses_what_is_damaged(python):
    found = vllm_training.run(Options(values={"steps": "4", "python": python}))
    ours = found.ours
    assert ours["gap"] < 1e-4 and ours["in_flight_gap_max"] < 1e-2
    assert ours["in_flight_spanning"] > 0.5 and ours["in_flight_forced"] > 0
    assert (ours["refused"], ours["damaged"], ours["refused_in_training"]) == (3, 3, 1)
    assert ours["steps"] == 8 and ours["infrastructure"] == 0 and ours["ledger_faults"] == 0
    assert ours["in_flight_episodes"] > 0 and found.met


@pytest.mark.full
@pytest.mark.timeout(900)
def test_in_process_it_trains_too(python, tmp_path):
    script = Path(__file__).parent / "vllm_local_case.py"
    done = subprocess.run(
        [python, script, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == 2 and found["broken"] == 0 and found["versions"] == [0, 1]
    assert found["gaps"] and max(found["gaps"]) < 1e-4


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_spread_over_two_workers_the_weights_are_put_together_again_and_checked(python):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("not run: two workers want two cores")
    bundle = askesis.load("askesis-tiny")
    settings = VLLMSettings(checkpoint=str(bundle.path), context_length=256, slots=4, cache_gib=0.25, tensor_parallel=2)
    first, second = sorted(os.sched_getaffinity(0))[:2]
    env = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": f"{first}|{second}"}
    engine = VLLMEngine(
        Server(settings, python=python, env=env),
        context_length=256,
        vocab_size=bundle.config.vocab_size,
        model=bundle.model,
    )
    try:
        with torch.no_grad():
            for parameter in bundle.model.parameters():
                parameter.mul_(1.01)
        await engine.update_weights({}, 1, fingerprint=fingerprint(bundle.model))
        said = await engine.generate(ids([5, 6, 7]), Sampling(max_tokens=20, seed=1))
        with torch.no_grad():
            sequence = torch.tensor([[5, 6, 7, *said.token_ids.tolist()]])
            logprobs = bundle.model.logits(bundle.model(sequence)).log_softmax(-1)[0, 2:-1]
        exact = logprobs.gather(1, sequence[0, 3:, None])[:, 0].numpy()
        np.testing.assert_allclose(said.logprobs, exact, atol=1e-3)
        assert said.policy_versions.tolist() == [1] * 20
    finally:
        await engine.close()


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_a_mixture_of_experts_is_sampled_updated_in_flight_and_checked(python, tmp_path):
    """vLLM's own loader, its router, and experts as `inference.vllm.experts` computes them, against our model."""
    model = build(
        ModelConfig(
            vocab_size=160,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            intermediate_size=96,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=48,  # vLLM's own kernel would pad it
        )
    )
    model.initialise(0, 0.2)
    save_checkpoint(model, tmp_path / "moe")
    settings = VLLMSettings(checkpoint=str(tmp_path / "moe"), context_length=256, slots=8, cache_gib=0.25)
    server = Server(settings, python=python, env={"OMP_NUM_THREADS": "1"})
    engine = VLLMEngine(server, context_length=256, vocab_size=160, model=model, courier=(courier := Damaging()))
    weights, heard, enough = {0: copy.deepcopy(model)}, 0, asyncio.Event()

    def hear(piece):
        nonlocal heard
        heard += len(piece.token_ids)
        if heard > 100:
            enough.set()

    try:
        # the weights that vLLM has read by itself are the model's, or this would be an error
        asked = [ids([n + 4, 3, n]) for n in range(8)]
        tasks = [
            asyncio.create_task(engine.generate(one, Sampling(max_tokens=90, seed=n), on_tokens=hear))
            for n, one in enumerate(asked)
        ]
        await enough.wait()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.95)
        weights[1] = model
        courier.how, courier.left = "bit", 1
        with pytest.raises(EngineError, match=r"damaged on the way; the engine keeps version 0"):
            await engine.update_weights({}, 1, fingerprint=fingerprint(model))
        await engine.update_weights({}, 1, fingerprint=fingerprint(model))
        said = await asyncio.gather(*tasks)
        assert {int(v) for one in said for v in one.policy_versions} == {0, 1}
        gaps = []
        for prompt, one in zip(asked, said, strict=True):
            sequence = torch.tensor([[*prompt.tolist(), *one.token_ids.tolist()]])
            for version, of in weights.items():
                with torch.no_grad():
                    logprobs = of.logits(of(sequence)).log_softmax(-1)[0, 2:-1]
                exact = logprobs.gather(1, sequence[0, 3:, None])[:, 0].numpy()
                gaps.append(np.abs(exact - one.logprobs)[one.policy_versions == version])
        gaps = np.concatenate(gaps)
        print(f"gap: mean {gaps.mean():.2e}, largest {gaps.max():.2e} of {len(gaps)} tokens")
        assert len(gaps) == 8 * 90 and gaps.max() < 1e-3
        await server.call("askesis_alive")
        with torch.no_grad():
            model.model.layers[1].mlp.experts[5].down_proj.weight[3, 7] += 0.01  # of one expert alone
        await engine.update_weights({}, 2, fingerprint=fingerprint(model))
    finally:
        await engine.close()


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_two_of_them_behind_the_router_in_a_cluster_and_one_is_killed_while_they_train(python, tmp_path):
    """As somebody at a terminal has it: the run goes on, the killed one is started again with the weights of then."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "askesis", "train", "repair", "--set", "cluster.address=local"]
    sets = {
        "cluster.envs": 0,
        "cluster.engines": 2,
        "cluster.engine_cpus": 0.5,
        "rollout.engine": "vllm-server",
        "rollout.vllm.python": python,
        "rollout.vllm.cache_gib": 0.25,
        "rollout.tasks_per_step": 3,
        "rollout.group_size": 4,
        "rollout.retries": 6,
        "rollout.slots": 8,
        "run.steps": 5000,
        "run.threads": 1,
        "run.out": f'"{tmp_path}"',
        "eval.tasks": 0,
        "log.every": 1,
        "log.tensorboard": "false",
    }
    command += [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    log = tmp_path / "said"
    with log.open("wb") as out:
        run = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )

    def wait(true, seconds=600.0):
        end = time.monotonic() + seconds
        while not true():
            assert run.poll() is None and time.monotonic() < end, log.read_text()[-6000:]
            time.sleep(0.2)

    def step():
        found = list(tmp_path.glob("repair-*"))
        return RunFolder(found[0]).status().get("step", -1) if found else -1

    try:
        wait(lambda: step() >= 1)
        servers = servers_below(run.pid)
        assert len(servers) == 2
        os.kill(servers[0], signal.SIGKILL)
        killed = step()
        wait(lambda: "is taken out" in log.read_text())
        wait(lambda: step() >= killed + 3)  # nobody waits for it
        assert "is back" not in log.read_text()
        wait(lambda: "is back" in log.read_text())
        again = set(servers_below(run.pid)) - set(servers)
        assert len(again) == 1
        back = step()
        wait(lambda: step() >= back + 3)
        run.send_signal(signal.SIGINT)
        assert run.wait(120) in (0, 130), log.read_text()[-3000:]
    finally:
        run.kill()
        run.wait()
    assert not [one for one in (*servers, *again) if Path(f"/proc/{one}").exists()]
    (folder,) = tmp_path.glob("repair-*")
    with TraceStore(RunFolder(folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
    steps = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    assert len(steps) >= back + 3 and sum(one["infrastructure"] for one in steps) == 0
    gaps = [one["trainer"]["logprob_gap"] for one in steps if "logprob_gap" in one["trainer"]]
    assert len(gaps) > killed + 3 and max(gaps) < 1e-4


def servers_below(pid):
    """The processes of vLLM's servers that a process has started, and those that it has."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    for one in parents:
        above = one
        while above in parents and above != pid:
            above = parents[above]
        with contextlib.suppress(OSError):
            if above == pid and b"vllm.entrypoints" in (Path("/proc") / str(one) / "cmdline").read_bytes():
                found.append(one)
    return found
