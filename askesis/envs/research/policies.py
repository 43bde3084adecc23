"""Scripted policies for `research`: an oracle, and a reader of the generated world whose habits are a parameter.

The reader is good but far from perfect on purpose: it knows the tools and copies well, but often believes what it finds
first. Looking for a second source is for reinforcement to find.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.research.world import REGISTER
from askesis.types import Message, Policy, Task, Thinking, ToolCall, assistant

RAMBLINGS = (
    "Let me take one step after the other.",
    "There may be more to it.",
    "This looks simple enough.",
    "Who knows who wrote that.",
    "I want to be sure.",
)
_HIT = re.compile(r"^(d\d+):\d+ (\w+) (\d+): (.+'s \w+ is (\w+)\.)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a reader behaves; every field is a probability, but `ramblings`: mean idle sentences a turn.

    registers: asks registers alone from the start. first: believes the first hit, whoever says it. second: where no
    register is among the hits, looks for one. later: takes the later of two registers. careless: quotes another hit
    than the one it goes by.
    """

    registers: float = 0.2
    first: float = 0.6
    second: float = 0.4
    later: float = 0.5
    careless: float = 0.08
    ramblings: float = 0.5

    @classmethod
    def good(cls) -> Habits:
        """What a reader of the rules would do."""
        return cls(registers=1.0, first=0.0, second=1.0, later=1.0, careless=0.0, ramblings=0.0)

    @classmethod
    def hasty(cls) -> Habits:
        """Believes what it finds first, always."""
        return cls(registers=0.0, first=1.0, second=0.0, later=0.0, careless=0.0, ramblings=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    document: str
    source: str
    year: str
    sentence: str
    value: str


def call(name: str, **arguments: Any) -> ToolCall:
    """One call."""
    return ToolCall(id="call_0", name=name, arguments=arguments)


def answer(value: str, document: str, quote: str) -> ToolCall:
    """The call that ends an episode, with one quote."""
    return call("answer", quotes=[{"document": document, "quote": quote}], answer=value)


class Reader(Policy):
    """Plays one episode of the generated world by what it reads there."""

    def __init__(self, task: Task, *, seed: int, habits: Habits) -> None:
        self._rng = random.Random(f"{task.id}/{seed}")
        self._habits = habits
        question = task.prompt.rpartition("What is ")[2].rstrip("?").split("'s ")
        self._at, self._relations = question[0], question[1:]

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message: some thoughts (if thinking) and one call."""
        seen = messages[-1].text if messages[-1].role == "tool" else None
        thoughts, made = self._start() if seen is None else self._on_hits(seen)
        if not thinking.enabled:
            return assistant(tool_calls=(made,))
        return assistant(reasoning=" ".join(self._ramble(thoughts)), tool_calls=(made,))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _ramble(self, thoughts: list[str]) -> list[str]:
        mean = self._habits.ramblings
        if self._chance(mean / (1.0 + mean)):
            thoughts.insert(self._rng.randrange(len(thoughts) + 1), self._rng.choice(RAMBLINGS))
        return thoughts

    @property
    def _wanted(self) -> str:
        return f"{self._at}'s {self._relations[0]}"

    def _start(self) -> tuple[list[str], ToolCall]:
        return [f"Find {self._wanted}."], self._search(registers=self._chance(self._habits.registers))

    def _search(self, *, registers: bool) -> ToolCall:
        return call("search", query=self._wanted, **({"source": REGISTER} if registers else {}))

    def _on_hits(self, seen: str) -> tuple[list[str], ToolCall]:
        claims = [
            _Claim(document=id, source=source, year=year, sentence=said, value=value)
            for id, source, year, said, value in _HIT.findall(seen)
        ]
        if not claims:
            return ["Nothing there."], answer("unknown", "d10", "unknown")
        believed, thoughts = self._weigh(claims)
        if believed is None:
            return thoughts, self._search(registers=True)
        if len(self._relations) > 1:
            self._at, self._relations = believed.value, self._relations[1:]
            registers = self._chance(self._habits.registers)
            return [*thoughts, f"Find {self._wanted}."], self._search(registers=registers)
        quoted = self._rng.choice(claims) if self._chance(self._habits.careless) else believed
        return thoughts, answer(believed.value, quoted.document, quoted.sentence)

    def _weigh(self, claims: Sequence[_Claim]) -> tuple[_Claim | None, list[str]]:
        """Which of them to believe, None for none of them yet, and why."""
        registers = [claim for claim in claims if claim.source == REGISTER]
        if not registers and self._chance(self._habits.second):
            return None, ["No register."]
        if self._chance(self._habits.first) or not registers:
            return claims[0], [f"{claims[0].document} says {claims[0].value}."]
        best = registers[0]
        if len(registers) > 1 and self._chance(self._habits.later):
            best = max(registers, key=lambda claim: claim.year)
            return best, [f"{best.document} is later: {best.value}."]
        return best, [f"{best.document} is a register: {best.value}."]


class Walker(Policy):
    """Plays one episode over a corpus whose language it cannot read: it knows the way, and errs as habits have it.

    Of each link it searches and opens what decides. `first`: where a weak source says otherwise of what is asked, it
    believes that, unless it looks for a second one (`second`). `careless`: it quotes the weak source.
    """

    def __init__(self, task: Task, *, seed: int, habits: Habits) -> None:
        rng = random.Random(f"{task.id}/{seed}")
        data = task.data
        self._steps = [(f"Find {hop['query']}.", one) for hop in data["hops"] for one in _walk(hop)]
        ((document, quote), *_), value = data["hops"][-1]["accept"], str(data["answer"])
        told = [(*one, value) for one, value in zip(data["weak"], data["claimed"], strict=True) if value]
        source, why = document, f"{document} says {value}."
        if told and rng.random() < habits.first and rng.random() >= habits.second:
            source, quote, value = rng.choice(told)
            why = f"{source} says {value}."
        elif told and rng.random() < habits.careless:
            source, quote, _ = rng.choice(told)
        self._steps.append((why, answer(value, source, quote[:280])))

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next step."""
        done = sum(message.role == "tool" for message in messages)
        thought, made = self._steps[min(done, len(self._steps) - 1)]
        return assistant(reasoning=thought if thinking.enabled else "", tool_calls=(made,))


def _walk(hop: Mapping[str, Any]) -> list[ToolCall]:
    """How to come to see what decides one link: search, and in a corpus, whose passages are long, open it."""
    calls = [call("search", query=hop["query"])]
    if "passage" in hop:
        calls.append(call("open", document=hop["accept"][0][0], passage=hop["passage"]))
    return calls


def walk(task: Task) -> list[ToolCall]:
    """How to come to see what decides every link. In a world it may stand on a later page of the hits, so it is opened
    there too.
    """
    calls = []
    bodies = {id: body for id, _, _, body in task.data.get("documents", ())}
    for hop in task.data["hops"]:
        calls += _walk(hop)
        document, sentence = hop["accept"][0]
        if document in bodies:
            calls.append(call("open", document=document, passage=bodies[document].split("\n\n").index(sentence) + 1))
    return calls


class Oracle(Policy):
    """Answers every task by knowing what to look for and what to quote, through the agent's own tools."""

    def __init__(self, task: Task) -> None:
        self._answer = str(task.data["answer"])
        self._hops: Sequence[Mapping[str, Any]] = task.data["hops"]
        self._calls = walk(task)

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """Search for every link and open what decides it, then answer."""
        done = sum(message.role == "tool" for message in messages)
        if done < len(self._calls):
            return assistant(tool_calls=(self._calls[done],))
        document, quote = self._hops[-1]["accept"][0]
        return assistant(tool_calls=(answer(self._answer, document, quote),))
