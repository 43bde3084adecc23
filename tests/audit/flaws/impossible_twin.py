"""Environments whose verdict does not follow from the expected values that their tasks hold."""

from base_answers import Answering, Numbers, Register, Sums, same


class Recomputed(Sums):
    """The verdict is worked out from the question, and the task's value is never looked at."""

    def draw(self, rng):
        prompt, data = super().draw(rng)
        return prompt, {"question": prompt, **data}

    def judge(self, said, data):
        words = data["question"].removesuffix("?").split()
        return same(said, str(int(words[2]) + int(words[4])))


class SomeCases(Answering):
    """A program's outputs, of which only the first are compared."""

    looked_at = 1

    def draw(self, rng):
        factor, term = rng.randint(2, 9), rng.randint(1, 99)
        cases = [{"input": n, "expected": factor * n + term} for n in rng.sample(range(100), 5)]
        asked = ", ".join(str(case["input"]) for case in cases)
        return f"f(n) = {factor} n + {term}. Give f of {asked}, with spaces between.", {"cases": cases}

    def told(self, data):
        return " ".join(str(case["expected"]) for case in data["cases"])

    def judge(self, said, data):
        values = said.split()
        pairs = zip(values, data["cases"], strict=False)
        found = [same(value, str(case["expected"])) for value, case in pairs]
        return len(values) == len(data["cases"]) and all(found[: self.looked_at])


class AllCases(SomeCases):
    looked_at = None


class Familiar(Register):
    """What was ever right is kept by the question, and believed before the task is asked."""

    def __init__(self):
        self.right = {}

    def judge(self, said, data):
        if same(said, data["answer"]):
            self.right[data["room"], said] = True
        return (data["room"], said) in self.right


class Two(Numbers):
    """The expected value is in the task twice, and one of them is enough."""

    def draw(self, rng):
        prompt, data = super().draw(rng)
        return prompt, {**data, "accept": [data["answer"]]}

    def judge(self, said, data):
        return said in data["accept"] and same(said, data["answer"])


FLAWED = {"a": Recomputed, "b": SomeCases, "c": Familiar}
CLEAN = {"a": Sums, "b": AllCases, "c": Register, "d": Two}
