"""Environments that refuse a right answer for how it is written."""

import hashlib

from base_answers import Numbers, Register, Said, Sorting, Sums


class Exact(Sums):
    """Letter by letter."""

    def judge(self, said, data):
        return said == data["answer"]


class Hashed(Register):
    """Only a hash of the answer is kept, of the text as it came."""

    def judge(self, said, data):
        want = hashlib.sha256(data["answer"].encode()).hexdigest()
        return hashlib.sha256(said.encode()).hexdigest() == want


class Lined(Said):
    """What is said must be one line of digits to the end of the text."""

    def judge(self, said, data):
        return said.isdigit() and int(said) == int(data["answer"])


class HashedPlain(Register):
    def judge(self, said, data):
        from base_answers import plain

        want = hashlib.sha256(plain(data["answer"]).encode()).hexdigest()
        return hashlib.sha256(plain(said).encode()).hexdigest() == want


FLAWED = {"a": Exact, "b": Hashed, "c": Lined}
CLEAN = {"a": Sums, "b": HashedPlain, "c": Said, "d": Numbers, "e": Sorting}
