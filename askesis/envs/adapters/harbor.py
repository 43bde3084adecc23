"""`harbor:path/to/folder`: Harbor task folders, one or a folder of them, that need no image.

The agent works in a sandbox on the files of `environment/`, which programs there also find under the task's working
directory (`/app`). After it is gone, the tree that it left goes into a fresh sandbox; only there `tests/` is to be had,
`tests/test.sh` runs, and what it wrote to `/logs/verifier/` is read from outside when all its processes are gone. The
tests share that sandbox with what the agent left: docs/threat_model.md says what follows from that.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from askesis.envs.adapters.harbor_tasks import ORDINARY, HarborTask, Unfit, files_of, found, read
from askesis.envs.adapters.harbor_tests import TESTS, Verdict, Verified, packed, verdict_of
from askesis.sandbox import LazyPool
from askesis.tools.files import file_tools
from askesis.tools.terminal import LiveShell, terminal_tools
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Message,
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
    Terminal,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    assistant,
)

UnfitFolders = Literal["refuse", "skip"]
_SUBMIT = ToolSpec(
    name="submit", description="Submit the files as they are.", parameters={"type": "object", "properties": {}}
)
_SUBMITTED = Outcome(by="policy", reason="submitted")
_LINKS = {"/solution": "/tmp/solution"}
_SHOWN = 8  # reasons in an error
_PIECE = 2400  # characters of a file that one command of the oracle brings


@dataclass(slots=True)
class HarborState:
    """One episode: its sandbox with a shell in it."""

    sandbox: Sandbox
    shell: LiveShell
    closed: bool = False

    async def close(self) -> None:
        """End the shell with all that it started, and delete the tree. Idempotent."""
        if not self.closed:
            self.closed = True
            try:
                await self.shell.close()
            finally:
                await self.sandbox.close()


@dataclass(frozen=True, slots=True)
class _Submit:
    spec: ToolSpec = _SUBMIT

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return ToolResult(text="submitted", end=_SUBMITTED)


class HarborEnv:
    """Harbor task folders. `folder` is one, or a folder of them. Options:

    ordinary: names of base images for which the host's programs stand. unfit: `refuse` a folder in which one cannot be
    run here, or `skip` those. heldout: the share of tasks that is held out, by a hash of the folder. mounts, path:
    folders of the host that programs can read, and that go first in their PATH (a virtual environment with what the
    tests need, say). files: offer the file tools beside the terminal. max_turns, max_turn_tokens: of an episode.
    timeout_s, longest_s: how long `run` waits where the agent does not say, and the longest that it may say. output:
    characters of a call's text. memory, tree: bytes of an episode's programs and of its files, where the folder does
    not say. wall_s: seconds of an episode, where the folder does not say.

    success_at: the reward from which an episode is a success. lowest, highest: the rewards that tests may give. key:
    which reward of several in `reward.json` is paid. workers: sandboxes at work at once. Raises `ConfigError`.
    """

    def __init__(
        self,
        folder: str,
        *,
        ordinary: Sequence[str] = ORDINARY,
        unfit: UnfitFolders = "refuse",
        heldout: float = 0.125,
        mounts: Sequence[str] = (),
        path: Sequence[str] = (),
        files: bool = True,
        max_turns: int = 50,
        max_turn_tokens: int = 1024,
        timeout_s: float = 30.0,
        longest_s: float = 300.0,
        output: int = 4_000,
        memory: int = 2**30,
        tree: int = 2**27,
        wall_s: float = 900.0,
        success_at: float = 1.0,
        lowest: float = 0.0,
        highest: float = 1.0,
        key: str = "reward",
        workers: int = 8,
    ) -> None:
        if unfit not in ("refuse", "skip") or not 0 <= heldout <= 1 or not lowest < highest:
            raise ConfigError(
                f"harbor: unfit={unfit!r}, heldout={heldout}, lowest={lowest}, highest={highest}: expected 'refuse' or "
                "'skip', a share from 0 to 1, and a range"
            )
        self.name = f"harbor:{folder}"
        self._tasks = {one.digest: one for one in _read(Path(folder), ordinary, skip=unfit == "skip")}
        self._heldout = _held_out(list(self._tasks.values()), heldout)
        self._files, self._output, self._times = files, output, {"timeout_s": timeout_s, "longest_s": longest_s}
        self._turns, self._turn_tokens, self._wall_s = max_turns, max_turn_tokens, wall_s
        self._memory, self._path = memory, list(path)
        self._verdict = Verdict(lowest=lowest, highest=highest, key=key)
        self._success_at = success_at
        # The sandbox ends tests at their own limit, which may take ten times as long on a busy machine; twice: control
        self.verify_s = 22 * max(one.verifier_s for one in self._tasks.values()) + 60.0
        self._snapshots: dict[str, Snapshot] = {}
        self._controls: dict[str, Verified] = {}
        self._judging: dict[str, asyncio.Lock] = {}
        limits = RunLimits(
            wall_s=longest_s, cpu_s=longest_s, memory=memory, processes=128, file_size=tree, output=2**20
        )
        named = {one.workdir: "/home/agent" for one in self._tasks.values()}
        shared = {"size": workers, "limits": limits, "tree": tree, "files": 16384, "mounts": tuple(mounts)}
        try:
            self._sandboxes = LazyPool(**shared, links=named | _LINKS)
            self._judges = LazyPool(**shared | {"tree": tree + 2**20, "files": 16400}, links=named | TESTS)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from error

    # -- tasks ---------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """The folders of a split, in an order that the seed draws. Raises `ConfigError` where it has none."""
        chosen = [one for digest, one in self._tasks.items() if (digest in self._heldout) == (split == "heldout")]
        if not chosen:
            raise ConfigError(
                f"{self.name}: {len(self._tasks)} task folders, none of them in the {split!r} split; options.heldout "
                "(0 to 1) shares them out"
            )
        random.Random(f"harbor/{split}/{seed}").shuffle(chosen)
        return [self._task(one, split) for one in chosen[:limit]]

    def _task(self, one: HarborTask, split: Split) -> Task:
        limits = Limits(
            max_turns=self._turns,
            max_turn_tokens=self._turn_tokens,
            wall_s=one.agent_s or self._wall_s,
            tool_s=self._times["longest_s"] + 20.0,
        )
        data = {"folder": one.name, "digest": one.digest}
        return Task(env=self.name, prompt=one.instruction, data=data, limits=limits, split=split)

    def _of(self, task: Task) -> HarborTask:
        one = self._tasks.get(str(task.data.get("digest")))
        if one is None:
            raise EnvError(f"{self.name}: no task folder with the content of task {task.id} ({task.data!r:.100})")
        return one

    # -- episodes ------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> HarborState:
        """A fresh sandbox with the task's files; its shell starts with the first command. Raises `EnvError`."""
        one = self._of(task)
        sandbox = await self._sandboxes.acquire(await self._begun(one))
        variables = {**self._variables(), **one.env}
        limits = RunLimits(
            wall_s=3600.0,
            cpu_s=3600.0,
            memory=min(one.memory or self._memory, self._memory),
            processes=128,
            file_size=2**27,
            output=2**22,
        )
        shell = LiveShell(_With(sandbox, variables), output=self._output, limits=limits)  # type: ignore[arg-type]
        return HarborState(sandbox, shell)

    def _variables(self) -> dict[str, str]:
        from askesis.sandbox.bubblewrap import ENVIRONMENT

        return {"PATH": ":".join([*self._path, ENVIRONMENT["PATH"]])} if self._path else {}

    async def _begun(self, one: HarborTask) -> Snapshot:
        """The tree with which episodes of a task begin."""
        if one.digest not in self._snapshots:
            sandbox = await self._sandboxes.acquire()
            try:
                done = await sandbox.run(["tar", "-x", "--no-same-owner"], stdin=packed(one.files))
                if done.exit_code:
                    raise EnvError(f"{self.name}: {one.name}: its files could not be put in place: {done.stderr:.300}")
                snapshot = await sandbox.snapshot()
                if snapshot.lost:
                    raise EnvError(f"{self.name}: {one.name}: its files are more than options.tree holds")
                self._snapshots[one.digest] = snapshot
            finally:
                await sandbox.close()
        return self._snapshots[one.digest]

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """run, keys, the file tools, submit."""
        state = _harbor_state(state)
        run = terminal_tools(state.shell, **self._times)
        return (*run, *(file_tools(state.sandbox, output=self._output) if self._files else ()), _Submit())

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """What the tests say of the tree, however the episode ended, as Harbor has it.

        Raises `VerifierError` where the folder's tests give no valid reward on the tree that episodes begin with
        either; where they give one there, what the agent left has broken them, and it gets the lowest reward.
        """
        one, state = self._of(trace.task), _harbor_state(state)
        try:
            await state.shell.close()
            snapshot = await state.sandbox.snapshot()
        except SandboxError as error:
            raise VerifierError(f"{self.name}: the tree could not be kept: {error}") from error
        finally:
            await state.close()
        verified = await self._tested(one, snapshot)
        if verified.wrong:
            control = await self._control(one)
            if control.wrong:
                raise VerifierError(f"{self.name}: {one.name}: {verified.wrong}; on an untouched tree: {control.wrong}")
        reward = verified.reward if not verified.wrong else self._verdict.lowest
        return [
            Reward(name="success", value=float(reward >= self._success_at), weight=0.0),
            Reward(name="reward", value=reward, evidence=verified.wrong or verified.said),
            *(Reward(name=f"tests/{name}", value=value, weight=0.0) for name, value in verified.others.items()),
            Reward(name="tests_broken", value=float(bool(verified.wrong)), weight=0.0),
        ]

    async def _control(self, one: HarborTask) -> Verified:
        """What the tests say of a tree that nobody touched.

        A verdict there is remembered. That there is none may have been the machine's doing: it is asked again, by all
        who wait for it together.
        """
        before = self._controls.get(one.digest)
        async with self._judging.setdefault(one.digest, asyncio.Lock()):
            found = self._controls.get(one.digest)
            if found is None or (found.wrong and found is before):
                found = self._controls[one.digest] = await self._tested(one, await self._begun(one))
            return found

    async def _tested(self, one: HarborTask, snapshot: Snapshot) -> Verified:
        """Run the tests on a tree, in a sandbox that nobody has touched."""
        try:
            sandbox = await self._judges.acquire(snapshot)
            try:
                return await verdict_of(
                    one,
                    sandbox,
                    self._verdict,
                    place=f".{secrets.token_hex(12)}",
                    variables={**self._variables(), **one.env, **one.tests_env},
                    memory=min(one.memory or self._memory, self._memory),
                )
            finally:
                await sandbox.close()
        except SandboxError as error:
            raise VerifierError(f"{self.name}: {one.name}: the tests' sandbox failed: {error}") from error

    async def close(self) -> None:
        """Stop the sandbox workers."""
        await self._sandboxes.close()
        await self._judges.close()

    # -- scripted policies -----------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Runs the folder's `solution/solve.sh` in the agent's terminal. Raises `ConfigError` where there is none."""
        one = self._of(task)
        if not one.solved:
            raise ConfigError(f"{self.name}: {one.name} has no solution/solve.sh")
        return _Solution(one, self._times["longest_s"])


class _Solution(Policy):
    """Brings `solution/` into the agent's terminal, runs `solve.sh` there, and submits."""

    def __init__(self, one: HarborTask, longest_s: float) -> None:
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in one.solution_env.items())
        solve = f"({exports}cd {shlex.quote(one.workdir)} && bash /solution/solve.sh)"
        self._commands = [("rm -rf /tmp/solution; mkdir -p /tmp/solution", 30.0), *self._brought(one)]
        self._commands.append((f"{solve}; rm -rf /tmp/solution", longest_s))

    @staticmethod
    def _brought(one: HarborTask) -> Iterator[tuple[str, float]]:
        folder = one.folder / "solution"
        archive = base64.b64encode(packed({path: folder / path for path in files_of(folder)})).decode()
        for at in range(0, len(archive), _PIECE):
            yield f"printf %s {archive[at : at + _PIECE]} >> /tmp/solution/.packed", 30.0
        yield "base64 -d /tmp/solution/.packed | tar -x -C /tmp/solution; rm /tmp/solution/.packed", 30.0

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next command; after the last one, the submission."""
        if not self._commands:
            return assistant(tool_calls=(ToolCall(id="call_0", name="submit", arguments={}),))
        command, seconds = self._commands.pop(0)
        call = ToolCall(id="call_0", name="run", arguments={"command": command, "timeout": seconds})
        return assistant(tool_calls=(call,))


class _With:
    """A sandbox whose terminals have some variables more."""

    def __init__(self, inner: Sandbox, variables: Mapping[str, str]) -> None:
        self._inner, self._variables = inner, variables

    async def terminal(self, argv: Sequence[str], *, env: Mapping[str, str], **rest: Any) -> Terminal:
        return await self._inner.terminal(argv, env={**self._variables, **env}, **rest)


def _read(folder: Path, ordinary: Sequence[str], *, skip: bool) -> list[HarborTask]:
    """All folders that can be run. Raises `ConfigError` with what stands against the others."""
    folders, tasks, unfit = found(folder), list[HarborTask](), list[str]()
    for one in folders:
        try:
            tasks.append(read(one, ordinary=ordinary))
        except Unfit as error:
            unfit.append(f"{one.name}: {error}")
    if unfit and (not skip or not tasks):
        said = "\n".join(f"  {line}" for line in unfit[:_SHOWN])
        more = f"\n  and {len(unfit) - _SHOWN} more" if len(unfit) > _SHOWN else ""
        hint = "" if skip or len(folders) == 1 else "; options.unfit = 'skip' leaves them out"
        raise ConfigError(
            f"harbor: {folder}: {len(unfit)} of {len(folders)} folders cannot be run{hint}:\n{said}{more}"
        )
    return tasks


def _held_out(tasks: Sequence[HarborTask], share: float) -> set[str]:
    """The digests of the tasks that are held out: by their hash, and where that leaves a split empty, one at least."""
    places = {one.digest: int(hashlib.sha256(one.digest.encode()).hexdigest()[:8], 16) / 2**32 for one in tasks}
    held = {digest for digest, place in places.items() if place < share}
    ordered = sorted(places, key=places.__getitem__)
    if len(ordered) > 1 and 0 < share < 1:
        held = held | {ordered[0]} if not held else held - {ordered[-1]} if len(held) == len(ordered) else held
    return held


def _harbor_state(state: State) -> HarborState:
    if not isinstance(state, HarborState):
        raise EnvError(f"harbor: got a state of type {type(state).__name__}, expected the one from `setup`")
    return state
