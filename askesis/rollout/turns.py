"""Between the episodes of a paced run and who speaks in them: what a scheduler knows of turns, and what it says.

Every request carries a priority, so that an engine which knows priorities (`Sampling.priority`) serves first what the
scheduler wants first. In return the scheduler learns under which version a group's first token was sampled, how many
turns its episodes have taken, which of them wait for the engine, and since when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from askesis.rollout.record import NO_VERSION
from askesis.rollout.speakers import EpisodeSpec, Speaker, Speakers
from askesis.types import Completion, Message, OnTokens, Sampling, Thinking, TokenIds


@dataclass(slots=True, eq=False)
class EpisodeState:
    """The last attempt at an episode. since: when it last changed hands, by the loop's clock; turns: taken so far, by
    its sub-agents too; asking: those that the engine owes it; over: it takes no more."""

    since: float
    turns: int = 0
    asking: int = 0
    over: bool = False


@dataclass(slots=True, eq=False)
class Flight:
    """A group that was drawn and is not whole yet.

    number: its place in the order of drawing. drawn: under which version it was. size: its episodes. first: by episode,
    the version of its first token, or a bound from below while that is on its way. episodes: those that have begun.
    Both go by the episode's seed.
    """

    name: str
    number: int
    drawn: int
    size: int
    first: dict[int, int] = field(default_factory=dict)
    episodes: dict[int, EpisodeState] = field(default_factory=dict)

    @property
    def oldest(self) -> int | None:
        """The version of its first token, or a bound from below; None if nothing was asked for yet."""
        return min((version for version in self.first.values() if version != NO_VERSION), default=None)

    def expected_turns(self, usual: float) -> float:
        """Turns of one of its episodes, judged by what they have taken and how many are over, and by the `usual`.

        The mean of a geometric distribution under a gamma prior that weighs as much as half of the group.
        """
        states, weight = self.episodes.values(), self.size / 2
        return (sum(state.turns for state in states) + usual * weight) / (sum(state.over for state in states) + weight)


class Desk:
    """Where all turns of a paced run pass by.

    version: of the weights that sample now. rank: the priority of a turn of an episode; the lowest is served first.
    turns, ended: turns and attempts so far.
    """

    def __init__(self, version: int, rank: Callable[[Flight, EpisodeState], int]) -> None:
        self.version, self.rank = version, rank
        self.flights: dict[str, Flight] = {}
        self.turns = self.ended = 0

    @property
    def usual_turns(self) -> float:
        """Of an episode so far."""
        return self.turns / max(1, self.ended)

    def speakers(self, inner: Speakers) -> Speakers:
        """`inner`, with an ear on every turn."""
        return _PacedSpeakers(inner, self)


@dataclass(frozen=True, slots=True)
class _PacedSpeakers:
    inner: Speakers
    desk: Desk

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        """The inner speaker, listened to."""
        flight, state = self.desk.flights.get(spec.group), EpisodeState(asyncio.get_running_loop().time())
        if flight is None:  # it was given up a moment ago
            flight = Flight(name=spec.group, number=0, drawn=0, size=1)
        flight.first.pop(spec.seed, None)  # a retry samples anew
        flight.episodes[spec.seed] = state
        return _PacedSpeaker(self.inner.open(spec, episode), self.desk, flight, spec.seed, state)


@dataclass(frozen=True, slots=True)
class _PacedSpeaker:
    inner: Speaker
    desk: Desk
    flight: Flight
    seed: int
    state: EpisodeState
    alone: bool = True  # the episode's own agent, not one of its sub-agents

    @property
    def context_length(self) -> int:
        return self.inner.context_length

    @property
    def priority(self) -> int:
        return self.desk.rank(self.flight, self.state)

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        first = self._asks()
        with self._asking():
            said = await self.inner.speak(tokens, messages, thinking, sampling)
        return self._began(said) if first else said

    async def say(
        self,
        tokens: TokenIds,
        messages: Sequence[Message],
        thinking: Thinking,
        sampling: Sampling,
        *,
        branch: int,
        on_tokens: OnTokens,
    ) -> Completion:
        first = self._asks()
        with self._asking():
            said = await self.inner.say(tokens, messages, thinking, sampling, branch=branch, on_tokens=on_tokens)
        return self._began(said) if first else said

    def spawn(self, name: str, specialist: str) -> Speaker:
        return replace(self, inner=self.inner.spawn(name, specialist), alone=False)

    def close(self) -> None:
        self.inner.close()
        if self.alone and not self.state.over:
            self.state.over = True
            self.desk.ended += 1

    def _asks(self) -> bool:
        """A turn begins; whether it is the episode's first, which decides how old its group is."""
        if self.seed in self.flight.first:
            return False
        self.flight.first[self.seed] = self.desk.version
        return True

    @contextmanager
    def _asking(self) -> Iterator[None]:
        state, clock = self.state, asyncio.get_running_loop().time
        state.asking += 1
        state.since = clock()
        try:
            yield
        finally:
            state.asking -= 1
            state.turns += 1
            state.since = clock()
            self.desk.turns += 1

    def _began(self, said: Completion) -> Completion:
        """Its first tokens are there: from now on the group is as old as they are."""
        versions = said.policy_versions[~said.forced]
        if len(versions):
            self.flight.first[self.seed] = int(versions[0])
        return said
