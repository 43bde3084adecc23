"""`repair`: an agent finds a broken Python module, runs its tests, edits lines and submits.

What the agent can touch is one file in a sandbox. What pays it is elsewhere: the file is read out, the sandbox is
closed with all its processes, hidden calls run in a fresh sandbox, and their results are compared as plain data here.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.envs.repair import programs
from askesis.envs.repair.guest import HIDDEN_CALLS, VISIBLE_TESTS, plain, runnable_tests
from askesis.envs.repair.policies import Demonstrator, Guesser, Habits, Oracle
from askesis.sandbox import LazyPool
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Outcome,
    Policy,
    Reward,
    RunLimits,
    Sandbox,
    SandboxError,
    Session,
    Split,
    State,
    Task,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    nearest,
)

FILE, TESTS = "solution.py", "run_tests.py"
_SUBMITS = ("submitted", "exited")
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
SPECS = {
    "run_tests": ToolSpec(name="run_tests", description="Run the tests.", parameters=_NOTHING),
    "view": ToolSpec(name="view", description="Show the file.", parameters=_NOTHING),
    "replace": ToolSpec(
        name="replace",
        description="Replace one line.",
        parameters={
            "type": "object",
            "properties": {"line": {"type": "integer"}, "text": {"type": "string"}},
            "required": ["line", "text"],
        },
    ),
    "submit": ToolSpec(name="submit", description="Submit the file.", parameters=_NOTHING),
}
RUN_LIMITS = RunLimits(wall_s=2.0, cpu_s=2.0, memory=256 * 2**20, processes=4, file_size=2**20, output=2**13)
MAX_OUTPUT = 400  # characters of a tool's answer: a broken line can print a very large number


@dataclass(slots=True)
class RepairState:
    """One episode: its sandbox, and what was seen of it for the metrics. first_edit: the file before and after it."""

    sandbox: Sandbox
    tested: bool = False
    first_edit: tuple[str, str] | None = None
    edits: int = 0
    closed: bool = False

    async def close(self) -> None:
        """Kill what runs in the sandbox and delete its tree."""
        if not self.closed:
            self.closed = True
            await self.sandbox.close()


@dataclass(frozen=True, slots=True)
class _RunTests:
    task: Task
    state: RepairState
    spec: ToolSpec = field(default=SPECS["run_tests"])

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.tested = True
        cases = json.dumps(self.task.data["visible"]).encode()
        result = await self.state.sandbox.python(VISIBLE_TESTS, stdin=cases, limits=RUN_LIMITS)
        if result.ended != "exit":
            return ToolResult(text=f"FAIL tests stopped: {result.ended} limit", error=True)
        text = result.stdout.strip() or result.stderr.strip()
        return ToolResult(text=_cut(text) or f"FAIL tests exited with code {result.exit_code}")


_GONE = ToolResult(text=f"no file {FILE}", error=True)


async def _content(sandbox: Sandbox) -> str | None:
    """The file's text; None where what the agent ran has taken it away: its own doing, and no fault of the tool's."""
    try:
        return (await sandbox.read(FILE)).decode(errors="replace")
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class _View:
    state: RepairState
    spec: ToolSpec = field(default=SPECS["view"])

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        content = await _content(self.state.sandbox)
        return _GONE if content is None else ToolResult(text=numbered(content))


@dataclass(frozen=True, slots=True)
class _Replace:
    state: RepairState
    spec: ToolSpec = field(default=SPECS["replace"])

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        before = await _content(self.state.sandbox)
        if before is None:
            return _GONE
        lines = before.splitlines()
        line, text = int(args["line"]), str(args["text"])
        if not 1 <= line <= len(lines):
            return ToolResult(text=f"no line {line}: the file has {len(lines)} lines", error=True)
        if "\n" in text:
            return ToolResult(text="text must be one line", error=True)
        lines[line - 1] = text
        content = "\n".join(lines) + "\n"
        try:
            await self.state.sandbox.write(FILE, content.encode())
        except OSError as error:
            return ToolResult(text=f"cannot write {FILE}: {error.strerror}", error=True)
        self.state.edits += 1
        if self.state.tested and self.state.first_edit is None:
            self.state.first_edit = (before, content)
        return ToolResult(text="done")


@dataclass(frozen=True, slots=True)
class _Submit:
    spec: ToolSpec = field(default=SPECS["submit"])

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return ToolResult(text="submitted", end=Outcome(by="policy", reason="submitted"))


class Repair:
    """The environment. Options:

    functions: how many functions a module has, drawn evenly out of these. faults: weights of one, two, three faults.
    kinds: fault kinds in use (`programs.FAULTS`). max_turns: assistant messages an episode may take.
    max_turn_tokens: of one message. workers: warm sandbox workers; an agent that is a program holds one while it runs.
    runnable: put `run_tests.py` into the working tree, for such an agent; its exit submits the file. mounts: folders
    that it may read, its packages say; `{prefix}` in them is the virtual environment that Askesis runs in.
    Raises `ConfigError` for senseless values.
    """

    name = "repair"

    def __init__(
        self,
        *,
        functions: Sequence[int] = (2, 3),
        faults: Sequence[float] = (0.6, 0.3, 0.1),
        kinds: Sequence[str] = programs.FAULTS,
        max_turns: int = 12,
        max_turn_tokens: int = 96,
        workers: int = 8,
        runnable: bool = False,
        mounts: Sequence[str] = (),
    ) -> None:
        for kind in kinds:
            if kind not in programs.FAULTS:
                known = ", ".join(programs.FAULTS)
                raise ConfigError(
                    f"repair: unknown fault kind {kind!r}{nearest(kind, programs.FAULTS)} (known: {known})"
                )
        if not kinds or not functions or min(functions) < 1 or max(functions) > len(programs.FUNCTION_NAMES):
            raise ConfigError(f"repair: functions={list(functions)} and kinds={list(kinds)} leave nothing to draw")
        if not 1 <= len(faults) <= 3 or min(faults) < 0 or sum(faults) <= 0:
            raise ConfigError(f"repair: faults={list(faults)}: expected one to three weights, none negative, not all 0")
        self._functions, self._faults, self._kinds = tuple(functions), tuple(faults), tuple(kinds)
        self._limits = Limits(max_turns=max_turns, max_turn_tokens=max_turn_tokens)
        self._runnable = runnable
        self._sandboxes = LazyPool(
            size=workers,
            limits=RUN_LIMITS,
            preload=("io", "json"),
            programs=(VISIBLE_TESTS, HIDDEN_CALLS),
            mounts=[mount.replace("{prefix}", sys.prefix) for mount in mounts],
        )

    # -- tasks ---------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000). A task's split follows from a hash of its content: none is in both."""
        rng = random.Random(f"repair/{split}/{seed}")
        found: dict[str, Task] = {}
        while len(found) < (1000 if limit is None else limit):
            task = self._task(rng, split)
            heldout = int(task.id, 16) % 8 == 0
            if heldout == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    def _task(self, rng: random.Random, split: Split) -> Task:
        functions = rng.choice(self._functions)
        faults = min(functions, rng.choices(range(1, len(self._faults) + 1), self._faults)[0])
        module = programs.draw(rng, functions=functions, faults=faults, kinds=self._kinds)
        written = programs.source(module)
        data = {
            "source": written,
            "repaired": programs.source(module, repaired=True),
            "faults": [function.fault for function in module if function.fault],
            "visible": [
                {
                    "name": f.name,
                    "cases": [[list(c), _json(programs.evaluate(f.reference, f.params, c))] for c in f.visible],
                }
                for f in module
            ],
            "hidden": [
                [f.name, list(c), plain(programs.evaluate(f.reference, f.params, c))]
                for f in module
                for c in (*f.hidden, *f.visible)
            ],
        }
        prompt = f"Repair {FILE}.\n{numbered(written)}"
        return Task(env=self.name, prompt=prompt, data=data, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> RepairState:
        """A fresh sandbox with the broken module in it. Raises `EnvError` for a task that is not of this shape."""
        try:
            content = str(task.data["source"]).encode()
            cases = task.data["visible"], task.data["hidden"]
        except KeyError as error:
            raise EnvError(
                f"repair: task {task.id} has no {error} in its data; was it made by `Repair.tasks`?"
            ) from None
        if not all(cases):
            raise EnvError(f"repair: task {task.id} has no tests")
        state = RepairState(await self._sandboxes.acquire())
        try:
            await state.sandbox.write(FILE, content)
            if self._runnable:
                await state.sandbox.write(TESTS, runnable_tests(json.dumps(task.data["visible"])).encode())
        except BaseException:
            await state.close()
            raise
        return state

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """run_tests, view, replace, submit."""
        state = repair_state(state)
        return (_RunTests(task, state), _View(state), _Replace(state), _Submit())

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0 by the hidden tests, and metrics of weight 0. Only a submission is paid.

        A program submits by its exit; which edits it made on the way nobody has seen, so they are no metric then.
        """
        state = repair_state(state)
        try:
            submission = await state.sandbox.read(FILE)
        except OSError:  # gone, or a folder now, or a link out of the tree: nothing was submitted
            submission = b""
        await state.close()
        solved = trace.outcome.reason in _SUBMITS and await self._passes(trace.task, submission)
        rewards = [
            Reward(name="success", value=float(solved)),
            Reward(name="faults", value=float(len(trace.task.data["faults"])), weight=0.0),
        ]
        if trace.outcome.reason != "exited":
            rewards.insert(1, Reward(name="edits", value=float(state.edits), weight=0.0))
        if state.first_edit is not None:
            cured = _cures_one(trace.task, *state.first_edit)
            rewards.append(Reward(name="first_edit", value=float(cured), weight=0.0))
        return rewards

    async def _passes(self, task: Task, submission: bytes) -> bool:
        """Run the hidden calls in a sandbox that the agent never touched; compare what they print here."""
        hidden = task.data["hidden"]
        calls = json.dumps([[name, arguments] for name, arguments, _ in hidden]).encode()
        try:
            fresh = await self._sandboxes.acquire()
            try:
                await fresh.write(FILE, submission)
                result = await fresh.python(HIDDEN_CALLS, stdin=calls, limits=RUN_LIMITS)
            finally:
                await fresh.close()
        except SandboxError as error:
            raise VerifierError(f"repair: the verifier's sandbox failed: {error}") from error
        lines = result.stdout.splitlines()
        if result.ended != "exit" or result.exit_code != 0 or len(lines) != len(hidden):
            return False
        return all(_same(line, want) for line, (_, _, want) in zip(lines, hidden, strict=True))

    async def close(self) -> None:
        """Stop the sandbox workers."""
        await self._sandboxes.close()

    # -- scripted policies -----------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Repairs every task."""
        return Oracle(task)

    def demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        """Writes demonstrations: `poor` habits for the cold start, `good` ones for comparison."""
        habits = {"poor": Habits(), "good": Habits.good()}
        if quality not in habits:
            raise ConfigError(f"repair: unknown demonstration quality {quality!r}{nearest(quality, habits)}")
        return Demonstrator(task, seed=seed, habits=habits[quality])

    def guesser(self, task: Task, *, seed: int, edits: int, tested: bool = False) -> Policy:
        """Makes `edits` distinct plausible edits without looking, then submits; `tested`: stops where tests pass."""
        return Guesser(task, seed=seed, edits=edits, tested=tested)


def numbered(text: str) -> str:
    """The file as the agent sees it: each line behind its number."""
    return "\n".join(f"{number} {line}" for number, line in enumerate(text.splitlines(), 1))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_OUTPUT else text[:MAX_OUTPUT] + f"... [{len(text) - MAX_OUTPUT} more characters]"


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same(line: str, want: list[Any]) -> bool:
    try:
        return bool(json.loads(line) == want) and json.dumps(json.loads(line)) == json.dumps(want)
    except (ValueError, RecursionError):
        return False


def _cures_one(task: Task, before: str, after: str) -> bool:
    """Whether an edit turned a broken line into the reference, up to spelling that CPython ignores."""
    old, new, right = before.splitlines(), after.splitlines(), str(task.data["repaired"]).splitlines()
    if not len(old) == len(new) == len(right):
        return False
    changed = [i for i in range(len(right)) if old[i] != new[i]]
    return bool(changed) and all(_parsed(old[i]) != _parsed(right[i]) == _parsed(new[i]) for i in changed)


def _parsed(line: str) -> str | None:
    """What CPython makes of one line of the file."""
    text = line.strip()
    try:
        return ast.dump(ast.parse(text + " pass" if text.endswith(":") else text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def repair_state(state: State) -> RepairState:
    """`state` as what `Repair.setup` makes. Raises `EnvError`."""
    if not isinstance(state, RepairState):
        raise EnvError(f"repair: got a state of type {type(state).__name__}, expected the one from `Repair.setup`")
    return state
