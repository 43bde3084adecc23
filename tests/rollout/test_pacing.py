"""A trainer and its episodes, each at its own pace: bounded staleness, nothing lost, nothing twice, no bias."""

import asyncio
import logging
import random
import statistics
from collections import Counter

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from rollout_doubles import OFF, RENDERER, ScriptedEngine, ToyEnv, call, says, toy_task

from askesis.agents import SoloAgent
from askesis.rollout import EpisodeOptions, Roller, Scheduler, TraceStore, group_specs, oldest_version
from askesis.types import ConfigError, EngineError, EnvError, SandboxError, StoreError, VerifierError
from bench.schedule_machine import in_virtual_time

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
    """`draw` over so many prompts, and first over those whose groups were given up."""

    def __init__(self, count, sizes=(2,)):
        self.prompts, self.sizes = [f"g{number:04d}" for number in range(count)], sizes
        self.left, self.again, self.drawn, self.given_up = self.prompts[::-1], [], [], []

    def back(self, names):
        self.given_up += names
        self.again += [f"{name}.1" for name in names]

    def may_spare(self, name):
        return "." not in name

    def __call__(self, n):
        assert n > 0
        found = []
        while len(found) < n and (self.again or self.left):
            name = self.again.pop(0) if self.again else self.left.pop()
            size = self.sizes[int(name[1:5]) % len(self.sizes)]
            self.drawn.append(name)
            found.append(
                group_specs(toy_task(max_turns=40, tool_s=1e3, wall_s=1e5), OFF, group=name, size=size, seed=7)
            )
        return found


async def train(scheduler, engine, data, *, train_s=10.0, steps=10**6):
    """Trains until there is nothing more; the groups of each step, with the version that they went into."""
    done = []
    while len(done) < steps and (taken := await scheduler.take()) is not None:
        assert bool(taken.groups) != bool(taken.given_up)
        data.back(taken.given_up)
        if taken.groups:
            done.append((scheduler.version, taken))
            await asyncio.sleep(train_s)
            engine.version += 1
            await asyncio.sleep(0.5)  # sampled under the new weights already
            scheduler.advance(engine.version)
    return done


MACHINES = {
    "seed": st.integers(0, 2**32),
    "staleness": st.integers(0, 4),
    "per_step": st.integers(1, 4),
    "groups": st.integers(0, 18),
    "sizes": st.lists(st.integers(1, 4), min_size=1, max_size=3),
    "concurrency": st.integers(1, 20),
    "faults": st.sampled_from([0.0, 0.1, 0.4]),
    "train_s": st.sampled_from([0.1, 10.0, 200.0]),
    "spare": st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    "stop_at": st.one_of(st.none(), st.floats(0, 300)),
}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(**MACHINES)
def test_any_machine(tmp_path_factory, **machine):
    """Each group is trained once, in time, or cancelled by a shutdown; each attempt is emitted once; it ends."""
    play(tmp_path_factory.mktemp("any"), **machine)


@pytest.mark.full
@settings(max_examples=200, deadline=None, derandomize=True)
@given(**MACHINES)
def test_very_many_machines(tmp_path_factory, **machine):
    """The same."""
    play(tmp_path_factory.mktemp("many"), **machine)


def play(folder, *, seed, staleness, per_step, groups, sizes, concurrency, faults, train_s, spare, stop_at):
    machine, data, seen = Machine(seed, faults=faults), Data(groups, sizes), []

    async def main():
        with TraceStore(folder / "traces.db") as store:
            options = EpisodeOptions(setup_s=30, verify_s=30)
            roller = Roller(
                machine.engine, RENDERER, machine.env, SoloAgent(), concurrency=concurrency, options=options,
                store=store, on_trace=seen.append,
            )  # fmt: skip
            scheduler = Scheduler(
                roller, draw=data, per_step=per_step, staleness=staleness, spare=spare, may_spare=data.may_spare
            )
            if stop_at is not None:
                asyncio.get_running_loop().call_later(stop_at, lambda: asyncio.ensure_future(scheduler.shutdown()))
            async with asyncio.timeout(5e5):
                done = await train(scheduler, machine.engine, data, train_s=train_s)
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
    assert not set(trained) & set(data.given_up) and not any("." in name for name in data.given_up)
    assert len(data.given_up) <= (spare if staleness else 0) * len(data.drawn)
    event(f"given up: {min(3, len(data.given_up))}")
    for version, taken in done:
        numbers = [data.drawn.index(group.id) for group in taken.groups]
        assert numbers == sorted(numbers)
        for group, age in zip(taken.groups, taken.figures.ages, strict=True):
            oldest = oldest_version(group)
            assert oldest is None or 0 <= version - oldest == age <= staleness
    if stop_at is None:
        assert sorted(name[:5] for name in trained) == data.prompts  # also those that were given up at the very end
        assert sorted([*trained, *data.given_up]) == sorted(data.drawn)
        assert all(len(taken.groups) == per_step for _, taken in done[:-1])
    if staleness == 0 and stop_at is None:
        assert trained == data.drawn  # step by step, as they were drawn
        versions = [(v, t) for v, taken in done for g in taken.groups for t in g.traces]
        assert all(v == n for v, t in versions for node in t.nodes if node.sampled for n in node.policy_versions)


def scheduler_of(engine, data, *, concurrency=64, env=None, **options):
    roller = Roller(engine, RENDERER, env or ToyEnv(), SoloAgent(), concurrency=concurrency)
    return Scheduler(roller, draw=data, **options)


class Bimodal(ScriptedEngine):
    """One group in five takes fifteen turns, all others one; which one speaks, its priority says: its number."""

    def __init__(self):
        super().__init__(self.script, seconds=1.0)
        self.long = [random.Random(number).random() < 0.2 for number in range(5000)]

    def script(self, turn, request):
        last = 14 if self.long[request.sampling.priority] else 0
        return SUBMIT if turn == last else says("", call("wait", seconds=2.0))


def test_no_bias_to_short_episodes():
    """What is trained is as long as what is drawn, though a long group is on its way for forty times as long."""
    engine, data = Bimodal(), Data(5000, sizes=(1,))

    async def main():
        scheduler = scheduler_of(engine, data, per_step=4, staleness=6, spare=0.0, concurrency=48)
        done = await train(scheduler, engine, data, train_s=4.0, steps=60)
        await scheduler.shutdown()
        return done

    groups = [group for _, taken in in_virtual_time(main) for group in taken.groups]
    lengths = [statistics.fmean(trace.turns for trace in group.traces) for group in groups]
    drawn = [15 if long else 1 for long in engine.long[: len(data.drawn)]]
    assert statistics.fmean(lengths) == pytest.approx(statistics.fmean(drawn), rel=0.1)
    halves = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    assert statistics.fmean(halves[0]) == pytest.approx(statistics.fmean(halves[1]), rel=0.35)
    numbers = [data.drawn.index(group.id) for group in groups]
    assert all(abs(number - place) <= 4 * 7 for place, number in enumerate(numbers))  # nobody is overtaken for long


def test_what_runs_ahead_is_bounded():
    """A trainer that never comes back: no more is drawn than the steps hold in which it could still be trained."""
    engine, data = ScriptedEngine(lambda turn, request: SUBMIT, seconds=1.0), Data(1000)

    async def main():
        scheduler = scheduler_of(engine, data, per_step=3, staleness=2)
        taken = await scheduler.take()
        assert [group.id for group in taken.groups] == data.drawn[:3]
        await asyncio.sleep(1000)
        assert len(data.drawn) == 9 and engine.version == 0
        scheduler.advance(1)
        await asyncio.sleep(1000)
        assert len(data.drawn) == 12
        assert (await scheduler.take()).figures.held_s > 1900
        await scheduler.shutdown()

    in_virtual_time(main)


def test_partial_rollouts_go_on_under_new_weights():
    """No update cancels an episode, and every token says which weights sampled it."""
    engine = ScriptedEngine(
        lambda turn, request: says("", call("wait", seconds=9.0)) if turn < 5 else SUBMIT, seconds=1.0
    )
    data = Data(8)

    async def main():
        scheduler = scheduler_of(engine, data, per_step=2, staleness=3, concurrency=4)
        return await train(scheduler, engine, data, train_s=5.0)

    groups = [group for _, taken in in_virtual_time(main) for group in taken.groups]
    assert sorted(group.id for group in groups) == data.drawn
    spans = [{v for node in t.nodes if node.sampled for v in node.policy_versions} for g in groups for t in g.traces]
    assert max(len(span) for span in spans) > 1
    assert all(trace.attempt == 0 and trace.success for group in groups for trace in group.traces)


def test_a_group_that_holds_the_trainer_back_is_given_up_as_far_as_that_is_allowed(caplog):
    """One hangs in its tool. With `spare` it is cancelled, emitted and reported; without, it is waited for."""

    def played(spare):
        seen, data = [], Data(24, sizes=(1,))
        engine = ScriptedEngine(None, seconds=1.0)
        engine.script = lambda turn, request: (
            says("", call("wait", seconds=900.0)) if turn == 0 and request.sampling.priority == 1 else SUBMIT
        )

        async def main():
            roller = Roller(engine, RENDERER, ToyEnv(), SoloAgent(), on_trace=seen.append)
            scheduler = Scheduler(roller, draw=data, per_step=2, staleness=2, spare=spare, report_s=30.0)
            done = await train(scheduler, engine, data, train_s=10.0)
            return done, asyncio.get_running_loop().time(), roller.progress

        done, wall, progress = in_virtual_time(main)
        trained = sorted(group.id for _, taken in done for group in taken.groups)
        assert len(seen) == len(data.drawn) == progress.started
        assert sorted([*trained, *data.given_up]) == sorted(data.drawn)
        return data.given_up, wall, [trace.outcome.by for trace in seen if trace.group == "g0001"]

    with caplog.at_level(logging.WARNING, "askesis.rollout"):
        none, waited, _ = played(0.0)
        assert "the first on its way is g0001, begun under version 0" in caplog.text
        assert "an episode after 1 turns is with its tools, set-up or verifier since" in caplog.text
        given_up, wall, by = played(0.5)
    assert none == []
    assert (given_up, by) == (["g0001"], ["cancelled"])
    assert waited > 900 > 450 > wall
    assert "group g0001 is given up: it holds the trainer back" in caplog.text


def test_versions_that_were_passed_over_leave_nothing_stale():
    """Weights came from elsewhere, four versions on: what cannot be trained any more is reported, once, and is drawn
    again before anything new."""
    engine, data = ScriptedEngine(lambda turn, request: SUBMIT, seconds=1.0), Data(20, sizes=(1,))

    async def main():
        scheduler = scheduler_of(engine, data, per_step=2, staleness=1, concurrency=3)
        first = await scheduler.take()
        await asyncio.sleep(10)
        engine.version = 4
        scheduler.advance(4)
        done = await train(scheduler, engine, data)
        return [first, *(taken for _, taken in done)]

    steps = in_virtual_time(main)
    assert data.given_up == ["g0002", "g0003"]
    assert data.drawn[4:7] == ["g0002.1", "g0003.1", "g0004"]
    trained = [group.id for taken in steps for group in taken.groups]
    assert sorted(name[:5] for name in trained) == data.prompts


def test_what_is_given_up_at_the_end_of_the_data_is_drawn_again():
    """One hangs in its tool, is given up when all was drawn, and hangs for as long again: then it is waited for."""
    engine, data = ScriptedEngine(None, seconds=1.0), Data(8, sizes=(1,))
    engine.script = lambda turn, request: (
        SUBMIT if turn or request.sampling.priority in {0, *range(2, 8)} else says("", call("wait", seconds=900.0))
    )

    async def main():
        scheduler = scheduler_of(
            engine, data, per_step=2, staleness=2, spare=1.0, may_spare=data.may_spare, concurrency=8
        )
        return await train(scheduler, engine, data)

    done = in_virtual_time(main)
    assert (data.given_up, data.drawn[8:]) == (["g0001"], ["g0001.1"])
    assert [group.id for _, taken in done for group in taken.groups] == [*data.prompts[:1], *data.drawn[2:]]


def test_groups_that_nobody_has_sampled_a_token_of_are_not_kept():
    """Their set-ups fail for good: they are handed over at once, so that they neither block what is drawn nor wait."""
    env, data = ToyEnv(), Data(40, sizes=(1,))
    setup, calls = env.setup, iter(range(10**6))

    async def fails(task):
        if next(calls) % 3 == 0:
            raise SandboxError("planned")
        return await setup(task)

    env.setup = fails
    engine = ScriptedEngine(lambda turn, request: SUBMIT, seconds=1.0)

    async def main():
        roller = Roller(engine, RENDERER, env, SoloAgent(), concurrency=8, retries=0)
        scheduler = Scheduler(roller, draw=data, per_step=2, staleness=3)
        return await train(scheduler, engine, data, train_s=100.0)

    done = in_virtual_time(main)
    numbers = [data.drawn.index(group.id) for _, taken in done for group in taken.groups]
    assert sorted(numbers) == list(range(40))
    assert all(abs(number - place) <= 8 for place, number in enumerate(numbers))


def test_a_group_that_is_cancelled_elsewhere_is_drawn_again():
    """Whoever cancels an episode's task: the trainer does not wait for it for ever."""
    engine, data = ScriptedEngine(lambda turn, request: SUBMIT, seconds=5.0), Data(8, sizes=(2,))

    async def main():
        scheduler = scheduler_of(engine, data, per_step=2, staleness=1)
        taking = asyncio.ensure_future(train(scheduler, engine, data))
        await asyncio.sleep(1.0)
        next(iter(scheduler._roll.flying)).cancel()
        async with asyncio.timeout(1e4):
            return await taking

    done = in_virtual_time(main)
    assert len(data.given_up) == 1
    assert sorted(group.id[:5] for _, taken in done for group in taken.groups) == data.prompts


def test_what_fails_beside_the_episodes_is_raised_where_groups_are_taken():
    class Full:
        def add(self, traces, *, label="", step=0, group=None):
            raise StoreError("disk full")

    engine = ScriptedEngine(lambda turn, request: SUBMIT, seconds=1.0)

    async def full():
        roller = Roller(engine, RENDERER, ToyEnv(), SoloAgent(), store=Full())
        await Scheduler(roller, draw=Data(4), per_step=2, staleness=1).take()

    async def no_more():
        def draw(n):
            raise EnvError("no tasks")

        await scheduler_of(engine, draw, per_step=2, staleness=1).take()

    async def twice():
        await scheduler_of(engine, lambda n: [Data(1)(1)[0]] * n, per_step=2, staleness=1).take()

    for main, error, text in (
        (full, StoreError, "disk full"),
        (no_more, EnvError, "no tasks"),
        (twice, ConfigError, "'g0000' twice"),
    ):
        with pytest.raises(error, match=text):
            in_virtual_time(main)
    with pytest.raises(ConfigError, match="staleness=-1"):
        Scheduler(Roller(engine, RENDERER, ToyEnv(), SoloAgent()), draw=Data(1), per_step=1, staleness=-1)
