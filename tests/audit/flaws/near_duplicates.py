"""Environments that seem to have many tasks, and have few."""

import random
from dataclasses import replace

from base_worlds import Accounts, Field, Letter


class Few(Letter):
    """A dozen letters, again and again, each time under another file number."""

    kinds = 12

    def task(self, rng, split):
        kind = random.Random(f"{split}/{rng.randrange(self.kinds)}")
        task = super().task(kind, split)
        return replace(task, id="", data={**task.data, "file": f"{rng.randrange(10**9):09d}"})


class Many(Few):
    kinds = 10**9


class Shuffled(Accounts):
    """The same accounts in other orders, greeted otherwise."""

    base = 40

    def draw(self, rng, level):
        prompt, data = super().draw(random.Random(f"accounts {rng.randrange(self.base)}"), level)
        names = list(data["accounts"])
        rng.shuffle(names)
        greeting = rng.choice(["", "Hello! ", "Dear assistant: ", "Now, ", "QUESTION. "])
        return greeting + prompt, {**data, "accounts": {name: data["accounts"][name] for name in names}}


class Unshuffled(Shuffled):
    base = 10**9


class OneCorner(Field):
    """The same walls and ways, with one wall put elsewhere where nobody comes."""

    base = 25

    def draw(self, rng, level):
        prompt, data = super().draw(random.Random(f"field {rng.randrange(self.base)} {level}"), level)
        return prompt, {**data, "walls": [*data["walls"], [rng.randrange(50, 60), rng.randrange(50, 99)]]}


class ManyCorners(OneCorner):
    base = 10**9


FLAWED = {"a": Few, "b": Shuffled, "c": OneCorner}
CLEAN = {"a": Many, "b": Unshuffled, "c": ManyCorners}
