"""Faults of the machinery in whole runs: retried where that is safe, typed where not, never trained as the policy's."""

import asyncio
import contextlib
import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from busy_env import BUSY, Worker
from safetensors.torch import load_file

import askesis
from askesis.loop import RunFolder, find_run
from askesis.loop.faults import ALLOWED, Fault, FaultPlan
from askesis.loop.watchdog import Watchdog
from askesis.rollout import TraceStore
from askesis.train import Trainer
from askesis.types import CheckpointError, ConfigError, EngineError, StallError, StoreError, TrainerError

TOOL_S, HANG_S = 0.5, 1.0
OF_EPISODES = ("environment", "tool", "sandbox", "verifier", "engine")


@pytest.fixture
def recipe(toy_model, tmp_path, monkeypatch):
    """Two steps of 3 x 3 episodes, each with two calls and two turns."""
    monkeypatch.setattr("askesis.loop.prepared.agent_for", lambda env, name="", **options: Worker())
    return busy_recipe(toy_model, tmp_path)


def busy_recipe(toy_model, folder):
    times = {"setup_s": HANG_S, "engine_s": HANG_S, "verify_s": HANG_S, "close_s": HANG_S, "update_s": HANG_S}
    return {
        "run": {"name": "busy", "steps": 2, "threads": 1, "out": str(folder / "runs")},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": BUSY, "options": {"tool_s": TOOL_S}},
        "rollout": {
            "tasks_per_step": 3,
            "group_size": 3,
            "context_length": 640,
            "slots": 16,
            "retries": 6,
            "timeouts": times,
        },
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 1},
        "log": {"tensorboard": False},
        "train": {"lr": 3e-3},
    }


@pytest.fixture(scope="module")
def undisturbed(toy_model, tmp_path_factory):
    """The weights that the recipe makes when nothing goes wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("askesis.loop.prepared.agent_for", lambda env, name="", **options: Worker())
        recipe = busy_recipe(toy_model, tmp_path_factory.mktemp("undisturbed"))
        recipe["env"]["options"]["tool_s"] = 30.0
        return weights(askesis.train(recipe, display=False))


def weights(result):
    return load_file(result.checkpoint / "model.safetensors")


def train(recipe, *faults, seed=0, **run):
    inject = [{"site": one.site, "kind": one.kind, **more(one)} for one in faults]
    recipe = {**recipe, "run": {**recipe["run"], **run}, "faults": {"seed": seed, "inject": inject}}
    return askesis.train(recipe, display=False)


def more(fault):
    return {"rate": fault.rate, "at": list(fault.at), "slow_s": fault.slow_s} | (
        {} if fault.most is None else {"most": fault.most}
    )


def injected(folder: RunFolder):
    return [json.loads(line) for line in folder.faults.read_text().splitlines()]


def latest(recipe) -> RunFolder:
    return find_run("latest", out=Path(recipe["run"]["out"]))


def attempts(folder: RunFolder):
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []
        return list(store.traces(label="train"))


def unharmed(result, undisturbed):
    """Nothing of what went wrong was learned: the weights are those of a run without a fault, to the bit."""
    assert (result.state, result.steps) == ("finished", 2)
    assert sum(record.infrastructure for record in result.history) == 0  # each was played again, and came to an end
    for name, tensor in weights(result).items():
        assert torch.equal(tensor, undisturbed[name]), name


# -- the plan ------------------------------------------------------------------------------------------------------


def test_a_plan_follows_from_its_seed_and_keeps_to_its_bounds():
    faults = [Fault(site="tool", kind="fail", rate=0.2), Fault(site="tool", kind="hang", rate=0.1, most=7)]
    faults.append(Fault(site="engine", kind="lie", at=(3,)))
    one, same, other = FaultPlan(faults, seed=1), FaultPlan(faults, seed=1), FaultPlan(faults, seed=2)
    drawn = [[met and met.kind for met in (plan.draw("tool") for _ in range(1000))] for plan in (one, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 150 < drawn[0].count("fail") < 250
    assert drawn[0].count("hang") == 7
    mine, its, others = [[plan.draw("engine", f"turn {n}") for n in range(5)] for plan in (one, same, other)]
    assert [met and met.kind for met in mine] == [None, None, "lie", None, None]
    assert mine[2].look.random() == its[2].look.random() != others[2].look.random()  # whatever was drawn since
    assert one.draw("verifier") is None
    assert (one.injected[-1].site, one.injected[-1].call, one.injected[-1].where) == ("engine", 3, "turn 2")
    assert one.counts == {"tool fail": drawn[0].count("fail"), "tool hang": 7, "engine lie": 1}


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([{"site": "store", "kind": "lie"}], "store can only fail, hang, slow"),
        (
            [{"site": "tool", "kind": "fail", "rate": 0.6}, {"site": "tool", "kind": "slow", "rate": 0.6}],
            "add up to 1.2",
        ),
        ([{"site": "tols", "kind": "fail"}], "did you mean 'tool'"),
        ([{"site": "tool", "kind": "fail", "at": [0]}], "faults.inject[0].at"),
    ],
)
def test_what_cannot_be_injected_is_said_before_anything_starts(recipe, faults, said):
    with pytest.raises(ConfigError) as caught:
        askesis.train(recipe | {"faults": {"inject": faults}}, display=False)
    assert said in str(caught.value)


# -- in a run ------------------------------------------------------------------------------------------------------


def test_everything_at_once_and_nothing_of_it_is_learned(recipe, undisturbed):
    """Failing, hanging, slow and lying parts in one run: the same weights as without, and every fault accounted for."""
    faults = [Fault(site=site, kind="fail", rate=0.06) for site in OF_EPISODES]
    faults += [Fault(site=site, kind="hang", at=(4,)) for site in OF_EPISODES]
    faults += [Fault(site=site, kind="slow", at=(6, 7), slow_s=0.01) for site in OF_EPISODES]
    faults += [Fault(site="weights", kind="lie", at=(2,)), Fault(site="weights", kind="fail", at=(1,))]
    faults += [Fault(site="trainer", kind="fail", at=(1,)), Fault(site="checkpoint", kind="fail", at=(1,))]
    result = train(recipe, *faults)
    unharmed(result, undisturbed)
    folder = RunFolder(result.folder)
    put_in, played = injected(folder), attempts(folder)
    assert {(one["site"], one["kind"]) for one in put_in} >= {(one.site, one.kind) for one in faults if one.at}
    broken = [trace for trace in played if not trace.outcome.learnable]
    assert len(played) == 2 * 9 + len(broken)
    hit = [one for one in put_in if one["site"] in OF_EPISODES and one["kind"] in ("fail", "hang")]
    hit = [one for one in hit if one["where"] != "close"]  # what fails at the very end takes nothing with it
    assert len(broken) == len(hit)
    assert all(not trace.rewards for trace in broken)
    log = folder.log.read_text()
    assert "faults of the machinery are put in on purpose" in log
    assert "faults put in: " in log


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2))
def test_everything_at_once_while_rollout_runs_ahead(recipe, monkeypatch, seed):
    """The same with weights that change in flight: each prompt is trained or dropped once, none too late, none open,
    and what is trained are episodes that nothing broke."""
    faults = [Fault(site=site, kind="fail", rate=0.06) for site in OF_EPISODES]
    faults += [Fault(site=site, kind="hang", at=(4, 31)) for site in OF_EPISODES]
    faults += [Fault(site=site, kind="slow", rate=0.05, slow_s=0.05) for site in OF_EPISODES]
    faults += [Fault(site="engine", kind="lie", at=(9, 20)), Fault(site="store", kind="slow", rate=0.1, slow_s=0.02)]
    faults += [Fault(site="weights", kind="lie", at=(2,)), Fault(site="weights", kind="fail", at=(4,))]
    faults += [Fault(site="trainer", kind="fail", at=(2,)), Fault(site="trainer", kind="slow", at=(4,), slow_s=0.3)]
    faults += [Fault(site="checkpoint", kind="fail", at=(1,))]
    taught = set()
    step = Trainer.step

    def counted(self, samples, **how):
        taught.update(sample.trace_id for sample in samples)
        return step(self, samples, **how)

    monkeypatch.setattr(Trainer, "step", counted)
    recipe["rollout"] |= {"staleness": 2, "concurrency": 20}
    result = train(recipe, *faults, seed=seed, steps=8)
    assert (result.state, result.steps) == ("finished", 8)
    folder = RunFolder(result.folder)
    put_in, played = injected(folder), attempts(folder)  # which checks the ledger
    assert {(one["site"], one["kind"]) for one in put_in} >= {(one.site, one.kind) for one in faults if one.at}
    broken = {trace.id for trace in played if not trace.outcome.learnable}
    assert len(broken) >= 20 and taught and not taught & broken
    assert taught <= {trace.id for trace in played}
    assert all(not trace.rewards for trace in played if trace.id in broken)
    own = {trace.outcome.reason for trace in played if trace.outcome.learnable}
    assert own <= {"context", "submitted"}  # no limit was reached by what was put in
    with TraceStore(folder.traces, readonly=True) as store:
        standing = store.ledger.standing()
        assert store.ledger.open() == []
    assert (standing.drawn, standing.open) == (24, 0) and standing.trained + standing.dropped == 24
    assert 1 <= standing.staleness <= 2 and standing.trained


PAIRS = [(site, kind) for site, kinds in ALLOWED.items() for kind in kinds if site != "node" and kind != "lie"]
ENDS = {  # what cannot be repeated ends the run in order
    ("store", "fail"): (StoreError, "database or disk is full"),
    ("store", "hang"): (StallError, "stood still"),
    ("trainer", "hang"): (None, ""),
    ("checkpoint", "hang"): (StallError, "stood still"),
}


@pytest.mark.full
@pytest.mark.parametrize(("site", "kind"), PAIRS)
def test_every_part_may_fail_hang_or_be_slow(recipe, undisturbed, site, kind):
    """The run ends by itself; what it made is what it makes without the fault, or it says why there is nothing."""
    calls = (2,) if site in ("weights", "trainer", "checkpoint") else (2, 5, 9)
    fault = Fault(site=site, kind=kind, at=calls, slow_s=0.05)
    error, said = ENDS.get((site, kind), (None, ""))
    if error is not None:
        with pytest.raises(error, match=said):
            train(recipe, fault, stall_s=HANG_S)
        folder = latest(recipe)
        assert folder.status()["state"] == "failed"
        result = askesis.train(resume=folder.path, overrides={"faults.inject": []}, display=False)
        assert injected(folder)
    else:
        result = train(recipe, fault, stall_s=HANG_S)
        assert [one["call"] for one in injected(RunFolder(result.folder))] == list(calls)
    unharmed(result, undisturbed)


# -- lies ----------------------------------------------------------------------------------------------------------


def test_an_engine_that_lies_about_its_tokens_is_found_out_where_that_can_be_seen(recipe):
    """Lengths that do not fit and what is no number never reach a trace; plausible figures raise an alarm."""
    result = train(recipe, Fault(site="engine", kind="lie", rate=0.3))
    folder = RunFolder(result.folder)
    lies = injected(folder)
    broken = [trace for trace in attempts(folder) if not trace.outcome.learnable]
    assert 0 < len(broken) < len(lies)
    assert {trace.outcome.by for trace in broken} == {"engine"}
    with TraceStore(folder.traces, readonly=True) as store:
        kept = list(store.traces(label="train", learnable=True))
    assert all(np.isfinite(node.logprobs).all() for trace in kept for node in trace.nodes)
    assert "logprob_gap" in {alarm.kind for alarm in result.alarms}


def test_damaged_weights_never_speak(recipe, undisturbed):
    """What arrives is checked against the fingerprint of what was sent, refused, and sent again."""
    result = train(recipe, Fault(site="weights", kind="lie", at=(2, 3)))
    unharmed(result, undisturbed)
    with pytest.raises(EngineError, match="did not get into the engine in 3 attempts"):
        train(recipe, Fault(site="weights", kind="lie", rate=1.0, at=()), seed=1)


def test_a_trainer_that_goes_wrong_for_good_commits_nothing(recipe, undisturbed):
    """After the weights have changed a step cannot be repeated, and weights that are no numbers are nobody's."""
    for kind, calls, said in (("fail", (1, 3), "changed the weights already"), ("lie", (2,), "not finite numbers")):
        with pytest.raises(TrainerError, match=said):
            train(recipe, Fault(site="trainer", kind=kind, at=calls))
        folder = latest(recipe)
        with TraceStore(folder.traces, readonly=True) as store:
            assert store.ledger.last_step().step == 1
        resumed = askesis.train(resume=folder.path, overrides={"faults.inject": []}, display=False)
        unharmed(resumed, undisturbed)


def test_a_checkpoint_that_is_another_on_disk_is_refused(recipe, undisturbed):
    result = train(recipe, Fault(site="checkpoint", kind="lie", at=(2,)))
    with pytest.raises(CheckpointError, match="damaged"):
        askesis.train(resume=result.folder, overrides={"run.steps": 3, "faults.inject": []}, display=False)


@pytest.mark.full
def test_a_lying_verifier_is_found_by_playing_again(tmp_path):
    """A wrong verdict looks like any other; only who asks twice can find it."""
    recipe = {
        "run": {"name": "lies", "steps": 1, "threads": 1, "out": str(tmp_path)},
        "env": {"name": "repair"},
        "rollout": {"tasks_per_step": 4, "group_size": 4},
        "eval": {"tasks": 0},
        "log": {"tensorboard": False},
        "monitors": {"replays": 1.0, "action": "quarantine", "severity": "medium"},
    }
    result = train(recipe, Fault(site="verifier", kind="lie", at=(2, 5)))
    findings = [json.loads(line) for line in RunFolder(result.folder).findings.read_text().splitlines()]
    assert sum(one["probe"] == "verdict-flips" for one in findings) == 2
    assert result.history[0].dropped["quarantine"] >= 1


# -- the disk ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(size):
    """No file of this process grows beyond `size` bytes: what the kernel says then is what it says of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_run_in_order_and_loses_nothing(toy_recipe):
    """Refused by the kernel, not by an injection: what was committed stays, and with room the run goes on."""
    toy_recipe["run"] |= {"steps": 12}
    toy_recipe |= {"eval": {"tasks": 0}, "checkpoint": {"every_steps": 1, "keep": 1}}
    with full_disk(1_000_000), pytest.raises(StoreError, match=r"no committed step is lost"):
        askesis.train(toy_recipe, display=False)
    folder = latest(toy_recipe)
    assert folder.status()["state"] == "failed"
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []
        assert 1 <= store.ledger.last_step().step < 12
    result = askesis.train(resume=folder.path, display=False)
    assert (result.state, result.steps) == ("finished", 12)
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []
        assert [step.step for step in store.ledger.steps()] == list(range(1, 13))


# -- what stands still -----------------------------------------------------------------------------------------------


def stand_still():
    while True:
        time.sleep(0.01)


def test_what_blocks_everything_is_named_and_interrupted():
    said = []

    async def block():
        async with Watchdog(0.3, said.append, notice_s=0.1):
            await asyncio.sleep(0.01)
            stand_still()

    with pytest.raises(StallError, match="stand_still"):
        asyncio.run(block())
    assert said[0].startswith("note: the run has stood still")
    assert "test_faults.py" in said[-1]


def test_a_tool_that_blocks_everything_is_one_episode_s_failure(recipe, undisturbed, monkeypatch):
    from askesis.loop.faults import FaultyTool

    calls = iter(range(10**6))
    original = FaultyTool.__call__

    async def blocking(self, args, session):
        if next(calls) == 3:
            stand_still()
        return await original(self, args, session)

    monkeypatch.setattr(FaultyTool, "__call__", blocking)
    result = train(recipe, Fault(site="tool", kind="slow", at=(10**6,)), stall_s=1.0)
    unharmed(result, undisturbed)
    broken = [trace.outcome for trace in attempts(RunFolder(result.folder)) if not trace.outcome.learnable]
    assert [(one.by, "stood still" in one.detail) for one in broken] == [("tool", True)]
