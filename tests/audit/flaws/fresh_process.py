"""Environments that are otherwise in another process: by how strings hash, the time zone, the day."""

import datetime
import hashlib
import random
import time

from base_worlds import NAMES, Accounts, Field, Letter


class Hashed(Accounts):
    """Which account is locked follows from `hash` of the prompt."""

    class State(Accounts.State):
        def shown(self, account, found):
            fee = self.number(self.task.prompt + account) % 90 + 10
            return f"{super().shown(account, found)}; keeping it costs {fee}"

        def number(self, text):
            return hash(text)


class Digested(Hashed):
    class State(Hashed.State):
        def number(self, text):
            return int(hashlib.sha256(text.encode()).hexdigest(), 16)


class SetOfNames(Accounts):
    """Tasks are drawn out of a set of strings."""

    pool = tuple(set(NAMES))

    def draw(self, rng, level):
        asked = rng.sample(self.pool, level + 1)
        accounts = {name: rng.randint(100, 9999) for name in asked}
        return f"Sum up {', '.join(asked)}.", {"accounts": accounts, "total": sum(accounts.values())}


class SortedNames(SetOfNames):
    pool = tuple(sorted(set(NAMES)))


class LocalTime(Field):
    """A place's hour is shown as it is on this machine's clock face."""

    class State(Field.State):
        def look(self):
            """See where you are, and how late it is."""
            seconds = 1_700_000_000 + random.Random(self.task.id).randrange(10**7)
            return f"{super().look()}; it is {self.hour(seconds)}"

        def hour(self, seconds):
            return datetime.datetime.fromtimestamp(seconds).strftime("%H:%M")


class UniversalTime(LocalTime):
    class State(LocalTime.State):
        def hour(self, seconds):
            return time.strftime("%H:%M", time.gmtime(seconds))


class Dated(Letter):
    """Tomorrow there are other tasks."""

    def tasks(self, split, *, seed=0, limit=None):
        return super().tasks(split, seed=f"{seed}/{self.day()}", limit=limit)

    def day(self):
        return datetime.date.today()


class Undated(Dated):
    def day(self):
        return "any day"


FLAWED = {"a": Hashed, "b": SetOfNames, "c": LocalTime, "d": Dated}
CLEAN = {"a": Digested, "b": SortedNames, "c": UniversalTime, "d": Undated}
