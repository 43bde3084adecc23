"""`terminal`: an agent works in a shell, and submits an answer, or the tree of files that it leaves.

What it can touch is a sandbox. What pays it is elsewhere: an answer is compared here; a tree is kept as it was when it
was submitted, the sandbox is closed with all its processes, and programs that we wrote look at the tree, or start the
service that is in it, in a fresh sandbox. What they find is compared here, with values that were never in a sandbox.
"""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from askesis.envs.terminal.drawing import FileContent, Template
from askesis.envs.terminal.guest import EXAMINE
from askesis.envs.terminal.logs import QUESTIONS
from askesis.envs.terminal.policies import Habits, Oracle, Worker
from askesis.envs.terminal.services import SERVICES
from askesis.envs.terminal.trees import WORK
from askesis.envs.terminal.verifying import LIMITS, answered, left, served
from askesis.sandbox import LazyPool
from askesis.tools.terminal import LiveShell, terminal_tools
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
    Snapshot,
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

TEMPLATES: Mapping[str, Template] = QUESTIONS | WORK | SERVICES
_ANSWER = ToolSpec(
    name="submit",
    description="Submit the answer.",
    parameters={"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
)
_DONE = ToolSpec(
    name="submit", description="Submit the files as they are.", parameters={"type": "object", "properties": {}}
)
SHELL_LIMITS = RunLimits(wall_s=1200.0, cpu_s=120.0, memory=512 * 2**20, processes=48, file_size=2**23, output=2**22)
_SUBMITTED = Outcome(by="policy", reason="submitted")


@dataclass(slots=True)
class TerminalState:
    """One episode: its sandbox with a shell in it, and what was submitted."""

    sandbox: Sandbox
    shell: LiveShell
    answer: str | None = None
    commands: int = 0
    closed: bool = False

    async def close(self) -> None:
        """End the shell with all that it started, and delete the tree."""
        if not self.closed:
            self.closed = True
            try:
                await self.shell.close()
            finally:
                await self.sandbox.close()


@dataclass(frozen=True, slots=True)
class _Submit:
    state: TerminalState
    spec: ToolSpec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.answer = str(args.get("answer", ""))
        return ToolResult(text="submitted", end=_SUBMITTED)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A tool that is counted."""

    state: TerminalState
    tool: Tool
    spec: ToolSpec = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", self.tool.spec)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.commands += 1
        return await self.tool(args, session)


class TerminalTasks:
    """The environment. Options:

    templates: kinds of task in use (`TEMPLATES`), drawn evenly. levels: how difficult, drawn evenly. max_turns:
    assistant messages an episode may take. max_turn_tokens: of one message. timeout_s: how long `run` waits where the
    agent does not say; longest_s: the longest that it may say. output: characters of a call's text. workers: shells
    that are open at once; an episode keeps one from its first command on, and waits in line for it. screens: show
    programs that paint the whole screen as they look (needs pyte). Raises `ConfigError` for senseless values.
    """

    name = "terminal"

    def __init__(
        self,
        *,
        templates: Sequence[str] = tuple(TEMPLATES),
        levels: Sequence[int] = (1, 2, 3),
        max_turns: int = 20,
        max_turn_tokens: int = 512,
        timeout_s: float = 10.0,
        longest_s: float = 30.0,
        output: int = 3_000,
        workers: int = 16,
        screens: bool = False,
    ) -> None:
        for template in templates:
            if template not in TEMPLATES:
                raise ConfigError(
                    f"terminal: unknown template {template!r}{nearest(template, TEMPLATES)} "
                    f"(known: {', '.join(TEMPLATES)})"
                )
        if not templates or not levels or not set(levels) <= {1, 2, 3}:
            raise ConfigError(
                f"terminal: templates={list(templates)} and levels={list(levels)}: expected some templates, and levels "
                "out of 1, 2, 3"
            )
        self._templates, self._levels = tuple(templates), tuple(levels)
        self._limits = Limits(
            max_turns=max_turns, max_turn_tokens=max_turn_tokens, wall_s=600.0, tool_s=longest_s + 20.0
        )
        self._output, self._screens = output, screens
        self._times = {"timeout_s": timeout_s, "longest_s": longest_s}
        self._sandboxes = LazyPool(
            size=workers, limits=LIMITS, preload=("io", "json", "hashlib", "tarfile"), programs=(EXAMINE,)
        )

    # -- tasks ---------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000). A task's split follows from a hash of its content: none is in both."""
        rng = random.Random(f"terminal/{split}/{seed}")
        found: dict[str, Task] = {}
        while len(found) < (1000 if limit is None else limit):
            task = self._task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    def _task(self, rng: random.Random, split: Split) -> Task:
        template, level = rng.choice(self._templates), rng.choice(self._levels)
        drawn = TEMPLATES[template](rng, level)
        data = {
            "template": template,
            "level": level,
            "files": dict(drawn.files),
            "check": dict(drawn.check),
            "solution": list(drawn.solution),
        }
        return Task(env=self.name, prompt=drawn.prompt, data=data, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> TerminalState:
        """A fresh sandbox with the task's tree; its shell starts with the first command.

        Raises `EnvError` for a task that is not of this shape.
        """
        missing = [key for key in ("files", "check", "solution") if key not in task.data]
        if missing:
            raise EnvError(
                f"terminal: task {task.id} has no {', '.join(missing)} in its data; was it made by "
                "`TerminalTasks.tasks`?"
            )
        sandbox = await self._sandboxes.acquire()
        try:
            state = TerminalState(
                sandbox, LiveShell(sandbox, output=self._output, screens=self._screens, limits=SHELL_LIMITS)
            )
            for path, content in task.data["files"].items():
                await sandbox.write(path, packed(content))
        except BaseException:
            await sandbox.close()
            raise
        return state

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """run, keys, submit."""
        state = _terminal_state(state)
        run, keys = terminal_tools(state.shell, **self._times)
        spec = _ANSWER if task.data["check"]["kind"] == "answer" else _DONE
        return (_Counted(state, run), keys, _Submit(state, spec))

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0, and metrics of weight 0. Only what was submitted is judged."""
        state = _terminal_state(state)
        check, solved = trace.task.data["check"], False
        if trace.outcome.reason == _SUBMITTED.reason and state.answer is not None:
            if check["kind"] == "answer":
                solved = answered(check, state.answer)
            else:
                solved = await self._judged(check, await self._left(state))
        await state.close()
        return [
            Reward(name="success", value=float(solved)),
            Reward(name="commands", value=float(state.commands), weight=0.0),
            Reward(name="level", value=float(trace.task.data["level"]), weight=0.0),
        ]

    async def _left(self, state: TerminalState) -> Snapshot:
        """The tree, after which nothing of the agent's lives."""
        try:
            await state.shell.close()
            return await state.sandbox.snapshot()
        except SandboxError as error:
            raise VerifierError(f"terminal: the tree could not be kept: {error}") from error
        finally:
            await state.close()

    async def _judged(self, check: Mapping[str, Any], snapshot: Snapshot) -> bool:
        return await (left if check["kind"] == "tree" else served)(check, snapshot, self._sandboxes)

    async def close(self) -> None:
        """Stop the sandbox workers."""
        await self._sandboxes.close()

    # -- scripted policies -----------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Succeeds at every task."""
        return Oracle(task)

    def impossible(self, task: Task) -> Task:
        """The task with another verdict wanted than any work can bring about: a canary."""
        check = dict(task.data["check"])
        if check["kind"] == "tree":
            check["files"] = dict.fromkeys(check["files"], "0" * 64) or {"canary": "0" * 64}
        else:
            check["want"] = [f"no {value}" for value in check["want"]]
        return replace(task, data={**task.data, "check": check})

    def demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        """Knows the commands; with `poor` habits for the cold start, or `good` ones."""
        habits = {"poor": Habits(), "good": Habits.good()}
        if quality not in habits:
            raise ConfigError(f"terminal: unknown demonstration quality {quality!r}{nearest(quality, habits)}")
        return Worker(task, seed=seed, habits=habits[quality])


def packed(content: FileContent) -> bytes:
    """The bytes of a file of a task, the same at every time."""
    if isinstance(content, str):
        return content.encode()
    if "gz" in content:
        return gzip.compress(content["gz"].encode(), mtime=0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in content["tar"].items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _terminal_state(state: State) -> TerminalState:
    if not isinstance(state, TerminalState):
        raise EnvError(f"terminal: got a state of type {type(state).__name__}, expected the one from `setup`")
    return state
