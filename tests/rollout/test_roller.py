"""Many episodes: each attempt emitted exactly once, groups whole, slots full while tools run."""

import asyncio
import gc
import random
from collections import Counter
from contextlib import aclosing

import pytest
from rollout_doubles import OFF, ON, RENDERER, ScriptedEngine, ToyEnv, call, line, says, toy_task

from askesis.agents import SoloAgent
from askesis.rollout import EpisodeOptions, EpisodeSpec, Roller, TraceStore, group_specs, version_range
from askesis.types import ConfigError, EngineError, SandboxError, StoreError, VerifierError
from bench.schedule_machine import in_virtual_time

SUBMIT = says("", call("submit"))


class Faults(ToyEnv):
    """Everything that is not the policy fails, hangs or dawdles by a seeded plan."""

    def __init__(self, rng, rate):
        super().__init__()
        self.rng, self.rate = rng, rate

    async def maybe(self, error):
        await asyncio.sleep(self.rng.random())
        if self.rng.random() < self.rate:
            if self.rng.random() < 0.3:
                await asyncio.sleep(1e5)
            raise error

    async def setup(self, task):
        await self.maybe(SandboxError("planned"))
        return await super().setup(task)

    async def verify(self, trace, state):
        await self.maybe(VerifierError("planned"))
        return await super().verify(trace, state)


def specs_of(groups, size=4):
    return [
        spec
        for index in range(groups)
        for spec in group_specs(toy_task(tool_s=5.0), OFF, group=f"g{index}", size=size, seed=index)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_every_started_attempt_is_emitted_exactly_once(seed, tmp_path):
    rng = random.Random(seed)
    rate = rng.choice([0.0, 0.1, 0.5])
    stop_at = rng.choice([None, rng.uniform(0, 8)])
    env = Faults(rng, rate)

    def script(turn, request):
        if rng.random() < rate / 3:
            return EngineError("planned")
        return rng.choice([says("", call("wait", seconds=rng.choice([0.1, 3.0, 9.0]))), SUBMIT])

    engine = ScriptedEngine(script, seconds=lambda request: rng.random(), slots=8)
    seen, specs, groups = [], specs_of(10), []
    attempts = Counter()

    async def main():
        with TraceStore(tmp_path / "traces.db") as store:
            roller = Roller(
                engine, RENDERER, env, SoloAgent(), concurrency=16, retries=2, store=store, on_trace=seen.append
            )
            if stop_at is not None:
                asyncio.get_running_loop().call_later(stop_at, lambda: asyncio.ensure_future(roller.shutdown()))
            async for group in roller.groups(specs, label="train", step=1):
                groups.append(group)
            for trace in seen:
                attempts[trace.seed] += 1
            stored = list(store.traces())
            assert sorted(trace.id for trace in stored) == sorted(trace.id for trace in seen)
            progress = roller.progress
            assert progress.started == progress.finished + progress.cancelled
            assert progress.retried == len(seen) - progress.started
            assert sum(store.outcomes().values()) == len(seen)
            return progress

    progress = in_virtual_time(main)
    assert len({trace.id for trace in seen}) == len(seen)
    assert all(state.closed == 1 for state in env.states)
    assert progress.started == len(attempts)
    assert sorted(engine.released) == sorted({*engine.released}) and set(engine.requests) <= set(engine.released)
    for trace in seen:
        assert trace.attempt < attempts[trace.seed] <= 3
        assert trace.outcome.by != "cancelled" or stop_at is not None
    for group in groups:
        assert [trace.seed for trace in group.traces] == [s.seed for s in specs if s.group == group.id]
        assert all(trace.outcome.by != "cancelled" for trace in group.traces)
        assert all(t.outcome.learnable or attempts[t.seed] == 3 for t in group.traces)
    if stop_at is None:
        assert len(groups) == 10 and progress.started == len(specs)


def test_slots_stay_full_while_tools_run():
    """A turn decodes 1 s, its tool runs 4 s: with ten episodes a slot, the engine is never short of work."""

    def script(turn, request):
        return says("", call("wait", seconds=4)) if turn < 9 else SUBMIT

    engine = ScriptedEngine(script, seconds=1.0, slots=4)

    async def main():
        roller = Roller(engine, RENDERER, ToyEnv(), SoloAgent(), concurrency=40)
        begun = asyncio.get_running_loop().time()
        traces = await roller.run(specs_of(40))
        assert all(trace.success for trace in traces)
        return asyncio.get_running_loop().time() - begun

    wall = in_virtual_time(main)
    assert engine.busy_s == 160 * 10
    assert engine.busy_s / (4 * wall) > 0.95


def test_a_slow_reader_does_not_hold_up_the_episodes():
    engine = ScriptedEngine(line(SUBMIT), seconds=1.0)

    async def main():
        roller = Roller(engine, RENDERER, ToyEnv(), SoloAgent(), concurrency=4)
        async for _ in roller.groups(specs_of(8)):
            await asyncio.sleep(100)
            assert roller.progress.finished == 32

    in_virtual_time(main)


def test_leaving_early_cancels_what_flies():
    env, seen = ToyEnv(), []
    engine = ScriptedEngine(line(SUBMIT), seconds=lambda request: 1.0 if len(engine.requests) <= 4 else 50.0)

    async def main():
        roller = Roller(engine, RENDERER, env, SoloAgent(), concurrency=8, on_trace=seen.append)
        async with aclosing(roller.groups(specs_of(6))) as groups:
            async for group in groups:
                assert group.id == "g0"
                break
        return roller.progress

    progress = in_virtual_time(main)
    assert (progress.finished, progress.cancelled, len(seen)) == (4, progress.started - 4, progress.started)
    assert all(state.closed for state in env.states)


def test_a_shutdown_while_an_attempt_closes_plays_no_further_one():
    class Slow(ToyEnv):
        async def verify(self, trace, state):
            state.close = self.dawdle
            raise VerifierError("planned")

        async def dawdle(self):
            await asyncio.sleep(5)

    seen = []
    engine = ScriptedEngine(line(SUBMIT), seconds=1.0)

    async def main():
        roller = Roller(engine, RENDERER, Slow(), SoloAgent(), retries=9, on_trace=seen.append)
        asyncio.get_running_loop().call_later(3, lambda: asyncio.ensure_future(roller.shutdown()))
        await roller.run(specs_of(1, size=1))
        return roller.progress, asyncio.get_running_loop().time()

    progress, ended = in_virtual_time(main)
    assert [trace.outcome.by for trace in seen] == ["verifier", "cancelled"]
    assert (progress.started, progress.retried, progress.cancelled) == (1, 1, 1)
    assert ended < 7


def test_groups_carry_the_versions_they_were_sampled_under():
    engine = ScriptedEngine(lambda turn, request: says("", call("wait", seconds=1)) if turn == 0 else SUBMIT)

    async def main():
        roller = Roller(engine, RENDERER, ToyEnv(), SoloAgent())
        asyncio.get_running_loop().call_later(0.5, lambda: setattr(engine, "version", 3))
        return await roller.run(specs_of(1))

    assert version_range(in_virtual_time(main)) == (0, 3)


def test_a_store_that_fails_stops_the_run():
    class Full:
        def add(self, traces, *, label="", step=0, group=None):
            raise StoreError("disk full")

    async def main():
        await Roller(ScriptedEngine(line(SUBMIT)), RENDERER, ToyEnv(), SoloAgent(), store=Full()).run(specs_of(3))

    with pytest.raises(StoreError, match="disk full"):
        in_virtual_time(main)


def test_what_does_not_fit_is_said_before_anything_starts():
    roller = Roller(ScriptedEngine(line(SUBMIT)), RENDERER, ToyEnv(), SoloAgent(), options=EpisodeOptions())
    specs = [EpisodeSpec(task=toy_task(), thinking=mode, group="g", seed=0) for mode in (ON, OFF)]
    with pytest.raises(ConfigError, match="'g' mixes"):
        in_virtual_time(lambda: roller.run(specs))
    assert roller.progress.started == 0
    with pytest.raises(ConfigError, match="concurrency=0"):
        Roller(ScriptedEngine(None), RENDERER, ToyEnv(), SoloAgent(), concurrency=0)


async def test_the_collector_is_patient_while_episodes_are_in_flight_and_as_before_after():
    usual, seen = gc.get_threshold(), []
    engine = ScriptedEngine(lambda turn, request: SUBMIT)
    roller = Roller(engine, RENDERER, ToyEnv(), SoloAgent(), on_trace=lambda trace: seen.append(gc.get_threshold()[0]))
    await roller.run(specs_of(2))
    assert len(seen) == 8
    assert min(seen) > usual[0]
    assert gc.get_threshold() == usual
