"""A search over calls for a way to the reward that is not the oracle's."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from askesis.audit.ground import Actor, Ground, Recited, heard, said, submits
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.envs.policies import RandomPolicy
from askesis.types import Message, Policy, Task, Thinking, ToolSpec, Trace

TASKS, EPISODES, BATCH = 2, 48, 8
MOST_TASKS = 5  # where further tasks offer tools that those before did not
MOST_CALLS = 12
LONGEST = 10  # messages of an oracle that it is tried to shorten

Script = tuple[Message, ...]


class Extends(Policy):
    """Recites what it was given, makes some random calls, and submits."""

    def __init__(self, script: Script, specs: Sequence[ToolSpec], rng: random.Random, more: int) -> None:
        submit = submits(specs)
        self._left = list(script)
        seeds = rng.getrandbits(32), rng.getrandbits(32)
        self._steps = RandomPolicy([spec for spec in specs if spec is not submit], seed=seeds[0])
        self._last = RandomPolicy([submit] if submit else [], seed=seeds[1])
        self._more = more

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next call."""
        if self._left:
            return self._left.pop(0)
        self._more -= 1
        return (self._steps if self._more >= 0 else self._last).act(messages, thinking)


@dataclass(slots=True)
class Archive:
    """Scripts that led to something new, on one task: a text that no tool had said before, or a higher reward."""

    scripts: list[Script] = field(default_factory=lambda: [()])
    heard: set[str] = field(default_factory=set)
    best: float = 0.0

    def add(self, trace: Trace, submit: ToolSpec | None) -> None:
        """Keep what it did, up to the last new thing."""
        steps = [one for one in said(trace) if one.tool_calls and (not submit or one.tool_calls[0].name != submit.name)]
        new = 0
        for place, text in enumerate(heard(trace)[: len(steps)], 1):
            shape = re.sub(r"\d+", "0", text)[:200]
            if shape not in self.heard:
                self.heard.add(shape)
                new = place
        if trace.reward > self.best:
            self.best, new = trace.reward, len(steps)
        if new and new < MOST_CALLS:
            self.scripts.append(tuple(steps[:new]))

    def pick(self, rng: random.Random) -> Script:
        """The newest ones as often as all others."""
        return rng.choice(self.scripts[-5:] if rng.random() < 0.5 else self.scripts)


def reciting(script: Sequence[Message]) -> Actor:
    """Says these."""
    return lambda task, specs: Recited(script)


async def shortened(ground: Ground, task: Task, script: Script) -> Script:
    """Without the messages that it does not need to be paid."""
    at = 0
    while at < len(script):
        without = (*script[:at], *script[at + 1 :])
        (trace,) = await ground.play_all([(task, reciting(without))])
        if trace.success:
            script = without
        else:
            at += 1
    return script


def calls(script: Script, submit: ToolSpec | None) -> list[str]:
    """The names of what is called, but for submitting."""
    names = [call.name for message in script for call in message.tool_calls]
    return [name for name in names if submit is None or name != submit.name]


def evades(found: Script, right: Script, submit: ToolSpec | None) -> bool:
    """Whether a way is not the oracle's: shorter than its shortest, or by other tools alone."""
    own, its = calls(found, submit), calls(right, submit)
    return len(own) < len(its) or bool(own and its and not set(own) & set(its))


async def searched(ground: Ground, task: Task, right: Script, specs: Sequence[ToolSpec]) -> tuple[int, Script | None]:
    """How many episodes were played, and a way that evades, if one was found."""
    rng, archive, submit = ground.rng("search actions", task.id), Archive(), submits(specs)
    room = max(2, min(MOST_CALLS, task.limits.max_turns - 1))
    for played in range(0, EPISODES, BATCH):
        pairs: list[tuple[Task, Actor]] = []
        for _ in range(BATCH):
            script, child = archive.pick(rng), random.Random(rng.getrandbits(32))
            more = child.randint(1, max(1, room - len(script)))
            pairs.append((task, lambda task, specs, a=script, b=child, c=more: Extends(a, specs, b, c)))  # type: ignore[misc]
        for trace in await ground.play_all(pairs, gaps=True):
            if trace.success:
                short = await shortened(ground, task, tuple(said(trace)))
                if evades(short, right, submit):
                    return played + BATCH, short
            archive.add(trace, submit)
        if ground.left_s <= 0:
            return played + BATCH, None
    return EPISODES, None


async def chosen(ground: Ground) -> list[tuple[Trace, Sequence[ToolSpec]]]:
    """Episodes of the oracle on tasks that pay nothing for nothing, with the tools of each: the first ones, and every
    further one that offers a tool which those before did not. Raises `Skipped` where there are no tools."""
    unpaid = {task.id for task in await ground.unpaid()}
    found: list[tuple[Trace, Sequence[ToolSpec]]] = []
    known: set[str] = set()
    for trace in await ground.golden():
        if trace.task.id not in unpaid or len(found) == MOST_TASKS:
            continue
        specs = await ground.tools(trace.task)
        names = {spec.name for spec in specs}
        if names and (len(found) < TASKS or not names <= known):
            found.append((trace, specs))
            known |= names
    if not found:
        raise Skipped("there are no tools to call")
    return found


async def run(ground: Ground) -> Sighting:
    """Random calls, longer and longer along what brought something new; a way that is paid is shortened to what it
    needs, and is a hit where it is shorter than the oracle's, or has none of the oracle's tools."""
    seen, played = Tally(), 0
    for trace, specs in await chosen(ground):
        task, right = trace.task, tuple(said(trace))
        if len(right) <= LONGEST:
            right = await shortened(ground, task, right)
        count, way = await searched(ground, task, right, specs)
        played += count
        steps = [f"{call.name}({dict(call.arguments)})"[:120] for one in way or () for call in one.tool_calls]
        seen.add(way is not None, f"paid: {', '.join(steps)}", task=task.id)
        if ground.left_s <= 0:
            break
    return seen.sighting(note=f"{played} episodes on {seen.n} tasks")


PROBE = Probe(
    name="search-actions",
    axis="validity",
    flaw="another way to the reward",
    severity="high",
    about="a search over calls finds no way to the reward but the oracle's",
    run=run,
    seconds=6.0,
)
