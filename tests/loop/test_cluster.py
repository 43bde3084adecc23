"""A whole run in a Ray cluster of several node processes on this machine: machines are killed and added meanwhile."""

import asyncio
import contextlib
import functools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import askesis
from askesis.inference import EmbeddedEngine, Router
from askesis.inference.actors import connect
from askesis.inference.remote import Depot, RemoteEngine, embedded
from askesis.loop import RunFolder, find_run
from askesis.loop.ranks import Ranks, free_port
from askesis.models import fingerprint
from askesis.rollout import TraceStore
from askesis.train import POLICY_LOSSES, Optimisers, Trainer
from askesis.train.processes import TrainerProcesses, TrainerSpec
from askesis.types import (
    AskesisError,
    ConfigError,
    ContextOverflow,
    EngineError,
    EngineGone,
    Sample,
    Sampling,
    TrainerError,
    ids,
)

pytestmark = pytest.mark.full
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """A head that takes nothing, and two machines that do."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=2)
    made.add_node(num_cpus=2)
    yield made
    with contextlib.suppress(Exception):
        ray.shutdown()
    made.shutdown()


@pytest.fixture
def joined(cluster):
    connect(cluster.address)
    yield cluster
    ray.shutdown()


def recipe(folder, **more):
    return {
        "run": {"name": "cluster", "steps": 4, "threads": 1, "out": str(folder)},
        "env": {"name": "repair"},
        "rollout": {"tasks_per_step": 3, "group_size": 4, "retries": 6},
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 1},
        "log": {"tensorboard": False},
        **more,
    }


def on(cluster, **more):
    return {"address": cluster.address, "envs": 2, "engines": 2, "env_cpus": 0.5, "engine_cpus": 0.5, **more}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights that each step makes in one process."""
    return [step.made for step in askesis.train(recipe(tmp_path_factory.mktemp("alone")), display=False).history]


def attempts(result):
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
        return list(store.traces(label="train"))


def test_one_key_moves_a_run_to_a_cluster(cluster, alone, tmp_path):
    """And nothing of what it makes changes: the same weights after every step, to the bit."""
    result = askesis.train(recipe(tmp_path, cluster=on(cluster)), display=False)
    assert [step.made for step in result.history] == alone
    assert all(trace.outcome.learnable for trace in attempts(result))


def test_machines_are_killed_and_added_during_a_run(cluster, alone, tmp_path):
    """What they held ends typed and is played again; every group is trained once, and the weights are the same."""
    made = recipe(tmp_path, cluster=on(cluster, silent_s=20.0))
    with ThreadPoolExecutor(1) as beside:  # this thread is Ray's, which starts machines in no other
        run = beside.submit(askesis.train, made, display=False)
        folder = started(tmp_path)
        for step in (1, 2):
            wait(lambda step=step: folder.status().get("step", -1) >= step or run.done())
            cluster.remove_node(min(cluster.worker_nodes, key=lambda node: node.node_id), allow_graceful=False)
            cluster.add_node(num_cpus=2)
        result = run.result(300)
    assert (result.state, result.steps) == ("finished", 4)
    broken = [trace.outcome for trace in attempts(result) if not trace.outcome.learnable]
    assert {outcome.by for outcome in broken} <= {"tool", "environment", "verifier", "sandbox", "engine"}
    assert sum(step.infrastructure for step in result.history) == 0
    assert [step.made for step in result.history] == alone


def test_rollout_runs_ahead_while_machines_are_lost(cluster, tmp_path):
    """Asynchronous, weights sent in flight: every group is settled once, none is staler than it may be."""
    made = recipe(tmp_path, cluster=on(cluster, silent_s=20.0))
    made["rollout"] |= {"staleness": 2}
    made["run"] |= {"steps": 5}
    with ThreadPoolExecutor(1) as beside:
        run = beside.submit(askesis.train, made, display=False)
        folder = started(tmp_path)
        wait(lambda: folder.status().get("step", -1) >= 1 or run.done())
        cluster.remove_node(max(cluster.worker_nodes, key=lambda node: node.node_id), allow_graceful=False)
        cluster.add_node(num_cpus=2)
        result = run.result(300)
    assert (result.state, result.steps) == ("finished", 5)
    traces = attempts(result)  # which checks the ledger
    versions = {int(v) for trace in traces for node in trace.nodes if node.sampled for v in node.policy_versions}
    assert len(versions) > 1
    broken = {trace.outcome.by for trace in traces if not trace.outcome.learnable}
    assert broken <= {"tool", "environment", "verifier", "sandbox", "engine"}
    assert sum(step.infrastructure for step in result.history) == 0  # all of them were played again


def started(out: Path) -> RunFolder:
    found = []

    def look():
        with contextlib.suppress(ConfigError):
            found.append(find_run("latest", out=out))
        return bool(found)

    wait(look)
    return found[0]


def wait(true, seconds=180.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("kind", ["fail", "hang", "slow"])
def test_actors_that_die_hang_or_are_slow(cluster, alone, tmp_path, kind):
    """By the plan of faults: at an episode's or at an engine's actor, whoever makes that request."""
    fault = {"site": "node", "kind": kind, "at": [15, 60], "slow_s": 0.2}
    made = recipe(tmp_path, cluster=on(cluster, silent_s=4.0), faults={"inject": [fault]})
    result = askesis.train(made, display=False)
    assert (result.state, result.steps) == ("finished", 4)
    assert len(RunFolder(result.folder).faults.read_text().splitlines()) == 2
    assert [step.made for step in result.history] == alone
    attempts(result)


async def test_engines_elsewhere_stream_refuse_and_are_cancelled(joined):
    bundle = askesis.load("askesis-tiny")
    options = {"slots": 4, "context_length": 128}
    here = EmbeddedEngine(bundle.model, **options)
    depot = Depot()
    engines = [
        RemoteEngine(embedded(bundle.config, **options), context_length=128, depot=depot, name=str(n), cpus=0.5)
        for n in range(2)
    ]
    router, sampling = Router(engines, back_s=0.1, update_s=60.0), Sampling(max_tokens=12, seed=3)
    with pytest.raises(EngineGone, match="no weights yet"):
        await engines[0].generate(ids([1, 2, 3]), sampling)
    weights, meant = bundle.model.state_dict(), fingerprint(bundle.model)
    with pytest.raises(EngineError, match="no engine took weights version 1"):
        await router.update_weights(weights, 1, fingerprint="0" * 16)
    await router.update_weights(weights, 2, fingerprint=meant)
    ours = await here.generate(ids([1, 2, 3]), sampling)
    heard = []
    theirs = await router.generate(ids([1, 2, 3]), sampling, session="a", on_tokens=heard.append)
    assert theirs.token_ids.tolist() == ours.token_ids.tolist()
    assert theirs.policy_versions.tolist() == [2] * len(theirs.token_ids)
    assert np.concatenate([piece.token_ids for piece in heard]).tolist() == ours.token_ids.tolist()
    with pytest.raises(ContextOverflow):
        await router.generate(ids([1] * 200), sampling)
    asking = asyncio.create_task(router.generate(ids([1]), Sampling(max_tokens=120, stop=())))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    engines[0].actor.kill(restart=True)
    engines[1].actor.kill(restart=True)
    again = await router.generate(ids([1, 2, 3]), sampling)  # when one of them is back, with the weights
    assert again.token_ids.tolist() == ours.token_ids.tolist()
    await asyncio.gather(router.close(), here.close())


def test_the_trainer_is_a_group_too(cluster, tmp_path):
    """Episodes, engines and trainer all in the cluster, resumed with the trainer in this process alone."""
    made = recipe(tmp_path, cluster=on(cluster, scratch=str(tmp_path), trainer_cpus=0.5), train={"processes": 2})
    made["run"] |= {"steps": 2}
    spread = askesis.train(made, display=False)
    assert (spread.state, spread.steps) == ("finished", 2)
    attempts(spread)
    plain = recipe(tmp_path / "plain", train={"backend": "torch"})
    plain["run"] |= {"steps": 2}
    here = askesis.train(plain, display=False)
    names = ("loss", "grad_norm", "entropy")
    first, want = (one.history[0].trainer for one in (spread, here))
    assert [first[name] for name in names] == pytest.approx([want[name] for name in names], rel=1e-4, abs=1e-4)
    on_one = askesis.train(resume=spread.folder, overrides={"run.steps": 3, "train.processes": 1}, display=False)
    assert (on_one.state, on_one.steps) == ("finished", 3)


def some_samples(seed, vocabulary):
    rng = np.random.default_rng(seed)
    made = []
    for n in range(6):
        length = int(rng.integers(20, 60))
        mask = np.arange(length) >= 10
        made.append(
            Sample(
                token_ids=rng.integers(0, vocabulary, length).astype(np.int32),
                mask=mask,
                logprobs=np.where(mask, -5.0, 0.0).astype(np.float32),
                advantages=np.where(mask, rng.normal(), 0.0).astype(np.float32),
                policy_versions=np.zeros(length, np.int32),
                trace_id=str(n),
                group=str(n // 3),
            )
        )
    return made


def test_a_trainer_s_group_in_the_cluster_learns_what_one_process_does(joined, toy_model, tmp_path):
    bundle = askesis.load(toy_model)
    loss = functools.partial(POLICY_LOSSES["dapo"], low=0.2, high=0.28, kl=0.0)
    rates = {"kind": "adamw", "lr": 1e-2, "muon_lr": 1e-2}
    one = Trainer(bundle.model, loss=loss, optimisers=Optimisers(bundle.model, **rates), backend="torch")
    address = ray.util.get_node_ip_address()
    spec = TrainerSpec(checkpoint=toy_model, loss=loss, optimisers=rates)
    with TrainerProcesses(spec, address=f"{address}:{free_port(address)}") as many:
        ranks = Ranks(2, cpus=0.5, gpus=0.0, seconds=120.0)
        ranks.begin(many.environment, threads=1)
        many.wait()
        for seed in range(3):
            samples = some_samples(seed, bundle.config.vocab_size)
            assert many.step(samples, progress=0.1) == pytest.approx(
                one.step(samples, progress=0.1), rel=1e-4, abs=1e-4
            )
        twin = askesis.load(toy_model).model
        many.refresh(twin)
        for got, want in zip(twin.parameters(), bundle.model.parameters(), strict=True):
            np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), atol=1e-4)
        ranks._actors[1].kill(restart=False)
        with pytest.raises(AskesisError, match="the group of trainers ended at 'step'"):
            for _ in range(20):
                many.step(samples)
        assert "trainer 1 is gone" in ranks.last_words()
        ranks.close()
    with pytest.raises(TrainerError, match="no room for 2 trainers"):
        Ranks(2, cpus=1000.0, gpus=0.0, seconds=5.0).begin({}, threads=1)


def test_what_cannot_go_to_a_cluster_is_said_before_it_starts(cluster, tmp_path):
    program = recipe(tmp_path, cluster=on(cluster), agent={"name": "external@1", "options": {"command": "true"}})
    with pytest.raises(ConfigError, match=r"cluster\.envs = 0"):
        askesis.train(program, display=False)
    nowhere = recipe(tmp_path, cluster={"address": "127.0.0.1:1"})
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127.0.0.1:1'"):
        askesis.train(nowhere, display=False)
