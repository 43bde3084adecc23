"""A trainer and its episodes, each at its own pace: bounded staleness, nothing lost, nothing twice, no bias."""

import asyncio
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_doubles import OFF, RENDERER, ScriptedEngine, ToyEnv, call, in_virtual_time, says, toy_task

from askesis.agents import SoloAgent
from askesis.rollout import EpisodeOptions, Roller, Scheduler, TraceStore, group_specs, oldest_version
from askesis.types import EngineError, EnvError, SandboxError, VerifierError

SUBMIT = says("", call("submit"))


class RankedEngine(ScriptedEngine):
    """Serves the lowest priority first, as engines that know it do."""

    def __init__(self, script, *, seconds, slots):
        super().__init__(script, seconds=0.0)
        self.turn_s, self.free, self.line = seconds, slots, []

    async def generate(self, token_ids, sampling, *, session=None):
        if self.free:
            self.free -= 1
        else:
            entry = (sampling.priority, len(self.line), asyncio.get_running_loop().create_future())
            self.line.append(entry)
            await entry[2]
        try:
            version = self.version
            await asyncio.sleep(self.turn_s(session))
            said = await super().generate(token_ids, sampling, session=session)
            said.policy_versions[:-1] = version  # the weights changed while it spoke
            return said
        finally:
            waiting = sorted((e for e in self.line if not e[2].done()), key=lambda e: e[:2])
            if waiting:
                waiting[0][2].set_result(None)
            else:
                self.free += 1


class Machine:
    """Everything seeded: how long turns and tools take, what fails, how large groups are."""

    def __init__(self, seed, *, faults=0.0, slots=6, turns=6):
        self.rng, self.faults, self.turns = random.Random(seed), faults, turns
        self.env = ToyEnv()
        self.env.setup = self.setup(self.env.setup)
        self.env.verify = self.verify(self.env.verify)
        self.engine = RankedEngine(self.script, seconds=lambda _: self.rng.expovariate(0.5), slots=slots)
        self.lengths = {}

    def script(self, turn, request):
        rng = self.rng
        if rng.random() < self.faults / 4:
            return EngineError("planned")
        if turn >= self.turns or rng.random() < 0.25:
            return SUBMIT
        return says("", call("wait", seconds=min(60.0, rng.lognormvariate(0, 1.8))))

    async def maybe(self, error):
        await asyncio.sleep(self.rng.random())
        if self.rng.random() < self.faults:
            if self.rng.random() < 0.2:
                await asyncio.sleep(1e7)  # hangs, until its time-out
            raise error

    def setup(self, inner):
        async def setup(task):
            await self.maybe(self.rng.choice([SandboxError, EnvError])("planned"))
            return await inner(task)

        return setup

    def verify(self, inner):
        async def verify(trace, state):
            await self.maybe(VerifierError("planned"))
            return await inner(trace, state)

        return verify


class Data:
    """`draw` over so many groups, and over those that are drawn again."""

    def __init__(self, count, sizes=(2,)):
        self.count, self.sizes, self.drawn = count, sizes, []

    def __call__(self, n):
        assert n > 0
        found = []
        while len(found) < n and len(self.drawn) < self.count:
            name = f"g{len(self.drawn):04d}"
            size = self.sizes[len(self.drawn) % len(self.sizes)]
            self.drawn.append(name)
            found.append(group_specs(toy_task(tool_s=1e3, wall_s=1e5), OFF, group=name, size=size, seed=7))
        return found


async def train(scheduler, engine, *, train_s=10.0, steps=10**6, each=None):
    """Trains until there is nothing more; the groups of each step, with the version that they went into."""
    done = []
    while len(done) < steps and (taken := await scheduler.take()) is not None:
        if each is not None:
            each(taken)
        if taken.groups:
            done.append((scheduler.version, taken))
            await asyncio.sleep(train_s)
            engine.version += 1
            await asyncio.sleep(0.5)  # sampled under the new weights already
            scheduler.advance(engine.version)
    return done


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    staleness=st.integers(0, 4),
    per_step=st.integers(1, 4),
    groups=st.integers(0, 18),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    concurrency=st.integers(1, 20),
    faults=st.sampled_from([0.0, 0.1, 0.4]),
    train_s=st.sampled_from([0.1, 10.0, 200.0]),
    stop_at=st.one_of(st.none(), st.floats(0, 300)),
)
def test_any_machine(tmp_path_factory, seed, staleness, per_step, groups, sizes, concurrency, faults, train_s, stop_at):
    """Each group is trained once, in time, or cancelled by a shutdown; each attempt is emitted once; it ends."""
    machine, data, seen = Machine(seed, faults=faults), Data(groups, sizes), []
    folder = tmp_path_factory.mktemp("any")

    async def main():
        with TraceStore(folder / "traces.db") as store:
            options = EpisodeOptions(setup_s=30, verify_s=30)
            roller = Roller(
                machine.engine, RENDERER, machine.env, SoloAgent(), concurrency=concurrency, options=options,
                store=store, on_trace=seen.append,
            )  # fmt: skip
            scheduler = Scheduler(roller, draw=data, per_step=per_step, staleness=staleness)
            if stop_at is not None:
                asyncio.get_running_loop().call_later(stop_at, lambda: asyncio.ensure_future(scheduler.shutdown()))
            async with asyncio.timeout(5e5):
                done = await train(scheduler, machine.engine, train_s=train_s)
                await scheduler.shutdown()
            assert sorted(trace.id for trace in store.traces()) == sorted(trace.id for trace in seen)
            progress = roller.progress
            assert progress.started == progress.finished + progress.cancelled
            assert len(seen) == progress.started + progress.retried
            return done

    done = in_virtual_time(main)
    trained = [group.id for _, taken in done for group in taken.groups]
    assert max(Counter(trained).values(), default=1) == 1 and set(trained) <= set(data.drawn)
    assert all(state.closed == 1 for state in machine.env.states)
    assert len({trace.id for trace in seen}) == len(seen)
    for version, taken in done:
        assert taken.stale == []
        assert [group.id for group in taken.groups] == sorted(group.id for group in taken.groups)
        for group, age in zip(taken.groups, taken.figures.ages, strict=True):
            oldest = oldest_version(group)
            assert oldest is None or 0 <= version - oldest == age <= staleness
    if stop_at is None:
        assert sorted(trained) == data.drawn and len(trained) == groups
        assert all(len(taken.groups) == per_step for _, taken in done[:-1])
    if staleness == 0 and stop_at is None:
        assert trained == data.drawn  # step by step, as they were drawn
        versions = [(v, t) for v, taken in done for g in taken.groups for t in g.traces]
        assert all(v == n for v, t in versions for node in t.nodes if node.sampled for n in node.policy_versions)
