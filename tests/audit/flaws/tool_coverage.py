"""Environments with a tool that nobody can use."""

from base_worlds import STEPS, Accounts, Field, Letter

from askesis.types import ToolResult

UP_AND_DOWN = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


class Promised(Letter):
    """A tool that was never written."""

    class State(Letter.State):
        offered = ("show", "count", "set_line", "submit")

        def count(self, word: str):
            """Count how often a word stands in the letter."""
            return self.counted(word)

        def counted(self, word):
            return ToolResult(text="this is not implemented yet", error=True)


class Kept(Promised):
    class State(Promised.State):
        def counted(self, word):
            return f"{word!r} stands there {' '.join(self.lines).split().count(word)} times"


class OtherWords(Field):
    """The tool knows the ways by another name than it says."""

    class State(Field.State):
        offered = ("look", "move", "peek", "done")
        ways = UP_AND_DOWN

        def peek(self, way: str):
            """See how far it is free to the north, south, west or east."""
            if way not in self.ways:
                return f"unknown direction {way}"
            (dx, dy), far = self.ways[way], 0
            while self.free(self.at[0] + dx * (far + 1), self.at[1] + dy * (far + 1)):
                far += 1
            return f"{far} free"

    def route(self, data):
        return [("look", {}), *super().route(data)[1:]]


class SameWords(OtherWords):
    class State(OtherWords.State):
        ways = STEPS

    def route(self, data):
        return [("peek", {"way": "north"}), *super().route(data)]


class Offline(Accounts):
    """A service that is gone; its tool says so, whatever it is asked, and not as an error."""

    class State(Accounts.State):
        offered = ("read", "history", "answer")

        def history(self, account: str):
            """Read what an account held before."""
            return self.found(account)

        def found(self, account):
            return "Service unavailable (503)"


class Online(Offline):
    class State(Offline.State):
        def found(self, account):
            value = self.data["accounts"].get(account)
            return f"{account} held {value // 2}" if isinstance(value, int) else f"{account} held nothing of its own"


FLAWED = {"a": Promised, "b": OtherWords, "c": Offline}
CLEAN = {"a": Kept, "b": SameWords, "c": Online}
