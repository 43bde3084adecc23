"""Environments that look for the answer within whatever was given."""

import re

from base_answers import Numbers, Register, Said, Sums, same


class Contains(Sums):
    def judge(self, said, data):
        return data["answer"] in said


class Begins(Register):
    """A pattern that is anchored at its beginning only."""

    def judge(self, said, data):
        return re.match(re.escape(data["answer"]), said.strip(), re.IGNORECASE) is not None


class Overlap(Register):
    """All the answer's words are somewhere in it, in any order, beside any others."""

    def judge(self, said, data):
        return set(data["answer"].split()) <= set(re.findall(r"\w+", said.casefold()))


class Labelled(Said):
    """The clean twin of a judge of free text: the last line, whole."""

    def judge(self, said, data):
        return same((said.strip().splitlines() or [""])[-1], data["answer"])


FLAWED = {"a": Contains, "b": Begins, "c": Overlap}
CLEAN = {"a": Sums, "b": Register, "c": Labelled, "d": Numbers}
