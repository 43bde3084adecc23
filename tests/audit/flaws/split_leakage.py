"""Environments whose held-out tasks can be learned by heart from those to train on."""

import random
from dataclasses import replace

from base_worlds import Accounts, Field, Letter


class NoSplit(Field):
    """Both splits are drawn from the same few tasks."""

    def tasks(self, split, *, seed=0, limit=None):
        every = super().tasks(self.source(split), seed="all", limit=150)
        random.Random(f"{split}/{seed}").shuffle(every)
        return [replace(task, split=split) for task in every[:limit]]

    def source(self, split):
        return "train"


class RealSplit(NoSplit):
    def source(self, split):
        return split


class Numbered(Accounts):
    """The same tasks with another number, by which they count as others."""

    def tasks(self, split, *, seed=0, limit=None):
        found = super().tasks(self.source(split), seed=seed, limit=limit)
        rng = random.Random(f"{split}/{seed}/numbers")
        numbers = [rng.randrange(10**9) for _ in found]
        return [
            replace(task, id="", split=split, data={**task.data, "uid": f"task-{number}"})
            for task, number in zip(found, numbers, strict=True)
        ]

    def source(self, split):
        return "train"


class NumberedAndOther(Numbered):
    def source(self, split):
        return split


class Reworded(Letter):
    """What is held out is what is trained on, asked more politely, with the lines in another order."""

    def tasks(self, split, *, seed=0, limit=None):
        found = super().tasks(self.source(split), seed=seed, limit=limit)
        return [self.polite(task) if split == "heldout" else task for task in found]

    def polite(self, task):
        order = list(range(6))
        random.Random(task.id).shuffle(order)
        data = {**task.data, **{key: [task.data[key][place] for place in order] for key in ("lines", "wanted")}}
        asked = task.prompt.replace("Write ", "Could you PLEASE put ").replace(".", ", wherever it is?")
        return replace(task, id="", split="heldout", prompt=asked, data=data)

    def source(self, split):
        return "train"


class RewordedAndOther(Reworded):
    def source(self, split):
        return split


FLAWED = {"a": NoSplit, "b": Numbered, "c": Reworded}
CLEAN = {"a": RealSplit, "b": NumberedAndOther, "c": RewordedAndOther}
