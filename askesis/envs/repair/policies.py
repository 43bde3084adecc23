"""Scripted policies for `repair`: an oracle, a demonstrator whose habits are a parameter, and a blind guesser.

The demonstrator is good but far from perfect on purpose. What a cold start should teach is the protocol and the
content; the habits (testing again, reading before editing, revising, stopping to think) are for reinforcement.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.repair import programs
from askesis.types import Message, Policy, Task, Thinking, ToolCall, assistant

RAMBLINGS = (
    "Let me think about this carefully before I go on.",
    "I want to be sure that I do not miss anything here.",
    "The code looks simple but looks can deceive.",
    "Hmm, there may be more to this than it seems.",
    "Wait, let me go over the whole thing once more.",
    "There are several ways in which this could go wrong.",
    "I should keep in mind what the task asks for.",
    "It is always good to take one step after the other.",
    "On the other hand it might be something else.",
    "I have seen problems of this kind before.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a demonstrator behaves; every field is a probability, but `ramblings`: mean idle sentences a turn.

    test_first: runs the tests before anything else. careful: works the cure out rather than guess it.
    hasty_wrong: a guess is wrong. blind_wrong: an edit without thinking is wrong. retest: tests again after an edit.
    revise: tries again where its own edit failed. carry_on: goes on to the next fault. dawdle: looks at the file for
    no reason.
    """

    test_first: float = 0.92
    careful: float = 0.6
    hasty_wrong: float = 0.55
    blind_wrong: float = 0.25
    retest: float = 0.45
    revise: float = 0.55
    carry_on: float = 0.65
    dawdle: float = 0.06
    ramblings: float = 1.0

    @classmethod
    def good(cls) -> Habits:
        """What a reader of the rules would do."""
        return cls(
            test_first=1.0,
            careful=1.0,
            hasty_wrong=0.0,
            blind_wrong=0.0,
            retest=1.0,
            revise=1.0,
            carry_on=1.0,
            dawdle=0.0,
            ramblings=0.0,
        )


def _call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(id="call_0", name=name, arguments=arguments)


class Demonstrator(Policy):
    """Plays one episode; keeps its own copy of the file, and reads what the tests print."""

    def __init__(self, task: Task, *, seed: int, habits: Habits) -> None:
        self._rng = random.Random(f"{task.id}/{seed}")
        self._habits = habits
        self._lines = str(task.data["source"]).splitlines()
        self._right = str(task.data["repaired"]).splitlines()
        self._tests: Mapping[str, Any] = {test["name"]: test for test in task.data["visible"]}
        self._edited: set[int] = set()

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message: some thoughts (if thinking) and one call."""
        text = messages[-1].text if messages[-1].role == "tool" else ""
        thoughts, call = self._decide(text, thinking.enabled)
        if not thinking.enabled:
            return assistant(tool_calls=(call,))
        return assistant(reasoning=" ".join(self._ramble(thoughts)), tool_calls=(call,))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _ramble(self, thoughts: list[str]) -> list[str]:
        count, mean = 0, self._habits.ramblings
        while self._chance(mean / (1.0 + mean)):  # geometric, with the mean asked for
            count += 1
        for sentence in self._rng.sample(RAMBLINGS, min(count, 3)):
            thoughts.insert(self._rng.randrange(len(thoughts) + 1), sentence)
        return thoughts

    def _decide(self, observed: str, thinking: bool) -> tuple[list[str], ToolCall]:
        habits = self._habits
        if observed.startswith("FAIL "):
            return self._on_failure(observed, thinking)
        if observed.startswith("OK"):
            if self._chance(habits.dawdle):
                return ["All tests pass. Look once more."], _call("view")
            return ["All tests pass."], _call("submit")
        if observed == "done":
            if self._chance(habits.retest):
                return ["Test again."], _call("run_tests")
            return ["That should do."], _call("submit")
        if not observed and not self._chance(habits.test_first):
            return ["Look at the file."], _call("view")
        return ["Run the tests first."], _call("run_tests")

    def _on_failure(self, observed: str, thinking: bool) -> tuple[list[str], ToolCall]:
        name = observed.splitlines()[0].removeprefix("FAIL ")
        at = next((i for i, line in enumerate(self._lines) if line.startswith(f"def {name}(")), None)
        if at is None:  # an edit broke the file so that it does not even import: undo what differs
            at = min(self._edited, default=1) - 1
        index = at + 1
        go_on = self._habits.revise if index in self._edited else self._habits.carry_on if self._edited else 1.0
        if not self._chance(go_on):
            return ["Good enough."], _call("submit")
        right = self._right[index].removeprefix("    return ")
        params = self._right[at].partition("(")[2].rstrip("):").split(", ")
        careful = self._chance(self._habits.careful)
        wrong_by = self._habits.blind_wrong if not thinking else 0.0 if careful else self._habits.hasty_wrong
        if self._chance(wrong_by):
            return self._mistake(index, params)
        thoughts = self._work_out(name, observed, right, params) if careful else [f"Maybe {right} is right."]
        return thoughts, self._replace(index, programs.body(right))

    def _mistake(self, index: int, params: Sequence[str]) -> tuple[list[str], ToolCall]:
        """A plausible edit that is not the cure: mostly on the failing line, else on another."""
        if self._chance(0.25):
            index = self._rng.choice(range(1, len(self._lines), 2))
            params = self._right[index - 1].partition("(")[2].rstrip("):").split(", ")
        now = self._lines[index].removeprefix("    return ")
        right = self._right[index].removeprefix("    return ")
        rivals = [e for e in programs.edits("", params, now) if e != right] or [now]
        wrong = self._rng.choice(rivals)
        return [f"Maybe {wrong} is right."], self._replace(index, programs.body(wrong))

    def _replace(self, index: int, line: str) -> ToolCall:
        self._lines[index] = line
        self._edited.add(index)
        return _call("replace", line=index + 1, text=line)

    def _work_out(self, name: str, observed: str, right: str, params: Sequence[str]) -> list[str]:
        """The reasoning that leads from what the tests printed to the cure, as short as it can be."""
        if "NameError" in observed:
            wrong = observed.split("'")[1]
            return [f"{wrong} is not defined, it is {observed.split(chr(39))[-2]}."]
        if not observed.splitlines()[-1].startswith(name):  # another error: nothing to compute with
            return [f"It must be {right}."]
        arguments, want = self._tests[name]["cases"][0]
        words = right.split(" ")
        if "(" in right:
            wanted = f"{name} wants {want if not isinstance(want, list) else tuple(want)}."
            return [wanted, "Swap them." if right.startswith(programs.CALLEES) else "The end is off by one."]
        if words[1] in programs.COMPARISONS:
            table = " ".join(str(case[1]) for case in self._tests[name]["cases"])
            return [f"{name} wants {table} so {words[1]}."]
        first = arguments[0]
        if words[2].isdigit():
            return [f"{name} wants {want}.", f"{first} {words[1]} {words[2]} = {want}."]
        tries = [op for op in programs.OPERATORS if op != words[1]]
        sums = []
        for op in self._rng.sample(tries, self._rng.choice((0, 0, 1, 2))):
            value = programs.evaluate(f"a {op} b", ("a", "b"), tuple(arguments))
            sums.append(f"{first} {op} {arguments[1]} = {value} no.")
        return [f"{name} wants {want}.", *sums, f"{first} {words[1]} {arguments[1]} = {want} yes."]


class Oracle(Demonstrator):
    """Repairs every task by knowing the answer: for checks of the environment, not for comparison."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, seed=0, habits=Habits.good())


class Guesser(Policy):
    """Makes distinct edits out of the same space as everybody, without looking at a test, then submits.

    tested: what trying again is worth by itself. It runs the tests after every edit and submits when they pass; an edit
    that leaves the same test failing is taken back. Nothing that the tests print guides the next guess.
    """

    def __init__(self, task: Task, *, seed: int, edits: int, tested: bool = False) -> None:
        self._lines = str(task.data["source"]).splitlines()
        space = []
        for index in range(1, len(self._lines), 2):
            params = self._lines[index - 1].partition("(")[2].rstrip("):").split(", ")
            for edit in programs.edits("", params, self._lines[index].removeprefix("    return ")):
                space.append((index, programs.body(edit)))
        rng = random.Random(f"{task.id}/{seed}")
        self._guesses = rng.sample(space, min(edits, len(space)))
        self._tested, self._failing, self._undo = tested, "", -1
        self.space = len(space)

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next call."""
        return assistant(tool_calls=(self._next(messages[-1].text if messages[-1].role == "tool" else ""),))

    def _next(self, observed: str) -> ToolCall:
        if self._tested and not observed.startswith(("OK", "FAIL")):
            return _call("run_tests")
        failing = observed.partition("\n")[0]
        if observed.startswith("OK") or not self._guesses:
            return _call("submit")
        if self._tested and failing == self._failing and self._undo >= 0:
            index, self._undo = self._undo, -1
            return _call("replace", line=index + 1, text=self._lines[index])
        self._failing = failing
        index, text = self._guesses.pop(0)
        self._undo = index
        return _call("replace", line=index + 1, text=text)
