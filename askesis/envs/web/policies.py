"""Scripted policies for `web`: an oracle, and a demonstrator that knows the tools and is careless.

Both go by what they read: an element is looked for in the newest text of the page, by its role and name, and called by
the reference that stands there. The demonstrator knows what is to be done and slips on the way: leaves a step out,
takes another option, counts wrong, submits before the end. To be careful is for reinforcement to find.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.web.drawing import Step
from askesis.types import Message, Policy, Task, Thinking, ToolCall, assistant

_REF = re.compile(r"\[((?:f\d+)?e\d+)\]")
_MOST_READS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Probabilities. skips: of leaving a step out; slips: of typing or choosing something else; stops: of submitting
    before it is done."""

    skips: float = 0.05
    slips: float = 0.08
    stops: float = 0.03

    @classmethod
    def good(cls) -> Habits:
        """Does all of it, and right."""
        return cls(skips=0.0, slips=0.0, stops=0.0)


def reference(text: str, element: str) -> str | None:
    """The reference of the first line that tells of an element (`button "Save"`); of a name that only begins so, where
    the closing quotation mark is left out."""
    for line in text.splitlines():
        if line.lstrip().lstrip("-").lstrip().lstrip("'").startswith(element) and (found := _REF.search(line)):
            return found[1]
    return None


class Oracle(Policy):
    """Does every task by its solution, through the agent's own tools."""

    def __init__(self, task: Task, *, habits: Habits | None = None, seed: int = 0) -> None:
        self._steps: list[Step] = list(task.data["solution"])
        self._habits = habits or Habits.good()
        self._rng = random.Random(f"{task.id}/{seed}")
        self._at, self._page, self._reads, self._heard = 0, "", 0, 0

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next call."""
        for message in messages[self._heard :]:
            if message.role == "tool" and "\n" in message.text:
                self._page = message.text
        self._heard = len(messages)
        while self._skipped():
            self._at += 1
        thought, call = self._call()
        said = thought if thinking.enabled else ""
        return assistant(reasoning=said, tool_calls=(call,))

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability

    def _skipped(self) -> bool:
        step = self._steps[self._at]
        return step[0] in ("type", "select") and not self._reads and self._chance(self._habits.skips)

    def _call(self) -> tuple[str, ToolCall]:
        step = self._steps[self._at]
        kind = step[0]
        if kind not in ("submit", "open") and self._chance(self._habits.stops):
            self._at = len(self._steps) - 1
            step, kind = self._steps[self._at], "submit"
        if kind in ("click", "type", "select"):
            ref = reference(self._page, step[1])
            if ref is None and self._reads < _MOST_READS:  # further down
                self._reads += 1
                return f"Where is the {step[1]}?", _made("read", part=self._reads)
            self._reads = 0
            self._at += 1
            return self._done(step, ref or "e0")
        self._at = min(self._at + 1, len(self._steps) - 1)
        if kind == "open":
            return "First the page.", _made("open", address=step[1])
        if kind == "dialog":
            return "That is meant.", _made("dialog", accept=True)
        if kind == "write":
            return f"Write {step[1]}.", _made("write", path=step[1], content=step[2])
        return "That is it.", _made("submit", **({"answer": step[1]} if len(step) > 1 else {}))

    def _done(self, step: Step, ref: str) -> tuple[str, ToolCall]:
        if step[0] == "click":
            return f"Click the {step[1]}.", _made("click", ref=ref)
        value = self._slipped(step) if self._chance(self._habits.slips) else step[2]
        if step[0] == "type":
            return f"Fill the {step[1]}.", _made("type", ref=ref, text=value)
        return f"Choose {value}.", _made("select", ref=ref, option=value)

    def _slipped(self, step: Step) -> str:
        """Another value: the next option, another number, a text without its end."""
        if step[0] == "select":
            at = self._page.find(step[1])
            options = re.findall(r'option "([^"]+)"', self._page[at:])
            return self._rng.choice(options[:4]) if options else step[2]
        return str(int(step[2]) + 1) if step[2].isdecimal() else step[2][:-1]


def _made(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(id="call_0", name=name, arguments=arguments)
