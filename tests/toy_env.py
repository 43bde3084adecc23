"""An environment that even a random model can get better at: it is paid for the share of even tokens it says."""

import asyncio
from pathlib import Path

from askesis.types import Limits, Outcome, Reward, Task, ToolCall, ToolResult, ToolSpec, assistant

TOY = f"{Path(__file__)}:Toy"  # as a recipe names it
SPEC = ToolSpec(
    name="answer",
    description="Give the answer.",
    parameters={"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]},
)


class State:
    async def close(self):
        """Nothing is held."""


class Answer:
    spec = SPEC

    def __init__(self, hangs):
        self.hangs = hangs

    async def __call__(self, args, session):
        if self.hangs:
            await asyncio.sleep(1e5)
        return ToolResult(text="thanks", end=Outcome(by="policy", reason="submitted"))


class Adder:
    """Says the sum; thinks of it first where it may."""

    def __init__(self, task):
        self.value = task.data["sum"]

    def act(self, messages, thinking):
        call = ToolCall(id="call_0", name="answer", arguments={"value": self.value})
        return assistant(reasoning="Add." if thinking.enabled else "", tool_calls=(call,))


class Toy:
    """delay: seconds that a set-up takes, late: a verdict on every seventh task. Of 100 tasks, broken cannot be set up,
    and in hanging the tool never ends."""

    name = "toy"

    def __init__(
        self, *, delay: float = 0.0, late: float = 0.0, broken: int = 0, hanging: int = 0, max_turn_tokens: int = 12
    ) -> None:
        self.delay, self.late, self.broken, self.hanging = delay, late, broken, hanging
        self.limits = Limits(max_turns=2, max_turn_tokens=max_turn_tokens)

    def tasks(self, split, *, seed=0, limit=None):
        odd = split == "heldout"
        tasks = []
        for n in range(limit or 50):
            a, b = (seed + n) % 97, 2 * ((7 * n) % 50) + odd
            data = {"sum": a + b, "place": n}
            tasks.append(Task(env=self.name, prompt=f"Add {a} and {b}.", data=data, limits=self.limits, split=split))
        return tasks

    async def setup(self, task):
        await asyncio.sleep(self.delay)
        if task.data["place"] % 100 < self.broken:
            raise OSError("the disk is full")
        return State()

    def tools(self, task, state):
        return [Answer(task.data["place"] % 100 < self.hanging)]

    async def verify(self, trace, state):
        await asyncio.sleep(self.late if trace.task.data["place"] % 7 == 3 else 0)
        said = [int(t) for node in trace.nodes if node.sampled for t in node.token_ids]
        even = sum(t % 2 == 0 for t in said) / len(said)
        return [
            Reward(name="success", value=float(even >= 0.7), weight=0.5),
            Reward(name="evenness", value=even, weight=0.5),
            Reward(name="said", value=float(len(said)), weight=0.0),
        ]

    def demonstrator(self, task, *, seed):
        return Adder(task)

    async def close(self):
        """Nothing is held."""
