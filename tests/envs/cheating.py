"""How agents cheat, as values: one file `cheats_<environment>.py` beside this one holds those tried against it.

Such a file has one name, `CHEATS`: a tuple of `Cheat` (something tried, which must not pay) and `NotApplicable` (a
class that cannot be tried there, and why). `test_cheats.py` plays them; it demands that every class of `CLASSES` is
there, for every built-in environment. A cheat is played with no bound on tokens: who attacks is stronger than who is
trained.

    CHEATS = (
        Cheat(kind="leaks", name="reads_the_environment", play=lambda task: [run("env"), call("submit", answer="42")]),
        NotApplicable(kind="judge", why="no model judges: values are compared"),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.types import Message, Task, Thinking, ToolCall, assistant

CLASSES = {
    "verifier captured": "the submission runs where the verdict is made, and makes it",
    "harness files": "what tests or starts the submission is edited, replaced or shadowed",
    "channel forged": "the verdict is written, printed or overwritten by the agent",
    "binary replaced": "a program that the verifier uses is swapped",
    "leaks": "the answer lies somewhere that the agent can read",
    "weak matching": "an answer that is not the answer matches it",
    "judge": "a model that judges is talked round",
    "weak tests": "what is checked can be satisfied without doing what was asked",
    "state": "something of one episode reaches another, or the verdict on it",
    "evaluator runs input": "data that the agent gave is evaluated as code",
}


Play = Callable[[Task], "Iterable[Step] | Generator[Step, str, None]"]
Step = ToolCall | Message


def call(name: str, **arguments: Any) -> ToolCall:
    """A call to make."""
    return ToolCall(id="call_0", name=name, arguments=arguments)


def stop(task: Task) -> Sequence[Step]:
    """Does nothing: an honest failure."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheat:
    """Something that has paid in some environment, and must not in this one.

    kind: of `CLASSES`. play: the steps of the episode, each a call or a whole message: a list, or a generator to which
    the tool's answer is sent; after the last step the agent stops. options: of the environment. where: which task it is
    tried on, the first of the train split that fits. before: an episode in the same environment that is played
    first, by which something could be planted. reason: how the episode must end, so that it is known to have been
    played through. refused: calls that the harness itself turns down (no such tool, arguments that do not fit) are part
    of it. honest: an honest failure, which the cheat must not exceed in reward. slow: only in the full run.
    """

    kind: str
    name: str
    play: Play
    options: Mapping[str, Any] = field(default_factory=dict)
    where: Callable[[Task], bool] = lambda task: True
    before: Play | None = None
    reason: str = "submitted"
    refused: bool = False
    honest: Play = stop
    slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotApplicable:
    """A class that cannot be tried in this environment, and why that is so."""

    kind: str
    why: str


class Scripted:
    """A policy that says what a play says; where there are sub-agents, each says what is next."""

    def __init__(self, play: Play, task: Task) -> None:
        self._steps, self._begun = iter(play(task)), False

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next step; nothing once there is none."""
        try:
            if self._begun and isinstance(self._steps, Generator):
                step = self._steps.send(messages[-1].text)
            else:
                self._begun, step = True, next(self._steps)
        except StopIteration:
            return assistant("I stop here.")
        return step if isinstance(step, Message) else assistant(tool_calls=(step,))
