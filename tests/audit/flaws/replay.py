"""Environments in which the same episode, played twice in one process, goes otherwise."""

import hashlib
import random
import uuid

from base_worlds import Accounts, Field, Letter

from askesis.types import ToolResult


class Flaky(Accounts):
    """The service is sometimes busy, by a source of chance that nobody seeds."""

    class State(Accounts.State):
        def read(self, account: str):
            """Read an account."""
            if self.chance() < 0.3:
                return "the register is busy, ask again later"
            return super().read(account)

        def chance(self):
            return random.random()


class FlakyByTask(Flaky):
    class State(Flaky.State):
        def __init__(self, task):
            super().__init__(task)
            self.chance = random.Random(task.id).random

    def route(self, data):
        return super().route(data)

    def oracle(self, task):
        return Patient(task)


class Patient:
    """Asks again where the register was busy."""

    def __init__(self, task):
        self.calls = Accounts().route(task.data)
        self.place = -1

    def act(self, messages, thinking):
        from askesis.types import ToolCall, assistant

        if "busy" not in messages[-1].text:
            self.place += 1
        name, arguments = self.calls[self.place]
        return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))


class Receipts(Letter):
    """Each change has a number of its own, and nobody can know it before."""

    class State(Letter.State):
        count = 0

        def set_line(self, line: int, text: str):
            """Replace a line."""
            told = super().set_line(line, text)
            self.count += 1
            return told if isinstance(told, ToolResult) else f"change {self.number()}: {told}"

        def number(self):
            return uuid.uuid4()


class ReceiptsByCount(Receipts):
    class State(Receipts.State):
        def number(self):
            return hashlib.sha256(f"{self.task.id} {self.count}".encode()).hexdigest()[:12]


class Thing:
    def __init__(self, name):
        self.name = name


class Unordered(Field):
    """What lies about is kept in a set of objects: their order is that of their places in memory."""

    class State(Field.State):
        def __init__(self, task):
            super().__init__(task)
            names = random.Random(task.id).sample("axe box cup die egg fan gem hat ink jar key log map net".split(), 9)
            self.padding = [bytearray(random.randrange(20, 2000)) for _ in range(20)]
            self.things = {Thing(name) for name in names}

        def look(self):
            """See where you are, what lies about, and which ways are free."""
            return f"{super().look()}; you see {', '.join(thing.name for thing in self.listed())}"

        def listed(self):
            return self.things


class Ordered(Unordered):
    class State(Unordered.State):
        def listed(self):
            return sorted(self.things, key=lambda thing: thing.name)


FLAWED = {"a": Flaky, "b": Receipts, "c": Unordered}
CLEAN = {"a": FlakyByTask, "b": ReceiptsByCount, "c": Ordered}
