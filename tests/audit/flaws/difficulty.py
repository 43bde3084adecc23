"""Environments of one difficulty: from which nothing can be learned, for all episodes end alike."""

from base_worlds import Accounts, Field, Letter, Script


class TooEasy(Field):
    """One step, and any step will do."""

    class State(Field.State):
        def right(self):
            return list(self.at) != self.data["start"] if self.data["easy"] else super().right()

    easy = True

    def draw(self, rng, level):
        prompt, data = super().draw(rng, level)
        return (f"You stand at {data['start']}. Go elsewhere." if self.easy else prompt), {**data, "easy": self.easy}

    def route(self, data):
        from base_worlds import walk

        return [("move", {"way": walk(data)[0]}), ("done", {})] if data["easy"] else super().route(data)

    def demonstrator(self, task, *, seed, quality="poor"):
        return Script(self.route(task.data)) if task.data["easy"] else super().demonstrator(task, seed=seed)


class NotTooEasy(TooEasy):
    easy = False


class TooHard(Accounts):
    """Who does not see the whole at once gets nowhere: the demonstrator never succeeds."""

    def demonstrator(self, task, *, seed, quality="poor"):
        return Script(self.shortened(self.route(task.data), task, seed))

    def shortened(self, route, task, seed):
        return self.spoilt(route[1:], task.data)


class NotTooHard(TooHard):
    def shortened(self, route, task, seed):
        return self.spoilt(route[(seed + int(task.id, 16)) % 2 :], task.data)


class ByTask(Letter):
    """Each task is either always done or never, whoever tries how often."""

    def demonstrator(self, task, *, seed, quality="poor"):
        route = self.route(task.data)
        if int(task.id, 16) % 2 or (self.luck(seed) and int(task.id, 16) % 3):
            del route[1]
        return Script(route)

    def luck(self, seed):
        return False


class ByLuck(ByTask):
    def luck(self, seed):
        return seed % 2 == 0


FLAWED = {"a": TooEasy, "b": TooHard, "c": ByTask}
CLEAN = {"a": NotTooEasy, "b": NotTooHard, "c": ByLuck}
