"""Who answers questions from their task's data: always rightly, or now and then with what is nearly right."""

from __future__ import annotations

import random
from collections.abc import Sequence

from askesis.types import Message, Policy, Task, Thinking, ToolCall, assistant


class Answerer(Policy):
    """Answers at once. right: probability of the known answer; else one character of it is another.

    It shows the form of an answer, and no way to it: it has nothing to think.
    """

    def __init__(self, task: Task, *, seed: int, right: float) -> None:
        self._answer, self._right = str(task.data["answer"]), right
        self._rng = random.Random(f"{task.id}/{seed}")

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The one message."""
        said = self._answer if self._rng.random() < self._right else self._missed()
        return assistant(tool_calls=(ToolCall(id="call_0", name="answer", arguments={"answer": said}),))

    def _missed(self) -> str:
        """The answer with one digit or letter replaced by another of its kind, or something at all put in its place."""
        places = [number for number, one in enumerate(self._answer) if one.isascii() and one.isalnum()]
        if not places:
            return "0"
        place = self._rng.choice(places)
        kind = "0123456789" if self._answer[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
        other = self._rng.choice(kind.replace(self._answer[place].lower(), ""))
        return self._answer[:place] + other + self._answer[place + 1 :]
