"""Between the episodes of a paced run and who speaks in them: what a scheduler knows of turns, and what it says.

Every request carries the place of its group in the order of drawing as its priority, so that an engine which knows
priorities (`Sampling.priority`) serves the oldest group first. In return the scheduler learns under which version a
group's first token was sampled, which episodes wait for the engine, and since when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from askesis.rollout.record import NO_VERSION
from askesis.rollout.speakers import EpisodeSpec, Speaker, Speakers
from askesis.types import Completion, Message, OnTokens, Sampling, Thinking, TokenIds


@dataclass(slots=True, eq=False)
class EpisodeState:
    """One attempt at an episode in flight. since: when it last changed hands, by the loop's clock; turns: taken."""

    since: float
    turns: int = 0
    asking: int = 0  # turns that the engine owes it


@dataclass(slots=True, eq=False)
class Flight:
    """A group that was drawn and is not whole yet.

    number: its place in the order of drawing. first: by episode, the version of its first token, or a bound from below
    while that is on its way. episodes: those in flight, by seed.
    """

    name: str
    number: int
    size: int
    first: dict[int, int] = field(default_factory=dict)
    episodes: dict[int, EpisodeState] = field(default_factory=dict)

    @property
    def oldest(self) -> int | None:
        """The version of its first token, or a bound from below; None if nothing was asked for yet."""
        return min((version for version in self.first.values() if version != NO_VERSION), default=None)


class Desk:
    """The groups in flight, and the version of the weights that sample now."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.flights: dict[str, Flight] = {}
        self.turns = 0  # taken so far, in all episodes: whether anything moves

    def speakers(self, inner: Speakers) -> Speakers:
        """`inner`, with an ear on every turn."""
        return _PacedSpeakers(inner, self)


@dataclass(frozen=True, slots=True)
class _PacedSpeakers:
    inner: Speakers
    desk: Desk

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        """The inner speaker, listened to."""
        flight = self.desk.flights[spec.group]
        flight.first.pop(spec.seed, None)  # a retry samples anew
        state = EpisodeState(asyncio.get_running_loop().time())
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

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        first = self._asks()
        try:
            said = await self.inner.speak(tokens, messages, thinking, self._ranked(sampling))
        finally:
            self._asked()
        if first:
            self._began(said)
        return said

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
        try:
            said = await self.inner.say(
                tokens, messages, thinking, self._ranked(sampling), branch=branch, on_tokens=on_tokens
            )
        finally:
            self._asked()
        if first:
            self._began(said)
        return said

    def spawn(self, name: str, specialist: str) -> Speaker:
        return replace(self, inner=self.inner.spawn(name, specialist), alone=False)

    def close(self) -> None:
        self.inner.close()
        if self.alone:
            self.flight.episodes.pop(self.seed, None)

    def _ranked(self, sampling: Sampling) -> Sampling:
        return replace(sampling, priority=self.flight.number)

    def _asks(self) -> bool:
        """A turn begins; whether it is the episode's first, which decides how old its group is."""
        first = self.seed not in self.flight.first
        if first:
            self.flight.first[self.seed] = self.desk.version
        self.state.asking += 1
        self.state.since = asyncio.get_running_loop().time()
        return first

    def _asked(self) -> None:
        self.state.asking -= 1
        self.state.turns += 1
        self.state.since = asyncio.get_running_loop().time()
        self.desk.turns += 1

    def _began(self, said: Completion) -> None:
        """Its first tokens are there: from now on the group is as old as they are."""
        versions = said.policy_versions[~said.forced]
        if len(versions):
            self.flight.first[self.seed] = int(versions[0])
