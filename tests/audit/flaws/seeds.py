"""Environments that do not heed the seed that they are given."""

import random

from base_worlds import Accounts, Field, Letter


class Ignored(Accounts):
    """One list of tasks for every seed."""

    def tasks(self, split, *, seed=0, limit=None):
        return super().tasks(split, seed=self.used(seed), limit=limit)

    def used(self, seed):
        return 0


class Heeded(Ignored):
    def used(self, seed):
        return seed


class Unseeded(Letter):
    """Tasks are drawn from Python's own source of chance, which others draw from too."""

    def draw(self, rng, level):
        return super().draw(self.source(rng), level)

    def source(self, rng):
        return random


class Seeded(Unseeded):
    def source(self, rng):
        return rng


class Cached(Field):
    """What was drawn once is kept, by split alone."""

    def __init__(self):
        self.drawn = {}

    def tasks(self, split, *, seed=0, limit=None):
        key = self.key(split, seed)
        if len(self.drawn.get(key, ())) < (limit or 200):
            self.drawn[key] = super().tasks(split, seed=seed, limit=limit or 200)
        return self.drawn[key][:limit]

    def key(self, split, seed):
        return split


class CachedBySeed(Cached):
    def key(self, split, seed):
        return split, seed


FLAWED = {"a": Ignored, "b": Unseeded, "c": Cached}
CLEAN = {"a": Heeded, "b": Seeded, "c": CachedBySeed}
