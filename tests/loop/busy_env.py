"""An environment with a tool, a sandbox and a verdict that all have something to do, whatever a random model says."""

from pathlib import Path

from askesis.sandbox import LazyPool
from askesis.types import Limits, Outcome, Reward, RunLimits, Task, ToolCall, ToolResult, ToolSpec

BUSY = f"{Path(__file__)}:Busy"
RUN = RunLimits(wall_s=5.0, cpu_s=5.0, memory=256 * 2**20, processes=4, file_size=2**16, output=2**12)
NOTHING = {"type": "object", "properties": {}}


class BusyState:
    def __init__(self, sandbox):
        self.sandbox = sandbox

    async def close(self):
        await self.sandbox.close()


class Work:
    spec = ToolSpec(name="work", description="Do something in the sandbox.", parameters=NOTHING)

    def __init__(self, state):
        self.state = state

    async def __call__(self, args, session):
        await self.state.sandbox.write("number", b"41")
        return ToolResult(text=(await self.state.sandbox.read("number")).decode())


class Submit:
    spec = ToolSpec(name="submit", description="End.", parameters=NOTHING)

    async def __call__(self, args, session):
        return ToolResult(text="thanks", end=Outcome(by="policy", reason="submitted"))


class Busy:
    """Pays the share of even tokens that were said, as `toy_env` does; asks itself of the sandbox what was written."""

    name = "busy"

    def __init__(self, *, tool_s: float = 30.0):
        self.limits = Limits(max_turns=4, max_turn_tokens=8, tool_s=tool_s)
        self.pool = LazyPool(size=2, limits=RUN)

    def tasks(self, split, *, seed=0, limit=None):
        odd = split == "heldout"
        return [
            Task(
                env=self.name,
                prompt=f"Add {seed % 97} and {2 * n + odd}.",
                data={"n": n},
                limits=self.limits,
                split=split,
            )
            for n in range(limit or 50)
        ]

    async def setup(self, task):
        return BusyState(await self.pool.acquire())

    def tools(self, task, state):
        return [Work(state), Submit()]

    async def verify(self, trace, state):
        said = [int(t) for node in trace.nodes if node.sampled for t in node.token_ids]
        even = sum(t % 2 == 0 for t in said) / len(said)
        return [Reward(name="success", value=float(even >= 0.5), weight=0.5), Reward(name="even", value=even)]

    async def close(self):
        await self.pool.close()


class Worker:
    """A turn, some work, a turn, the end: what a model says in between is its own affair."""

    name = "worker@1"

    async def run(self, session):
        session.add(*session.opening)
        for tool in ("work", "submit"):
            await session.turn()
            await session.call([ToolCall(id="call_0", name=tool, arguments={})])
