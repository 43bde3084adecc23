"""Environments that do not keep what their interface promises."""

from base_worlds import Accounts, Field, Letter

from askesis.envs import tool
from askesis.types import Task, ToolResult, ToolSpec

SCHEMA = {"type": "object", "properties": {"account": "str"}}


class Unchecked(Field):
    """A number that the schema allows, and the tool cannot do with."""

    class State(Field.State):
        def move(self, way: str, steps: int = 1):
            """Go north, south, west or east."""
            dx, dy = {"north": (0, -1), "south": (0, 1), "west": (-1, 0), "east": (1, 0)}[way]
            x, y = self.at[0] + dx, self.at[1] + dy
            if self.free(x, y):
                self.at = (x, y)
            return f"now at column {self.at[0]}, row {self.at[1]}"


class NoSchema(Accounts):
    """The arguments are told as in a docstring."""

    def tools(self, task, state):
        class Read:
            spec = ToolSpec(
                name="read",
                description="Read an account.",
                parameters={"type": "object", "properties": {"account": "str"}},
            )

            async def __call__(self, args, session):
                return ToolResult(text=state.read(args["account"]))

        return [Read(), tool(state.answer)]


class NoJson(Letter):
    """The data of a task is more than JSON."""

    def task(self, rng, split):
        task = super().task(rng, split)
        data = {**task.data, "changed": {1, 2}}
        return Task(env=self.name, prompt=task.prompt, data=data, limits=self.limits, split=split, id=task.id)


FLAWED = {"a": Unchecked, "b": NoSchema, "c": NoJson}
CLEAN = {"a": Field, "b": Accounts, "c": Letter}
