"""Environments that pay everybody the same, in all or in one term."""

from base_worlds import Accounts, Field, Letter

from askesis.types import Reward


class Strings(Accounts):
    """The number is compared with a text."""

    class State(Accounts.State):
        def right(self):
            return self.said == self.wanted()

        def wanted(self):
            return str(self.data["total"])


class Numbers(Strings):
    class State(Strings.State):
        def wanted(self):
            return self.data["total"]


class Style(Letter):
    """Half of the pay is for manners, which everybody has."""

    async def verify(self, trace, state):
        found = await super().verify(trace, state)
        return [*found, Reward(name="manners", value=self.manners(trace), weight=0.5)]

    def manners(self, trace):
        text = " ".join(node.message.text for node in trace.nodes if node.sampled)
        return float("damn" not in text)


class StyleThatVaries(Style):
    def manners(self, trace):
        return max(0.0, 1.0 - 0.1 * sum(node.sampled for node in trace.nodes))


class Haste(Field):
    """Each turn costs, and after the first there is nothing left to lose."""

    async def verify(self, trace, state):
        found = await super().verify(trace, state)
        turns = sum(node.sampled for node in trace.nodes)
        return [*found, Reward(name="haste", value=max(self.floor, -0.25 * turns), weight=0.2)]

    floor = -0.25


class Patience(Haste):
    floor = -100.0


FLAWED = {"a": Strings, "b": Style, "c": Haste}
CLEAN = {"a": Numbers, "b": StyleThatVaries, "c": Patience}
