"""A trainer and its episodes, each at its own pace: bounded staleness, nothing lost, nothing twice, no bias, no hang."""

import asyncio

from rollout_doubles import OFF, RENDERER, ScriptedEngine, ToyEnv, call, in_virtual_time, says, toy_task

from askesis.agents import SoloAgent
from askesis.rollout import Roller, Scheduler, group_specs, oldest_version

SUBMIT = says("", call("submit"))


def drawing(count, size=2):
    """`draw` over `count` groups, and the names of those drawn so far."""
    drawn = []

    def draw(n):
        groups = []
        while n > len(groups) and len(drawn) < count:
            name = f"g{len(drawn):03d}"
            drawn.append(name)
            groups.append(group_specs(toy_task(tool_s=1e4), OFF, group=name, size=size, seed=7))
        return groups

    return draw, drawn


def test_first():
    def script(turn, request):
        return says("", call("wait", seconds=request.sampling.seed % 50)) if turn < 3 else SUBMIT

    for staleness in (0, 1, 4):
        engine = ScriptedEngine(script, seconds=1.0, slots=8)
        draw, drawn = drawing(50)

        async def main(engine=engine, draw=draw, staleness=staleness):
            scheduler = Scheduler(
                Roller(engine, RENDERER, ToyEnv(), SoloAgent(), concurrency=16),
                draw=draw, per_step=4, staleness=staleness,
            )
            steps = []
            while (taken := await scheduler.take()) is not None:
                assert not taken.stale
                steps.append([group.id for group in taken.groups])
                for group in taken.groups:
                    assert scheduler.version - oldest_version(group) <= staleness
                await asyncio.sleep(10)
                engine.version = scheduler.version + 1
                scheduler.advance(scheduler.version + 1)
            return steps, asyncio.get_running_loop().time()

        steps, wall = in_virtual_time(main)
        print(staleness, wall, [len(s) for s in steps])
        assert sorted(name for step in steps for name in step) == drawn
