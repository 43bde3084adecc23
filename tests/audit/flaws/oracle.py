"""Environments whose own oracle is not always paid."""

from base_answers import Numbers, Reciter, Register, Sums


class Stale(Sums):
    """The verdict has a wrong answer for some tasks."""

    def judge(self, said, data):
        wrong = int(data["answer"]) % 3 == 0
        return said == str(int(data["answer"]) + wrong)


class Tight(Register):
    """The limit of turns is below what the way takes."""

    turns = 2


class Typed(Numbers):
    """The schema asks for what the judge does not take."""

    def judge(self, said, data):
        return isinstance(said, str) and said == str(data["answer"])


class Roomy(Register):
    turns = 4

    def oracle(self, task):
        return Reciter([*self.route(task.data), (self.tool, {self.argument: task.data["answer"]})])


FLAWED = {"a": Stale, "b": Tight, "c": Typed}
CLEAN = {"a": Sums, "b": Roomy, "c": Numbers}
