"""Environments in which one episode reaches another."""

from base_worlds import Accounts, Field, Letter


class OnTheEnvironment(Field):
    """Where one stands is kept on the environment, which all episodes share."""

    class State(Field.State):
        env = None

        @property
        def at(self):
            return self.env.place if self.env is not None else self.__dict__["at"]

        @at.setter
        def at(self, place):
            if self.env is None:
                self.__dict__["at"] = place
            else:
                self.env.place = place

    async def setup(self, task):
        state = self.State(task)
        state.env, self.place = self, tuple(task.data["start"])
        return state


class OnTheState(OnTheEnvironment):
    async def setup(self, task):
        return self.State(task)


class SharedList(Accounts):
    """A list that stands in the class, and not in the instance."""

    class State(Accounts.State):
        seen = []  # noqa: RUF012  the flaw

        def read(self, account: str):
            """Read an account."""
            told = super().read(account)
            self.seen.append(account)
            return f"{told} ({len(self.seen)} looked at so far)"


class OwnList(SharedList):
    class State(SharedList.State):
        def __init__(self, task):
            super().__init__(task)
            self.seen = []


class KeptByTask(Letter):
    """A task's text is made once and kept; who edits it edits everybody's."""

    def __init__(self):
        self.texts = {}

    async def setup(self, task):
        state = self.State(task)
        state.lines = self.text(task)
        return state

    def text(self, task):
        return self.texts.setdefault(task.id, list(task.data["lines"]))


class CopiedByTask(KeptByTask):
    def text(self, task):
        return list(super().text(task))


FLAWED = {"a": OnTheEnvironment, "b": SharedList, "c": KeptByTask}
CLEAN = {"a": OnTheState, "b": OwnList, "c": CopiedByTask}
