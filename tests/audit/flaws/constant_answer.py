"""Environments in which one answer is right too often."""

from base_answers import Answering, Numbers, Records, Register, Sums


class Primes(Answering):
    """Yes or no; mostly no."""

    def draw(self, rng):
        number = rng.randint(100, 9999)
        prime = all(number % small for small in range(2, int(number**0.5) + 1))
        return f"Is {number} a prime number?", {"answer": "yes" if prime else "no"}


class Listed(Primes):
    """The clean twin: the smallest factor with what is left, as one text."""

    def draw(self, rng):
        number = rng.randint(1000, 99999)
        factor = next((small for small in range(2, number) if number % small == 0), number)
        return f"Write {number} as its smallest factor times the rest.", {"answer": f"{factor} x {number // factor}"}


class FirstChoice(Register):
    """The options come as they were written: the right one first."""

    def draw(self, rng):
        prompt, data = super().draw(rng)
        right, wrong = data["answer"], [held for held in data["holds"].values() if held != data["answer"]]
        options = self.ordered(rng, [right, *wrong])
        listed = " ".join(f"({letter}) {held}" for letter, held in zip("ABCD", options, strict=True))
        return f"{prompt} {listed}. Give the letter.", {**data, "answer": "ABCD"[options.index(right)]}

    def ordered(self, rng, options):
        return options


class Counts(Numbers):
    """How many of something that is nearly always there three times."""

    def draw(self, rng):
        from base_answers import WORDS

        count = rng.choice([3, 3, 3, 3, 2])
        words = rng.sample(WORDS, 9)
        words = [*words[: 9 - count], *([words[-1]] * count)]
        rng.shuffle(words)
        counted = max(words, key=words.count)
        return f"How often is {counted} in: {' '.join(words)}?", {"answer": words.count(counted)}


class Positions(Numbers):
    def draw(self, rng):
        from base_answers import WORDS

        words = [rng.choice(WORDS) for _ in range(40)] + ["needle"]
        rng.shuffle(words)
        return f"Which word, from 1, is needle: {' '.join(words)}?", {"answer": words.index("needle") + 1}


FLAWED = {"a": Primes, "b": FirstChoice, "c": Counts}
CLEAN = {"a": Listed, "b": Register, "c": Positions, "d": Records, "e": Sums}
