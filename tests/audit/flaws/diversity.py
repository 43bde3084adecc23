"""Environments whose tasks are all about the same few things."""

import random

from base_worlds import NAMES, WORDS, Accounts, Field, Letter


class SameClients(Accounts):
    """Five accounts in all, with other amounts."""

    pool = NAMES[:5]

    def draw(self, rng, level):
        asked = rng.sample(self.pool, 3)
        accounts = {name: rng.randint(100, 9999) for name in asked}
        return f"What do {', '.join(asked)} hold together?", {"accounts": accounts, "total": sum(accounts.values())}


class AllClients(SameClients):
    pool = NAMES


class OneText(Letter):
    """One text, in which another word is to be replaced each time."""

    def draw(self, rng, level):
        words = self.source(rng).sample(WORDS, 24)
        texts = [" ".join(words[start : start + 4]) for start in range(0, 24, 4)]
        old, new = rng.choice(words), rng.choice([word for word in WORDS if word not in words])
        wanted = [" ".join(new if word == old else word for word in text.split()) for text in texts]
        return f"Write {new} where the letter says {old}.", {"lines": texts, "wanted": wanted, "old": old}

    def source(self, rng):
        return random.Random(7)


class ManyTexts(OneText):
    def source(self, rng):
        return rng


class ThreeFields(Field):
    """Three fields, from whose corners one starts and to which one goes."""

    def draw(self, rng, level):
        prompt, data = super().draw(self.source(rng), level)
        free = [
            [x, y]
            for x in range(data["size"])
            for y in range(data["size"])
            if [x, y] not in data["walls"] and [x, y] != data["goal"]
        ]
        start = rng.choice(free)
        from base_worlds import walk

        moved = {**data, "start": start}
        return (f"You stand at {start}. {prompt}", moved) if walk(moved) else self.draw(rng, level)

    def source(self, rng):
        return random.Random(rng.randrange(3))


class ManyFields(ThreeFields):
    def source(self, rng):
        return rng


FLAWED = {"a": SameClients, "b": OneText, "c": ThreeFields}
CLEAN = {"a": AllClients, "b": ManyTexts, "c": ManyFields}
