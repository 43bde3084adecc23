"""A taskset of verifiers: rewards, metrics, stops, a tool with state, and hooks that can be made to fail."""

import asyncio
from contextlib import asynccontextmanager

import verifiers.v1 as vf


class SumsConfig(vf.TasksetConfig):
    rows: int = 64
    tools: bool = False
    broken: bool = False
    unprepared: bool = False
    turns: int = 99


class SumData(vf.TaskData):
    answer: str
    broken: bool = False
    unprepared: bool = False
    turns: int = 99


class CountState(vf.State):
    count: int = 0
    ready: bool = False


HELD: list[str] = []


@asynccontextmanager
async def held():
    """As clients of MCP servers do, it wants to be left by the task that entered it."""
    task = asyncio.current_task()
    HELD.append("open")
    yield
    assert asyncio.current_task() is task
    HELD.append("closed")


class Counter(vf.Toolset[vf.ToolsetConfig, CountState]):
    async def setup(self):
        await self._exit_stack.enter_async_context(held())

    @vf.tool
    def bump(self, by: int = 1) -> str:
        """Count on."""
        if by < 0:
            raise ValueError("only upwards")
        self.state.count += by
        return f"count={self.state.count}"


class Sum(vf.Task[SumData, CountState]):
    async def setup(self, trace):
        if self.data.unprepared:
            raise RuntimeError("no room")
        trace.state.ready = True

    async def finalize(self, trace):
        assert HELD[-1:] != ["open"]
        trace.info["final"] = True

    @vf.stop
    async def enough(self, trace: vf.Trace) -> bool:
        return trace.state.count >= 3

    @vf.stop
    async def turned(self, trace: vf.Trace) -> bool:
        return trace.num_turns >= self.data.turns

    @vf.reward
    async def right(self, trace) -> float:
        if self.data.broken:
            raise RuntimeError("no luck")
        assert trace.state.ready and trace.info["final"]
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.5)
    async def counted(self, trace) -> float:
        return float(trace.state.count)

    @vf.metric
    async def turns(self, trace) -> float:
        return trace.num_turns

    @vf.metric
    async def branches(self, trace) -> float:
        return len(trace.branches)


class Counted(Sum):
    @classmethod
    def toolsets(cls, config):
        return [Counter(vf.ToolsetConfig())]


class Sums(vf.Taskset[Sum, SumsConfig]):
    def load(self):
        c = self.config
        for n in range(c.rows):
            data = SumData(
                prompt=f"What is {n} plus {n + 1}?",
                system_prompt="Say a number.",
                answer=str(2 * n + 1),
                broken=c.broken,
                unprepared=c.unprepared,
                turns=c.turns,
            )
            yield (Counted if c.tools else Sum)(data, c.task)


__all__ = ["Sums"]
