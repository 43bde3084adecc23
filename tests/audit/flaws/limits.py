"""Environments that leave hardly enough for those who do everything right."""

import asyncio
import time

from base_worlds import Accounts, Field, Letter

from askesis.envs import tool
from askesis.types import Limits


class FewTurns(Field):
    """As many turns as the shortest way takes, at most two more."""

    limits = Limits(max_turns=14)


class MoreTurns(Field):
    limits = Limits(max_turns=40)


class SlowCalls(Accounts):
    """A call takes three quarters of what it may."""

    limits = Limits(max_turns=24, tool_s=0.4)
    waits = 0.3

    def tools(self, task, state):
        async def read(account: str):
            """Read an account."""
            await asyncio.sleep(self.waits)
            return state.read(account)

        return [tool(read), tool(state.answer)]


class QuickCalls(SlowCalls):
    waits = 0.001


class ShortTurns(Letter):
    """A line has to be said in fewer tokens than it has."""

    limits = Limits(max_turns=24, max_turn_tokens=14)


class LongTurns(Letter):
    limits = Limits(max_turns=24, max_turn_tokens=160)


class LittleTime(Letter):
    """An episode's seconds are over when the letter has been read twice."""

    limits = Limits(max_turns=24, wall_s=0.5)
    waits = 0.12

    class State(Letter.State):
        def show(self):
            """Show the letter."""
            time.sleep(LittleTime.waits)
            return super().show()

    def route(self, data):
        route = super().route(data)
        return [*route[:1] * 3, *route[1:]]


class MuchTime(LittleTime):
    limits = Limits(max_turns=24, wall_s=60.0)


FLAWED = {"a": FewTurns, "b": SlowCalls, "c": ShortTurns, "d": LittleTime}
CLEAN = {"a": MoreTurns, "b": QuickCalls, "c": LongTurns, "d": MuchTime}
