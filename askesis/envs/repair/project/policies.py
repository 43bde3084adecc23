"""Scripted policies for `repair_project`: the oracle, and a demonstrator whose habits are a parameter."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.repair.policies import RAMBLINGS
from askesis.envs.repair.project.mutations import Mutation, candidates
from askesis.types import Message, Policy, Task, Thinking, ToolCall, assistant


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a demonstrator behaves; every field is a probability.

    test_first: runs the tests before anything else. look: views the function. wrong: breaks something else first.
    give_up: submits after that. carry_on: goes on to the second fault. retest: tests again before it submits. ramble:
    an idle sentence in its reasoning.
    """

    test_first: float = 0.9
    look: float = 0.7
    wrong: float = 0.3
    give_up: float = 0.4
    carry_on: float = 0.6
    retest: float = 0.5
    ramble: float = 0.5

    @classmethod
    def good(cls) -> Habits:
        """What a reader of the rules would do."""
        return cls(test_first=1.0, look=1.0, wrong=0.0, give_up=0.0, carry_on=1.0, retest=1.0, ramble=0.0)


class Demonstrator(Policy):
    """Plays one episode from what it knows of the task; `sources` are the project's own texts by path."""

    def __init__(self, task: Task, sources: Mapping[str, str], *, seed: int, habits: Habits) -> None:
        self._rng = random.Random(f"{task.id}/{seed}")
        self._habits, self._sources = habits, sources
        self._faults = [Mutation(**fault) for fault in task.data["faults"]]
        self._steps = self._played()

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message: a thought (if thinking) and one call."""
        thought, name, arguments = next(self._steps, ("Nothing is left to do.", "submit", {}))
        call = ToolCall(id="call_0", name=name, arguments=arguments)
        if not thinking.enabled:
            return assistant(tool_calls=(call,))
        thoughts = [thought, self._rng.choice(RAMBLINGS)] if self._chance(self._habits.ramble) else [thought]
        return assistant(reasoning=" ".join(thoughts), tool_calls=(call,))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _played(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        habits = self._habits
        if self._chance(habits.test_first):
            yield "Run the tests first.", "run_tests", {}
        for number, fault in enumerate(self._faults):
            if number and not self._chance(habits.carry_on):
                break
            left = self._faults[number:]
            now, cured = (_broken(self._sources[fault.path], fault.path, some) for some in (left, left[1:]))
            if self._chance(habits.look):
                around = {"path": fault.path, "start": max(1, fault.line - 15), "end": fault.line + 15}
                yield f"Look at {fault.function} in {fault.path}.", "view", around
            if self._chance(habits.wrong) and (wrong := self._mistake(now, fault)):
                yield "Maybe this is it.", "edit", edit_between(fault.path, now, wrong)
                if self._chance(habits.give_up):
                    break
                yield "That was nothing. Take it back.", "edit", edit_between(fault.path, wrong, now)
            yield (
                f"In {fault.function}, line {fault.line}, {fault.new.strip() or 'nothing'} stands where "
                f"{fault.old.strip()} should.",
                "edit",
                edit_between(fault.path, now, cured),
            )
        if self._chance(habits.retest):
            yield "Test again.", "run_tests", {}
        yield "That should do.", "submit", {}

    def _mistake(self, now: str, fault: Mutation) -> str:
        """The file with one more fault in the function."""
        found = candidates(now, fault.path, most=4, seed=self._rng.randrange(10**6)).get(fault.function, [])
        return self._rng.choice(found).applied(now) if found else ""


class Oracle(Demonstrator):
    """Repairs every task by knowing the answer: for checks of the environment, not for comparison."""

    def __init__(self, task: Task, sources: Mapping[str, str]) -> None:
        super().__init__(task, sources, seed=0, habits=Habits.good())


def _broken(source: str, path: str, faults: Sequence[Mutation]) -> str:
    for fault in sorted((one for one in faults if one.path == path), key=lambda one: -one.start):
        source = fault.applied(source)
    return source


def edit_between(path: str, before: str, after: str) -> dict[str, str]:
    """The arguments of `edit` that turn one text into another: the lines that differ, and as many more as make them
    unique."""
    old, new = before.split("\n"), after.split("\n")
    first = next((at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), 0)
    end = 0
    while end < min(len(old), len(new)) - first and old[-1 - end] == new[-1 - end]:
        end += 1
    last = len(old) - end  # lines [first, last) differ
    more = len(new) - len(old)
    last = max(last, first + 1 - min(0, more))
    while before.count("\n".join(old[first:last])) != 1 or not "\n".join(old[first:last]):
        first, last = max(0, first - 1), min(len(old), last + 1)
    return {"path": path, "old": "\n".join(old[first:last]), "new": "\n".join(new[first : last + more])}
