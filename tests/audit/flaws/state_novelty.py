"""Environments whose answers tell nothing: whatever is done, a tool says the same."""

from base_worlds import Accounts, Field, Letter


class Acknowledges(Letter):
    """The letter is in the prompt, and each call is noted."""

    class State(Letter.State):
        def show(self):
            """Show the letter."""
            return self.says(super().show())

        def set_line(self, line: int, text: str):
            """Replace a line."""
            return self.says(super().set_line(line, text))

        def says(self, told):
            return "ok"


class Tells(Acknowledges):
    class State(Acknowledges.State):
        def says(self, told):
            return told


class Stands(Field):
    """What is seen is always what was seen at first."""

    class State(Field.State):
        def look(self):
            """See where you are, and which ways are free."""
            now, self.at = self.at, self.place()
            told = super().look()
            self.at = now
            return told

        def place(self):
            return tuple(self.data["start"])

        def move(self, way: str, steps: int = 1):
            """Go north, south, west or east."""
            return self.moved(super().move(way, steps))

        def moved(self, told):
            return "moved"


class Moves(Stands):
    class State(Stands.State):
        def place(self):
            return self.at

        def moved(self, told):
            return told


class Counts(Accounts):
    """Only how many requests there were is told."""

    class State(Accounts.State):
        count = 0

        def read(self, account: str):
            """Read an account."""
            self.count += 1
            return self.told(super().read(account))

        def told(self, text):
            return f"Request {self.count} was received. Thank you for using our service."


class CountsAndTells(Counts):
    class State(Counts.State):
        def told(self, text):
            return f"Request {self.count}: {text}"


FLAWED = {"a": Acknowledges, "b": Stands, "c": Counts}
CLEAN = {"a": Tells, "b": Moves, "c": CountsAndTells}
