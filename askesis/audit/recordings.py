"""Episodes kept word for word, to be played again: after others, beside others, in another process, under faults.

Two are the same where tools said the same, it ended alike, and the same was paid. What differs between any two runs of
a program (how long something took, addresses, names of temporary files) is no difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from askesis.audit.ground import Ground, Recited, agents, heard, said
from askesis.audit.probe import Inconclusive, Skipped
from askesis.envs.policies import SUBMITS, NullPolicy, RandomPolicy
from askesis.types import Env, Message, Policy, Task, Thinking, ToolSpec, Trace, assistant

AT_ONCE = 8
_CALLS = 6  # of a wanderer
_PASSING = (
    re.compile(r"\b\d+(?:\.\d+)?\s?(?:ms|s|sec|secs|seconds|us|µs)\b"),
    re.compile(r"\b0x[0-9a-fA-F]{6,}\b"),
    re.compile(r"/tmp/[\w./-]+"),
)
_SHOWN = 160  # characters


class Wanderer(Policy):
    """Some random legal calls that do not submit, then a submission with as little in it as may be, then nothing."""

    def __init__(self, specs: Sequence[ToolSpec], *, seed: int, calls: int = _CALLS) -> None:
        self._roaming = RandomPolicy([spec for spec in specs if spec.name not in SUBMITS], seed=seed)
        self._ending, self._left = NullPolicy(specs, how="submit"), calls

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message."""
        self._left -= 1
        if self._left > 0:
            message = self._roaming.act(messages, thinking)
            if message.tool_calls:
                return message
            self._left = 0
        return self._ending.act(messages, thinking) if self._left > -2 else assistant()


@dataclass(frozen=True, slots=True)
class Recording:
    """One episode that the policy or a limit ended. by: who played it."""

    task: Task
    by: str
    trace: Trace

    @property
    def messages(self) -> list[Message]:
        """What was said in it."""
        return said(self.trace)


async def recordings(ground: Ground) -> list[Recording]:
    """The oracle's episodes, where there is an oracle, and a wanderer's; one of each a task. Raises `Inconclusive`
    where not one of them ends as it should."""
    if "recordings" not in ground.kept:
        found: list[Recording] = []
        with contextlib.suppress(Skipped, Inconclusive):
            found += [Recording(trace.task, "the oracle", trace) for trace in await ground.oracle()]
        wandered = await ground.play_each(lambda task, specs: Wanderer(specs, seed=ground.seed))
        found += [Recording(trace.task, "a random policy", trace) for trace in wandered]
        ground.kept["recordings"] = [one for one in found if one.trace.outcome.learnable]
    kept: list[Recording] = ground.kept["recordings"]
    if not kept:
        raise Inconclusive("no episode, neither the oracle's nor a random policy's, comes to an end of its own")
    return kept


async def again(
    ground: Ground, chosen: Sequence[Recording], *, env: Env | None = None, at_once: int = AT_ONCE
) -> list[Trace]:
    """Each played again, word for word, some at once; fewer where the time is up."""
    found: list[Trace] = []
    for first in range(0, len(chosen), at_once):
        if found and ground.left_s <= 0:
            break
        part = chosen[first : first + at_once]
        plays = (
            ground.play(one.task, lambda task, specs, one=one: Recited(one.messages), env=env)  # type: ignore[misc]
            for one in part
        )
        found += await asyncio.gather(*plays)
    return found


async def stable(ground: Ground) -> list[Recording]:
    """Those that go the same way when they are played again at once. Raises `Inconclusive` where none does."""
    if "stable" not in ground.kept:
        kept = await recordings(ground)
        ground.kept["stable"] = [
            one
            for one, trace in zip(kept, await again(ground, kept), strict=False)
            if difference(Seen.of(one.trace), Seen.of(trace)) is None
        ]
    found: list[Recording] = ground.kept["stable"]
    if not found:
        raise Inconclusive("no episode goes the same way when it is played again; see the probe `replay`")
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What of an episode should not depend on when and where it is played."""

    heard: tuple[str, ...]
    end: str
    rewards: tuple[tuple[str, float], ...]
    learnable: bool

    @classmethod
    def of(cls, trace: Trace) -> Seen:
        """Metrics do not count: they may well be of time."""
        rewards = tuple((term.name, term.value) for term in trace.rewards if term.weight or term.name == "success")
        ended = trace.outcome
        return cls(tuple(heard(trace)), f"{ended.by}, {ended.reason}", rewards, ended.learnable)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which two episodes differ."""

    kind: Literal["reward", "observation", "end"]
    text: str


def difference(one: Seen, other: Seen) -> Difference | None:
    """None for none, and where either was ended by the machinery: that is no statement about the environment."""
    if not (one.learnable and other.learnable):
        return None
    for place, (before, after) in enumerate(zip(one.heard, other.heard, strict=False)):
        if settled(before) != settled(after):
            start = next((n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), 0)
            start = max(0, start - 20)
            shown = f"{before[start : start + _SHOWN]!r}, then {after[start : start + _SHOWN]!r}"
            kind: Literal["reward", "observation"] = "reward" if one.rewards != other.rewards else "observation"
            paid = f"; and paid {dict(one.rewards)}, then {dict(other.rewards)}" if kind == "reward" else ""
            return Difference(kind, f"answer {place + 1} was {shown}{paid}")
    if one.rewards != other.rewards:
        return Difference("reward", f"all the answers were the same, and paid was {one.rewards}, then {other.rewards}")
    if one.end != other.end or len(one.heard) != len(other.heard):
        return Difference(
            "end", f"it ended by {one.end} after {len(one.heard)} answers, then by {other.end} after {len(other.heard)}"
        )
    return None


def settled(text: str) -> str:
    """Without what differs between any two runs."""
    for pattern in _PASSING:
        text = pattern.sub("~", text)
    return text


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made. text: the answer; None where the tool gave none. status: `ok`, or an error's kind."""

    name: str
    arguments: Mapping[str, Any]
    text: str | None
    status: str


_UNANSWERED = ("exception", "timeout", "sandbox", "ended")


def calls(trace: Trace) -> list[Made]:
    """In their order."""
    order = [place for places in agents(trace) for place in places]
    made = [call for place in order if trace.nodes[place].sampled for call in trace.nodes[place].message.tool_calls]
    rank = {place: number for number, place in enumerate(order)}
    events = sorted(trace.tool_events, key=lambda event: rank.get(event.node, len(order)))
    answers = iter(heard(trace))
    return [
        Made(
            call.name,
            call.arguments,
            None if event.status in _UNANSWERED else next(answers, None),
            event.status,
        )
        for call, event in zip(made, events, strict=False)
    ]


async def attempts(ground: Ground) -> list[Trace]:
    """The oracle's episodes, whatever came of them. Empty where there is no oracle."""
    with contextlib.suppress(Skipped, Inconclusive):
        await ground.oracle()
    return list(ground.kept["oracle"][0]) if "oracle" in ground.kept else []
