"""Scripted policies for `team`: an orchestrator and its clerks go by what they read; their habits are a parameter.

The poor ones know the tools, and are far from perfect on purpose: they believe the first report where two offices
should be asked, and the first card where another is later. To compare is for reinforcement to find.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.team.world import OFFICES, SHIPS, THAT, TRAITS, Fact
from askesis.types import Message, Policy, Thinking, ToolCall, assistant

_KEEPS = re.compile(rf"\b({'|'.join(OFFICES)}): ([a-z, ]+)")
_PART = re.compile(rf"({THAT}|\w+)'s (\w+)")
_CARD = re.compile(r"^day (\d+): (\w+)'s (\w+) is (\w+)\.$", re.MULTILINE)
_REPORT = re.compile(r"(\w+)'s (\w+) is (\w+), day (\d+)")
_MORE = re.compile(r"\(\d+ more: page (\d+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How they behave; every field is a probability.

    both: where two offices keep something, asks both. later: of two reports takes the later one. together: asks at once
    for all that does not wait for something else. elsewhere: asks an office that does not keep it. thorough: a clerk
    turns to the next page. latest: a clerk takes the latest card, and not the first.
    """

    both: float = 0.4
    later: float = 0.6
    together: float = 0.5
    elsewhere: float = 0.06
    thorough: float = 0.6
    latest: float = 0.75

    @classmethod
    def good(cls) -> Habits:
        """What a reader of the rules would do."""
        return cls(both=1.0, later=1.0, together=1.0, elsewhere=0.0, thorough=1.0, latest=1.0)

    @classmethod
    def hasty(cls) -> Habits:
        """Believes what it reads first, always."""
        return cls(both=0.0, later=0.0, together=1.0, elsewhere=0.0, thorough=0.0, latest=0.0)


def call(name: str, number: int = 0, **arguments: Any) -> ToolCall:
    """One call."""
    return ToolCall(id=f"call_{number}", name=name, arguments=arguments)


def ask(office: str, ship: str, relation: str, number: int = 0) -> ToolCall:
    """The call that has an office look something up."""
    return call("delegate", number, specialist=office, task=f"{ship}'s {relation}?")


def said(thoughts: Sequence[str], thinking: Thinking, *calls: ToolCall, text: str = "") -> Message:
    """A turn."""
    return assistant(text, reasoning=" ".join(thoughts) if thinking.enabled else "", tool_calls=calls)


class Orchestrator(Policy):
    """Plays an episode by what it is told; as a sub-agent, it is a clerk."""

    def __init__(self, rng: random.Random, habits: Habits) -> None:
        self._rng, self._habits = rng, habits
        self._keeps: Mapping[str, Sequence[str]] = {}
        self._parts: list[Fact] = []
        self._known: dict[int, tuple[int, str]] = {}  # part -> day and value
        self._open: list[tuple[int, str, Fact]] = []  # part, office and what to ask, not asked yet
        self._asked: list[int] = []  # the parts of the calls that are out
        self._begun: set[int] = set()

    def sub_agent(self, name: str, specialist: str) -> Policy:
        """Who works at an office."""
        return Clerk(random.Random(self._rng.random()), self._habits)

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message: some thoughts (if thinking), and calls."""
        thoughts: list[str] = []
        if not self._parts:
            self._read(messages[-1].text)
        else:
            thoughts += self._hear([message.text for message in messages if message.role == "tool"])
        if not self._open:
            self._plan()
        if not self._open:
            values = ", ".join(self._known[part][1] for part in range(len(self._parts)))
            return said([*thoughts, "That is all."], thinking, call("answer", text=values))
        count = len(self._open) if self._chance(self._habits.together) else 1
        out, self._open = self._open[:count], self._open[count:]
        self._asked = [part for part, _, _ in out]
        thoughts += [f"{office} for {ship}'s {relation}." for _, office, (ship, relation) in out]
        return said(thoughts, thinking, *(ask(office, *fact, number) for number, (_, office, fact) in enumerate(out)))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _read(self, prompt: str) -> None:
        """The offices, and the parts of the question."""
        offices, _, question = prompt.partition("\n")
        self._keeps = {office: kept.split(", ") for office, kept in _KEEPS.findall(offices)}
        self._parts = _PART.findall(question)

    def _plan(self) -> None:
        """What can be asked now."""
        for part, (ship, relation) in enumerate(self._parts):
            if part in self._begun or (ship == THAT and part - 1 not in self._known):
                continue
            self._begun.add(part)
            named = self._known[part - 1][1] if ship == THAT else ship
            keepers = [office for office, kept in self._keeps.items() if relation in kept]
            if len(keepers) > 1 and not self._chance(self._habits.both):
                keepers = [self._rng.choice(keepers)]
            if self._chance(self._habits.elsewhere):
                keepers = [self._rng.choice([office for office in self._keeps if office not in keepers] or keepers)]
            self._open += [(part, office, (named, relation)) for office in keepers]

    def _hear(self, results: Sequence[str]) -> list[str]:
        """What the last calls gave."""
        thoughts = []
        for part, text in zip(self._asked, results[len(results) - len(self._asked) :], strict=True):
            found = _REPORT.search(text)
            if found is None:
                made_up = self._rng.choice(TRAITS.get(self._parts[part][1], SHIPS))
                self._known.setdefault(part, (0, made_up))
                thoughts.append("Nothing.")
                continue
            value, day = found[3], int(found[4])
            if part not in self._known:
                self._known[part] = (day, value)
            elif self._chance(self._habits.later):
                before = self._known[part]
                self._known[part] = max(before, (day, value))
                thoughts.append(f"day {self._known[part][0]} is later: {self._known[part][1]}.")
        return thoughts


class Clerk(Policy):
    """A specialist: looks up what it is asked for, and reports."""

    def __init__(self, rng: random.Random, habits: Habits) -> None:
        self._rng, self._habits = rng, habits
        self._asked: Fact = ("", "")
        self._found: list[tuple[int, str]] = []

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next look, or the report."""
        seen = messages[-1]
        if seen.role != "tool":
            asked = _PART.search(seen.text)
            if asked is None:
                return said(["What of what?"], thinking, text="ask for a ship's something")
            self._asked = (asked[1], asked[2])
            return said([f"See {asked[1]}."], thinking, call("look", ship=asked[1]))
        self._found += [
            (int(day), value)
            for day, ship, relation, value in _CARD.findall(seen.text)
            if (ship, relation) == self._asked
        ]
        more = _MORE.search(seen.text)
        if more is not None and self._rng.random() < self._habits.thorough:
            return said(["There is more."], thinking, call("look", ship=self._asked[0], page=int(more[1])))
        ship, relation = self._asked
        if not self._found:
            return said(["No card."], thinking, text=f"no card on {ship}'s {relation}")
        latest = self._rng.random() < self._habits.latest
        day, value = max(self._found) if latest else self._found[0]
        return said([f"day {day}: {value}."], thinking, text=f"{ship}'s {relation} is {value}, day {day}.")


class Oracle(Orchestrator):
    """With good habits nothing is left to chance, and the rules lead to every answer."""

    def __init__(self) -> None:
        super().__init__(random.Random(0), Habits.good())
