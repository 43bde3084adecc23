"""`askesis envs check`: whether an environment keeps what its interface promises, with what was looked at and found.

Each check gives one line: what, and where it is not so, what was got and what was expected. Nothing here needs a model.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from askesis.envs import load_env
from askesis.loop import interface
from askesis.loop.interface import Flaw
from askesis.loop.results import Evaluation
from askesis.loop.scripted import play_policy
from askesis.loop.stream import tasks_of
from askesis.types import AskesisError, Env, EnvError, Task, Trace

State = Literal["ok", "note", "wrong"]
NULLS = ("null", "null:whitespace", "null:echo", "null:submit")
_SETUP_S = 0.05
_SETUPS = 5
_FRESH_S = 300.0
_MOST = 300  # characters of what was got


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report. state: `ok`, `note` (worth a look), `wrong`. where, got, expected: of what is not ok."""

    name: str
    state: State
    text: str
    where: str = ""
    got: str = ""
    expected: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was looked at. policies: how scripted policies did, by name."""

    env: str
    checks: tuple[Check, ...]
    policies: Mapping[str, Evaluation] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.state != "wrong" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        checks = [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in self.checks]
        policies = {}
        for name, one in self.policies.items():
            summary = one.rows[0].summary
            policies[name] = {
                "episodes": summary.episodes,
                "success": summary.success,
                "interval": list(summary.interval),
                "turns": summary.turns,
                "outcomes": dict(summary.outcomes),
            }
        return {"env": self.env, "ok": self.ok, "checks": checks, "policies": policies}


class Broken(Exception):
    """Nothing further can be looked at."""


@dataclass(slots=True)
class Checker:
    """Looks at one environment. options: its own. tasks: how many are played by each policy. secrets: keys of
    `Task.data` whose values must be nowhere in what the agent is told at first. on_check: called with each line."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tasks: int = 40
    seed: int = 0
    secrets: Sequence[str] = ()
    on_check: Callable[[Check], None] = lambda check: None
    checks: list[Check] = field(default_factory=list)
    policies: dict[str, Evaluation] = field(default_factory=dict)

    async def run(self) -> Report:
        """Everything. Raises `ConfigError` where there is no such environment."""
        env = load_env(self.name, **self.options)
        try:
            before = _children()
            heldout = self._tasks(env)
            await self._setups(env, heldout)
            await self._play(env, heldout)
        except Broken:
            pass
        finally:
            await self._close(env)
        self._left_over(before)
        return Report(env=env.name, checks=tuple(self.checks), policies=self.policies)

    # -- lines -------------------------------------------------------------------------------------------------------

    def _say(self, name: str, state: State, text: str, *, where: str = "", got: str = "", expected: str = "") -> None:
        shown = got if len(got) <= _MOST else got[:_MOST] + " ..."
        self.checks.append(Check(name=name, state=state, text=text, where=where, got=shown, expected=expected))
        self.on_check(self.checks[-1])

    def _demand(self, name: str, flaws: Sequence[Flaw], ok: str, expected: str, *, soft: bool = False) -> None:
        """A line: `ok`, or the first of the flaws. soft: they are worth a look, and no more."""
        if not flaws:
            self._say(name, "ok", ok)
            return
        where, got = flaws[0]
        more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
        self._say(name, "note" if soft else "wrong", "", where=where + more, got=got, expected=expected)

    def _broken(self, name: str, where: str, error: Exception, expected: str) -> Broken:
        said = str(error) if isinstance(error, AskesisError) else f"{type(error).__name__}: {error}"
        self._say(name, "wrong", "", where=where, got=said, expected=expected)
        return Broken()

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _drawn(self, env: Env, *, seed: int) -> tuple[list[Task], list[Task]]:
        try:
            train, heldout = (tasks_of(env, split, seed=seed, limit=self.tasks) for split in _SPLITS)
        except AskesisError as error:
            raise self._broken("tasks", "tasks(...)", error, "tasks of both splits") from error
        return train, heldout

    def _tasks(self, env: Env) -> list[Task]:
        """The held-out tasks, after everything about tasks has been looked at."""
        train, heldout = self._drawn(env, seed=self.seed)
        both = [*train, *heldout]
        few = [
            (f"tasks({split!r}, limit={self.tasks})", f"{len(tasks)} tasks")
            for split, tasks in zip(_SPLITS, (train, heldout), strict=True)
            if len(tasks) < self.tasks
        ]
        self._demand("tasks", few, f"{len(train)} train, {len(heldout)} held out", "as many as asked for", soft=True)
        flaws = interface.task_flaws(both)
        self._demand("data", flaws, interface.bounds(both), "plain JSON in data, a text as prompt, limits above 0")
        flaws = interface.split_flaws(train, heldout)
        self._demand("splits", flaws, "no task is in both, none twice", "each task once, in the split asked for")
        levels = Counter(str(task.data["level"]) for task in both if "level" in task.data)
        if levels:
            self._say("levels", "ok", ", ".join(f"{level}: {n} tasks" for level, n in sorted(levels.items())))
        again = self._drawn(env, seed=self.seed)
        changed = [
            (f"task {number} of tasks({one.split!r})", f"{one.id}, then {other.id}")
            for number, (one, other) in enumerate(zip(both, [*again[0], *again[1]], strict=False))
            if (one.id, one.prompt, one.data) != (other.id, other.prompt, other.data)
        ]
        self._demand("deterministic", changed, "the same arguments give the same tasks", "the same tasks")
        others = {task.id for task in self._drawn(env, seed=self.seed + 1)[0]}
        same = [("tasks('train')", "the same tasks for two seeds")] if others == {task.id for task in train} else []
        self._demand("seeds", same, "another seed gives other tasks", "tasks that depend on the seed", soft=True)
        self._demand("fresh process", self._elsewhere(heldout), "the same tasks in another process", "the same tasks")
        return heldout

    def _elsewhere(self, heldout: Sequence[Task]) -> list[Flaw]:
        """The tasks in a process of its own, whose strings hash otherwise."""
        told = json.dumps([self.name, dict(self.options), self.seed, self.tasks])
        code = f"from askesis.loop.checking import print_ids; print_ids({told!r})"
        where = "a new process, with another PYTHONHASHSEED, time zone and locale"
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONHASHSEED": "4242", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
                timeout=_FRESH_S,
                check=False,
            )
            if done.returncode:
                return [(where, done.stderr.strip()[-_MOST:])]
            ids = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            return [(where, str(error))]
        wrong = next((n for n, task in enumerate(heldout) if n >= len(ids) or ids[n] != task.id), None)
        return [] if wrong is None else [(where, f"another task at place {wrong}")]

    # -- episodes ----------------------------------------------------------------------------------------------------

    async def _setups(self, env: Env, tasks: Sequence[Task]) -> None:
        """Set some up, look at what the agent is told, close twice."""
        seconds: list[float] = []
        flaws: list[Flaw] = []
        told: list[Flaw] = []
        unclosed: list[Flaw] = []
        names = ""
        for task in (tasks[0], *tasks[:_SETUPS]):  # the first twice: what is warmed up is not the episode's own
            begun = time.perf_counter()
            try:
                state = await env.setup(task)
            except Exception as error:
                raise self._broken("setup", f"setup, task {task.id}", error, "a state") from error
            seconds.append(time.perf_counter() - begun)
            try:
                specs = [tool.spec for tool in env.tools(task, state)]
                names = ", ".join(spec.name for spec in specs)
                flaws += interface.tool_flaws(specs)
                told += interface.leaks(task, specs, self.secrets)
            except Exception as error:
                raise self._broken("tools", f"tools, task {task.id}", error, "tools, each with a spec") from error
            finally:
                unclosed += await interface.close_flaws(state, task)
        took = 1000 * statistics.median(seconds[1:])
        slow = [(f"setup, median of {len(seconds) - 1}", f"{took:.0f} ms")] if took > 1000 * _SETUP_S else []
        self._demand("setup", slow, f"{took:.1f} ms", f"below {1000 * _SETUP_S:.0f} ms, or a word on why", soft=True)
        self._demand("close", unclosed, "a state can be closed twice", "no error")
        self._demand("tools", flaws, names or "none", "a name, a description and an object's JSON Schema")
        keys = ", ".join(interface.secret_keys(tasks[0], self.secrets))
        untold = f"nothing of {keys} is told" if keys else "no key of Task.data is known for one; name them: --secret"
        self._demand("secrets", told, untold, "not told at first", soft=True)

    async def _play(self, env: Env, tasks: Sequence[Task]) -> None:
        """What scripted policies get."""
        ceiling = 1.0
        if hasattr(env, "oracle"):
            kept = await self._policy(env, "oracle", tasks)
            summary = self.policies["oracle"].rows[0].summary
            failed = [(f"task {one.task.id}", _end(one)) for one in kept if not one.success]
            self._demand("oracle", failed, f"{summary.successes} of {summary.episodes}", "success on every task")
            terms = ", ".join(dict.fromkeys(f"{t.name} x {t.weight:g}" for one in kept for t in one.rewards))
            self._demand("rewards", interface.reward_flaws(kept), terms, "`success` first, 0 or 1; each term once")
            long, text = interface.room_flaws(kept, {task.id: task.limits for task in tasks})
            self._demand("room", long, text, "turns that fit into the task's limits", soft=True)
            again = await self._policy(env, "oracle", tasks)
            flaws = interface.replay_flaws(kept, again)
            self._demand("replay", flaws, "played twice, all is the same", "the same observations", soft=True)
            ceiling = summary.interval[0]
        else:
            self._say("oracle", "note", "", where="the class", got="no oracle(task)", expected="a policy that succeeds")
        for name in (*NULLS, "random"):
            await self._baseline(env, name, tasks, ceiling)

    async def _baseline(self, env: Env, name: str, tasks: Sequence[Task], ceiling: float) -> None:
        kept = await self._policy(env, name, tasks)
        summary = self.policies[name].rows[0].summary
        low, high = (100 * bound for bound in summary.interval)
        text = f"{100 * summary.success:.1f}% [{low:.1f}, {high:.1f}]"
        lost = [(f"task {one.task.id}", _end(one)) for one in kept if not one.outcome.learnable]
        paid = [(f"task {one.task.id} (success {text})", _end(one)) for one in kept if one.success]
        if lost:
            self._demand(name, lost, "", "whatever a legal call does is an observation or a limit")
        elif summary.successes and summary.success >= ceiling:
            self._demand(name, paid, "", "less than the oracle gets")
        elif name in NULLS:
            self._demand(name, paid, text, "nothing for nothing, or a README that says why", soft=True)
        else:
            self._say(name, "ok", text)

    async def _policy(self, env: Env, name: str, tasks: Sequence[Task]) -> list[Trace]:
        """The traces of one policy, in the order of the tasks."""
        kept = _Kept()
        try:
            self.policies[name] = await play_policy(env, name, tasks=tasks, store=kept)
        except EnvError as error:
            raise self._broken(name, f"{len(tasks)} episodes", error, "episodes that come to an end") from error
        finals = {trace.task.id: trace for trace in kept}
        return [finals[task.id] for task in tasks]

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _close(self, env: Env) -> None:
        flaws = []
        for number in ("first", "second"):
            try:
                await env.close()
            except Exception as error:
                flaws.append((f"the {number} close() of the environment", f"{type(error).__name__}: {error}"))
        if flaws:
            self._demand("closed", flaws, "", "no error")

    def _left_over(self, before: set[str]) -> None:
        flaws = [(f"process {one}", _command(one)) for one in sorted(_children() - before)]
        self._demand("left over", flaws, "no process is left after close()", "no process after close()")


_SPLITS: tuple[Literal["train", "heldout"], ...] = ("train", "heldout")


class _Kept(list[Trace]):
    def add(self, traces: Sequence[Trace], **_: Any) -> None:
        """As `rollout.TraceSink`."""
        self.extend(traces)


def _end(trace: Trace) -> str:
    outcome = trace.outcome
    last = next((node.message.text for node in reversed(trace.nodes) if node.message.role == "tool"), "")
    return f"{outcome.by}, {outcome.reason}: {outcome.detail or last[:100]!r}"


def _children() -> set[str]:
    """The processes that this one has started and that are there."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found |= set(path.read_text().split())
    return found


def _command(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone by now"


def print_ids(told: str) -> None:
    """What the fresh process does: print the ids of the held-out tasks."""
    name, options, seed, limit = json.loads(told)
    print(json.dumps([task.id for task in tasks_of(load_env(name, **options), "heldout", seed=seed, limit=limit)]))
