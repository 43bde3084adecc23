"""Scripted policies for `terminal`: an oracle, which runs the commands that a task's template knows and submits what
the last one printed, and a worker whose habits are a parameter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from askesis.types import Message, Policy, Task, Thinking, ToolCall, assistant


class Oracle(Policy):
    """Succeeds at every task, by the tools that every agent has."""

    def __init__(self, task: Task) -> None:
        self._commands = list(task.data["solution"])
        self._answers = task.data["check"]["kind"] == "answer"

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next command; after the last one, the submission."""
        if self._commands:
            return _call("run", command=self._commands.pop(0))
        return _call("submit", answer=messages[-1].text) if self._answers else _call("submit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a worker behaves; every field is a probability.

    looks: lists the files before anything else. hurries: leaves the last step out: the end of a pipeline, the last of
    several commands, or all of the work where there is but one. checks: looks at what it has done before it submits.
    """

    looks: float = 0.6
    hurries: float = 0.5
    checks: float = 0.2

    @classmethod
    def good(cls) -> Habits:
        """Looks, does all of it, and looks again."""
        return cls(looks=1.0, hurries=0.0, checks=1.0)


class Worker(Policy):
    """Plays one episode: knows the commands, and is not always careful with them."""

    def __init__(self, task: Task, *, seed: int, habits: Habits) -> None:
        rng = random.Random(f"{task.id}/{seed}")
        self._answers = task.data["check"]["kind"] == "answer"
        self._given = ""
        commands, hurried = list(task.data["solution"]), rng.random() < habits.hurries
        if hurried and self._answers:
            commands = [_without_its_end(commands[-1])]
        elif hurried:
            commands = commands[:-1]
        self._plan = [("Do it.", command, True) for command in commands]
        if rng.random() < habits.looks:
            self._plan.insert(0, ("What is there?", "ls -R | head -n 20", False))
        if not self._answers and rng.random() < habits.checks:
            self._plan.append(("Is it right?", "ls -lR | head -n 20", False))
        self._does = False

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message: a thought (if thinking) and one call."""
        if self._does and messages[-1].role == "tool":
            self._given = messages[-1].text
        if self._plan:
            thought, command, self._does = self._plan.pop(0)
            said = _call("run", command=command)
        else:
            lines = self._given.strip().splitlines()
            thought = "That is it."
            said = _call("submit", answer=lines[0] if lines else "") if self._answers else _call("submit")
        return assistant(reasoning=thought if thinking.enabled else "", tool_calls=said.tool_calls)


def _without_its_end(command: str) -> str:
    """A pipeline without its last part; of a single program, its first lines of input."""
    kept, pipe, _ = command.rpartition(" | ")
    return kept if pipe else "head -qn 1 $(find . -type f | head -n 2)"


def _call(name: str, **arguments: Any) -> Message:
    return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))
