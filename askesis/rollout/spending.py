"""What an agent and its sub-agents have spent of their limits, and what they may still spend.

What a sub-agent spends counts for every agent above it as well. Turns that are spoken at the same time are promised
what they may take at most, so that together they never take more than there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from askesis.types import Limits, Outcome, Thinking, Waits, in_line


class Spending:
    """Of one agent. thinking: its mode, whose `episode_budget` bounds the thoughts of its part. above: who made it.

    turns, spoken, thought: turns, sampled and forced tokens, and tokens of thought so far, sub-agents' included. waits:
    the episode's; its own time began when this was made.
    """

    __slots__ = (
        "_freed",
        "_promised",
        "_promised_thought",
        "_start",
        "_waited",
        "above",
        "limits",
        "spoken",
        "thinking",
        "thought",
        "turns",
        "waits",
    )

    def __init__(
        self, limits: Limits, thinking: Thinking, *, waits: Waits, start: float, above: Spending | None = None
    ) -> None:
        self.limits, self.thinking, self.above, self.waits = limits, thinking, above, waits
        self.turns = self.spoken = self.thought = 0
        self._promised = self._promised_thought = 0
        self._start, self._waited = start, waits.seconds
        self._freed = asyncio.Event()  # set, and another put in its place, when a promise is over; the topmost's counts

    def chain(self) -> Iterator[Spending]:
        """This and all above it."""
        one: Spending | None = self
        while one is not None:
            yield one
            one = one.above

    @property
    def tool_s(self) -> float:
        """Seconds that one tool call may take."""
        return min(one.limits.tool_s for one in self.chain())

    def own_s(self, now: float) -> float:
        """The agent's and the tools' own seconds since it began: without those in which anybody waited."""
        return now - self._start - (self.waits.seconds - self._waited)

    def over(self, now: float) -> Outcome | None:
        """The limit that leaves no further turn, if any. Tokens are looked at when the context is known."""
        for one in self.chain():
            if one.turns >= one.limits.max_turns:
                return Outcome(by="limit", reason="max_turns", detail=f"{one.turns} turns")
        return self.late(now)

    def late(self, now: float) -> Outcome | None:
        """Whether its time is up."""
        for one in self.chain():
            if (own := one.own_s(now)) > one.limits.wall_s:
                detail = f"{own:.1f} s without the engine's and those in line"
                return Outcome(by="limit", reason="wall_s", detail=detail)
        return None

    def count_turn(self) -> None:
        """One more."""
        for one in self.chain():
            one.turns += 1

    def count_tokens(self, spoken: int, thought: int) -> None:
        """What a turn has taken."""
        for one in self.chain():
            one.spoken += spoken
            one.thought += thought

    # -- tokens ------------------------------------------------------------------------------------------------------

    def bounds(self) -> list[tuple[int, str]]:
        """What bounds the tokens of a turn now, each with the name of its limit."""
        found = []
        for one in self.chain():
            found.append((one.limits.max_turn_tokens, "max_turn_tokens"))
            if one.limits.max_tokens is not None:
                found.append((one.limits.max_tokens - one.spoken - one._promised, "max_tokens"))
        return found

    def left_to_think(self, thinking: Thinking) -> int | None:
        """Most tokens of thought of a turn in this mode now: its own budget, or what is left of those for all turns.

        None for no bound.
        """
        bounds = [] if thinking.budget is None else [thinking.budget]
        budgets = [(self, thinking.episode_budget), *((one, one.thinking.episode_budget) for one in self.chain())]
        bounds += [
            max(0, budget - one.thought - one._promised_thought) for one, budget in budgets if budget is not None
        ]
        return min(bounds, default=None)

    async def room(self, want: int, thinking: Thinking) -> None:
        """Returns when a turn of `want` tokens finds what it may take, or nobody speaks who might leave some of it."""
        *_, top = self.chain()
        while self._crowded(want, thinking):
            with in_line():
                await top._freed.wait()

    def _crowded(self, want: int, thinking: Thinking) -> bool:
        for one in self.chain():
            most, budget = one.limits.max_tokens, one.thinking.episode_budget
            if most is not None and one._promised and most - one.spoken - one._promised < want:
                return True
            if thinking.enabled and budget is not None and one._promised_thought:
                left = budget - one.thought
                wanted = left if thinking.budget is None else min(thinking.budget, left)
                if left - one._promised_thought < wanted:
                    return True
        return False

    @contextmanager
    def promised(self, tokens: int, thought: int) -> Iterator[None]:
        """While a turn is spoken that may take so much."""
        for one in self.chain():
            one._promised += tokens
            one._promised_thought += thought
        try:
            yield
        finally:
            for one in self.chain():
                one._promised -= tokens
                one._promised_thought -= thought
            one._freed.set()
            one._freed = asyncio.Event()
