"""`repair_project`: an agent repairs a fault in a real project, with the project's own tests.

What it can touch is a copy of the project in a sandbox. What pays it is elsewhere: of the tree that it leaves, only the
texts of the source files are taken; they go onto a fresh copy of the project, in a fresh sandbox (`verifying`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from askesis.envs.repair.project.packages import site_folder
from askesis.envs.repair.project.policies import Demonstrator, Habits, Oracle
from askesis.envs.repair.project.running import Bench
from askesis.envs.repair.project.splitting import apply_cuts
from askesis.envs.repair.project.taskfile import TaskFile, read_task_file
from askesis.envs.repair.project.verifying import (
    RULES_LIMITS,
    Verdict,
    broken_files,
    judged,
    judging_s,
    rules_broken,
)
from askesis.sandbox import LazyPool
from askesis.sandbox.warden import longest
from askesis.tools.files import file_tools
from askesis.tools.rendering import bounded
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

MOST_NAMED = 8  # failing tests that a prompt names
SLACK_S = 30.0  # for what a sandbox takes beside the program that runs in it
SHELL_LIMITS = RunLimits(wall_s=1200.0, cpu_s=300.0, memory=2**30, processes=64, file_size=2**24, output=2**22)
_TOOK = re.compile(r" in \d+\.\d+s(?: \(\d+:\d\d:\d\d\))?(?=\s*\Z)")  # else no two runs would say the same
_SUBMITTED = Outcome(by="policy", reason="submitted")
_RUN_TESTS = ToolSpec(
    name="run_tests",
    description="Run the failing tests, or other ones: files or pytest ids, with blanks between.",
    parameters={
        "type": "object",
        "properties": {"tests": {"type": "string"}},
        "additionalProperties": False,
    },
)
_SUBMIT = ToolSpec(
    name="submit", description="Submit the source files as they are.", parameters={"type": "object", "properties": {}}
)


@dataclass(slots=True)
class ProjectState:
    """One episode: its sandbox with the broken project, and how often tests were run in it."""

    bench: Bench
    sandbox: Sandbox
    shell: LiveShell | None = None
    test_runs: int = 0
    closed: bool = False

    async def close(self) -> None:
        """Kill what runs in the sandbox and delete its tree."""
        if not self.closed:
            self.closed = True
            try:
                if self.shell is not None:
                    await self.shell.close()
            finally:
                await self.sandbox.close()


@dataclass(frozen=True, slots=True)
class _RunTests:
    task: Task
    state: ProjectState
    limits: RunLimits
    output: int
    spec: ToolSpec = field(default=_RUN_TESTS)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.test_runs += 1
        tests = str(args.get("tests", "")).split() or [*self.task.data["visible"]]
        if any(test.startswith("-") for test in tests):
            return ToolResult(text="expected files or test ids, no options", error=True)
        result = await self.state.bench.show(self.state.sandbox, tests, self.limits)
        said = "\n".join(part.strip() for part in (result.stdout, result.stderr) if part.strip())
        text = bounded(_TOOK.sub("", said), self.output)
        if result.ended != "exit":
            return ToolResult(text=f"{text}\n[stopped: {result.ended} limit]".strip(), error=True)
        if result.exit_code == 0:
            text += await self._refusal()
        return ToolResult(text=text or f"[pytest ended with {result.exit_code}]", error=result.exit_code not in (0, 1))

    async def _refusal(self) -> str:
        """A word to who passes the tests in a way that is not accepted."""
        bench, sandbox = self.state.bench, self.state.sandbox
        before = {path: bench.project.source(path) for path in bench.project.sources}
        before |= broken_files(bench, self.task.data)
        changed = {}
        for path, text in before.items():
            try:
                now = (await sandbox.read(path)).decode("utf-8", "replace")
            except OSError:
                return f"\n[not accepted like this: {path} is gone]"
            if now != text:
                changed[path] = now
        said = await rules_broken(bench, before, changed) if changed else ""
        return f"\n[not accepted like this: {said}]" if said else ""


@dataclass(frozen=True, slots=True)
class _Submit:
    spec: ToolSpec = field(default=_SUBMIT)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return ToolResult(text="submitted", end=_SUBMITTED)


class RepairProject:
    """The environment. Options:

    tasks: a task file (`askesis envs make-repair PROJECT -o FILE`), or several. levels: in use. kinds: of faults; empty
    for all. max_turns: assistant messages an episode may take. max_turn_tokens: of one message. output: characters of a
    tool's answer. tests_s: seconds that a run of tests may take. memory: bytes of one. workers: programs that run at
    once. terminal: offer a shell too. site: a folder with pytest and what the tests need, in place of the packages that
    are installed here. Raises `ConfigError` for senseless values and for files that are none, `MissingExtra` where
    pytest is not installed.
    """

    name = "repair_project"

    def __init__(
        self,
        *,
        tasks: str | Path | Sequence[str] = (),
        levels: Sequence[int] = (1, 2, 3),
        kinds: Sequence[str] = (),
        max_turns: int = 24,
        max_turn_tokens: int = 1024,
        output: int = 4_000,
        tests_s: float = 60.0,
        memory: int = 2**30,
        workers: int = 8,
        terminal: bool = False,
        site: str = "",
    ) -> None:
        places = [tasks] if isinstance(tasks, str | Path) else [*tasks]
        if not places or places == [""]:
            raise ConfigError(
                "repair_project wants tasks=FILE: make one of any project with tests by "
                "`askesis envs make-repair PROJECT -o FILE`"
            )
        if not levels or not set(levels) <= {1, 2, 3} or output < 200:
            raise ConfigError(
                f"repair_project: levels={list(levels)}, output={output}: expected levels out of 1, 2, 3, and 200 "
                "characters at least"
            )
        self._files: dict[str, TaskFile] = {}
        for place in places:
            found = read_task_file(place)
            self._files[found.project.digest] = found
        self._levels, self._kinds = tuple(levels), frozenset(kinds)
        files = [*self._files.values()]
        known = {fault["kind"] for one in self._files.values() for data in one.tasks for fault in data["faults"]}
        for kind in kinds:
            if kind not in known:
                raise ConfigError(f"repair_project: no task has a fault of kind {kind!r}{nearest(kind, known)}")
        self._sites = {
            digest: [site or str(site_folder(one.requires, without=one.project))] for digest, one in self._files.items()
        }
        # A submission may have no end, and a busy machine may take ten times as long over it: what ends it is always a
        # limit of the sandbox, which is a verdict. Ours is for a machine that fails, which is none.
        most = 1 + max(len(one.project.sources) for one in files)
        rules_s = most * (longest(RULES_LIMITS.wall_s) + SLACK_S)
        self._judging_s = max(2 * tests_s, SLACK_S + max(judging_s(data) for one in files for data in one.tasks))
        self.verify_s = rules_s + longest(self._judging_s) + SLACK_S
        self._limits = Limits(
            max_turns=max_turns,
            max_turn_tokens=max_turn_tokens,
            wall_s=1200.0,
            tool_s=longest(tests_s) + rules_s + SLACK_S,
        )
        self._run_limits = RunLimits(
            wall_s=tests_s, cpu_s=tests_s, memory=memory, processes=64, file_size=2**24, output=2**18
        )
        self._output, self._terminal = output, terminal
        self._sandboxes = LazyPool(
            size=workers,
            limits=self._run_limits,
            tree=2**26,
            files=8192,
            bare=True,
            mounts=sorted({site for sites in self._sites.values() for site in sites}),
        )
        self._benches: dict[str, Bench] = {}

    # -- tasks ---------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """The tasks of a split, in an order that follows from the seed. No function is in both splits."""
        found = [
            self._task(one, data, split)
            for one in self._files.values()
            for data in one.tasks
            if data["split"] == split
            and data["level"] in self._levels
            and (not self._kinds or {fault["kind"] for fault in data["faults"]} <= self._kinds)
        ]
        random.Random(f"repair_project/{split}/{seed}").shuffle(found)
        return found[:limit]

    def _task(self, one: TaskFile, data: Mapping[str, Any], split: Split) -> Task:
        failing = list(data["visible"])
        named = "\n".join(failing[:MOST_NAMED])
        more = f"\nand {len(failing) - MOST_NAMED} more" if len(failing) > MOST_NAMED else ""
        faults = "There is one fault" if len(data["faults"]) == 1 else f"There are {len(data['faults'])} faults"
        places = sorted({path.rpartition("/")[0] or path for path in one.project.sources})
        prompt = (
            f"Repair the project {one.project.name}. These tests fail:\n{named}{more}\n"
            f"{faults} in its sources ({', '.join(places[:6])}{', ...' if len(places) > 6 else ''}). "
            "Change only the bodies of functions that are there; no imports, no new functions or classes at the top. "
            "Tests are not to be changed: other ones decide. Then submit."
        )
        return Task(env=self.name, prompt=prompt, data=data, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> ProjectState:
        """A fresh sandbox with the project, its fault in it and some tests cut out.

        Raises `EnvError` for a task that is not of one of the task files.
        """
        bench = await self._bench(task)
        sandbox = await bench.sandboxes.acquire(bench.snapshot)
        try:
            cuts = [(path, start, end, new) for path, start, end, new in task.data["cuts"]]
            files = apply_cuts(cuts, bench.project.files) | broken_files(bench, task.data)
            for path, text in files.items():
                await sandbox.write(path, text.encode())
        except BaseException:
            await sandbox.close()
            raise
        shell = LiveShell(sandbox, output=self._output, limits=SHELL_LIMITS) if self._terminal else None
        return ProjectState(bench, sandbox, shell)

    async def _bench(self, task: Task) -> Bench:
        digest = str(task.data.get("digest", ""))
        one = self._files.get(digest)
        if one is None:
            have = ", ".join(f"{key} ({known.project.name})" for key, known in self._files.items())
            raise EnvError(
                f"repair_project: task {task.id} is of the project state {digest or '(none)'}, and the task files are "
                f"of {have}: give the file that it was drawn from"
            )
        if digest not in self._benches:
            self._benches[digest] = await Bench.open(
                one.project,
                self._sandboxes,
                RunLimits(
                    wall_s=self._judging_s,
                    cpu_s=self._judging_s,
                    memory=self._run_limits.memory,
                    processes=64,
                    file_size=2**24,
                    output=2**22,
                ),
                sites=self._sites[digest],
                pytest_args=one.pytest_args,
            )
        return self._benches[digest]

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """run_tests, list_files, view, search, edit, write, submit; with a terminal, run and keys."""
        state = _project_state(state)
        shell = terminal_tools(state.shell) if state.shell is not None else ()
        return (
            _RunTests(task, state, self._run_limits, self._output),
            *file_tools(state.sandbox, output=self._output),
            *shell,
            _Submit(),
        )

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0, with the reason as its evidence, and metrics of weight 0. Only a submission is paid."""
        state = _project_state(state)
        verdict = Verdict(False, "nothing was submitted")
        if trace.outcome.reason == _SUBMITTED.reason:
            verdict = await judged(state.bench, trace.task.data, _sources(state.bench, await self._left(state)))
        await state.close()
        return [
            Reward(name="success", value=float(verdict.right), evidence=verdict.why),
            Reward(name="refused", value=float(verdict.why.startswith("refused")), weight=0.0),
            Reward(name="test_runs", value=float(state.test_runs), weight=0.0),
            Reward(name="level", value=float(trace.task.data["level"]), weight=0.0),
        ]

    async def _left(self, state: ProjectState) -> Snapshot:
        """The tree, after which nothing of the agent's lives."""
        try:
            if state.shell is not None:
                await state.shell.close()
            return await state.sandbox.snapshot()
        except SandboxError as error:
            raise VerifierError(f"repair_project: the tree could not be kept: {error}") from error
        finally:
            await state.close()

    async def close(self) -> None:
        """Stop the sandbox workers."""
        await self._sandboxes.close()

    # -- scripted policies -----------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Repairs every task."""
        return Oracle(task, self._texts(task))

    def demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        """Writes demonstrations: `poor` habits for a cold start, `good` ones for comparison."""
        habits = {"poor": Habits(), "good": Habits.good()}
        if quality not in habits:
            raise ConfigError(f"repair_project: unknown demonstration quality {quality!r}{nearest(quality, habits)}")
        return Demonstrator(task, self._texts(task), seed=seed, habits=habits[quality])

    def _texts(self, task: Task) -> dict[str, str]:
        project = self._files[task.data["digest"]].project
        return {fault["path"]: project.source(fault["path"]) for fault in task.data["faults"]}


def _sources(bench: Bench, snapshot: Snapshot) -> dict[str, bytes | None]:
    """What the source files hold; everything else that is in the tree is left there."""
    found: dict[str, bytes | None] = {}
    for path in bench.project.sources:
        try:
            found[path] = snapshot.read(path)
        except OSError:  # gone, or a folder now, or a link out of the tree
            found[path] = None
    return found


def _project_state(state: State) -> ProjectState:
    if not isinstance(state, ProjectState):
        raise EnvError(f"repair_project: got a state of type {type(state).__name__}, expected the one from `setup`")
    return state
