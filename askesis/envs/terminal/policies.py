"""The oracle of `terminal`: it runs the commands that a task's template knows, and submits what the last printed."""

from __future__ import annotations

from collections.abc import Sequence
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


def _call(name: str, **arguments: Any) -> Message:
    return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))
