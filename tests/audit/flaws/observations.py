"""Environments whose answers help nobody: empty, too long, or errors that do not say what is wrong."""

from base_worlds import Accounts, Field, Letter

from askesis.types import ToolResult


class Silent(Field):
    """What cannot be done is answered with nothing."""

    class State(Field.State):
        def move(self, way: str, steps: int = 1):
            """Go north, south, west or east."""
            told = super().move(way, steps)
            return told if told.startswith("now") else self.refused(told)

        def refused(self, told):
            return ""


class NotSilent(Silent):
    class State(Silent.State):
        def refused(self, told):
            return told


class Curt(Letter):
    """All that is wrong is an error."""

    class State(Letter.State):
        def set_line(self, line: int, text: str):
            """Replace a line."""
            told = super().set_line(line, text)
            return self.refused(told) if isinstance(told, ToolResult) else told

        def refused(self, told):
            return ToolResult(text="Error: invalid input.", error=True)


class NotCurt(Curt):
    class State(Curt.State):
        def refused(self, told):
            return told


class Flood(Accounts):
    """The whole journal comes with each answer."""

    class State(Accounts.State):
        pages = 900

        def read(self, account: str):
            """Read an account."""
            journal = "\n".join(f"{n:05d} booked {n * 7919 % 1000} by {account}" for n in range(self.pages))
            return f"{super().read(account)}\n{journal}"


class NoFlood(Flood):
    class State(Flood.State):
        pages = 3


FLAWED = {"a": Silent, "b": Curt, "c": Flood}
CLEAN = {"a": NotSilent, "b": NotCurt, "c": NoFlood}
