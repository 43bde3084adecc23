"""From a project with tests to tasks: faults are put into its functions, and those that the tests notice are kept.

Everything runs in sandboxes. The suite is run several times, and tests that do not pass each time are left out. A
fault is tried on the tests that run its line, twice, in processes with different hash seeds: it is dropped where none
fails (an equivalent one, as far as the tests can tell), where the two runs differ, where one takes too long, and where
nothing could be kept from the agent: then satisfying what it sees would be paid. What was found is written down at
once, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from askesis.envs.repair.project.baseline import Baseline, measured
from askesis.envs.repair.project.journal import Journal
from askesis.envs.repair.project.mutations import KINDS, Mutation, candidates
from askesis.envs.repair.project.packages import site_folder
from askesis.envs.repair.project.reading import Project
from askesis.envs.repair.project.rules import open_to_repair
from askesis.envs.repair.project.running import Bench, outcomes
from askesis.envs.repair.project.splitting import (
    Cut,
    Split,
    apply_cuts,
    function_of,
    split_assertions,
    split_functions,
)
from askesis.envs.repair.project.taskfile import TaskFile
from askesis.envs.repair.project.verifying import same
from askesis.sandbox import LazyPool
from askesis.types import ConfigError, RunLimits, nearest

MOST_FAILING = 12  # test functions' ids that a task names
MOST_KEPT = 16  # tests that passed with the fault in place, and must do so at the end
MOST_OTHERS = 8  # tests that run another part of the same file
CALLS = 20  # of each faulty function that a task compares
SPLITS = 8  # ways to divide failing tests that are tried
PER_RUN = 6  # faults tried in one sandbox
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How tasks are made.

    tasks: how many are wanted. pairs: share of them that have two faults. heldout: share of the functions that are for
    evaluation alone. per_function: faults tried in each, at most. kinds: of faults. runs: of the whole suite before it
    begins. workers: sandboxes at work at once. suite_s: seconds that one test file may take. memory: bytes of a run.
    requires, site, pytest_args: what the tests need. Raises `ConfigError` for senseless values.
    """

    tasks: int = 200
    pairs: float = 0.2
    heldout: float = 0.25
    per_function: int = 8
    kinds: Sequence[str] = KINDS
    runs: int = 4
    workers: int = 2
    suite_s: float = 300.0
    memory: int = 2**30
    seed: int = 0
    requires: Sequence[str] = ()
    site: str = ""
    pytest_args: Sequence[str] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"make-repair: no kind {kind!r} of faults{nearest(kind, KINDS)} ({', '.join(KINDS)})")
        if min(self.tasks, self.per_function, self.workers) < 1 or self.runs < 2 or not self.kinds:
            raise ConfigError(
                f"make-repair: tasks={self.tasks}, per_function={self.per_function}, workers={self.workers}, "
                f"runs={self.runs}: expected 1 at least, and 2 runs at least"
            )
        if not 0 <= self.heldout <= 1 or not 0 <= self.pairs < 1:
            raise ConfigError(f"make-repair: heldout={self.heldout}, pairs={self.pairs}: expected shares from 0 to 1")

    @property
    def limits(self) -> RunLimits:
        """Of one run in a sandbox."""
        return RunLimits(
            wall_s=PER_RUN * self.suite_s,
            cpu_s=PER_RUN * self.suite_s,
            memory=self.memory,
            processes=64,
            file_size=2**24,
            output=2**26,
        )


async def make_tasks(
    project: Project, out: Path, making: Making, *, on_progress: Progress = lambda line: None
) -> TaskFile:
    """Make tasks of a project and write them to `out`; goes on where an interrupted run of the same stopped.

    Raises `ConfigError` where no test passes, or where nothing came of it, with what was found instead.
    """
    begun = time.monotonic()
    site = making.site or str(site_folder(making.requires, without=project))
    journal = Journal.opened(out, project, asdict(making))
    sandboxes = LazyPool(size=making.workers, limits=making.limits, mounts=[site], bare=True, tree=2**27, files=8192)
    try:
        bench = await Bench.open(project, sandboxes, making.limits, sites=[site], pytest_args=making.pytest_args)
        baseline = await measured(bench, making, journal, on_progress)
        work = _Work(bench, making, baseline, journal, on_progress)
        singles = await work.singles()
        pairs = await work.pairs(work.steady(singles))
    finally:
        await sandboxes.close()
    tasks = work.steady([*singles, *pairs])
    if not tasks:
        found = ", ".join(f"{reason}: {count}" for reason, count in work.reasons.most_common())
        raise ConfigError(f"make-repair: {project.name}: no fault came through ({found or 'no function is tested'})")
    made = {
        "baseline": {"tests": len(baseline.tests), "left_out": len(baseline.left_out)},
        "tried": sum(work.reasons.values()),
        "verdicts": dict(work.reasons),
        "kinds": dict(Counter(fault["kind"] for task in tasks for fault in task["faults"])),
        "levels": dict(Counter(str(task["level"]) for task in tasks)),
        "splits": dict(Counter(task["split"] for task in tasks)),
        "seconds": round(journal.seconds + time.monotonic() - begun, 1),
        "seed": making.seed,
    }
    found_file = TaskFile(
        project=project, tasks=tasks, requires=making.requires, pytest_args=making.pytest_args, made=made
    )
    found_file.write(out)
    journal.done()
    return found_file


def split_of(project: str, fault: Mutation, share: float) -> str:
    """Of which split a function is; the same at every time."""
    digest = hashlib.sha256(f"{project}/{fault.path}/{fault.function}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8]) < share * 2**64 else "train"


@dataclass(slots=True)
class _Tells:
    """What tells one fault, when it is there alone. functions: tests. calls: for each, the tests that make it."""

    functions: set[str]
    calls: list[set[str]] = field(default_factory=list)


@dataclass(slots=True)
class _Trial:
    """A fault, or two, on the way to a task."""

    faults: tuple[Mutation, ...]
    tests: list[str]
    files: dict[str, str]
    reason: str = ""
    failing: list[str] = field(default_factory=list)
    level: int = 2
    calls: list[dict[str, Any]] = field(default_factory=list)
    split: Split | None = None
    keep: list[str] = field(default_factory=list)
    tells: list[_Tells] = field(default_factory=list)

    @property
    def key(self) -> str:
        return " + ".join(fault.key for fault in self.faults)

    @property
    def alive(self) -> bool:
        return not self.reason

    def drop(self, reason: str) -> None:
        self.reason = self.reason or reason

    def keeps_back(self, hidden: Sequence[str] = ()) -> bool:
        """Whether each fault is told by something that the agent does not see: a hidden test, or a call that no visible
        one makes. Else to look up what the visible ones want would be paid."""
        kept = {function_of(test) for test in hidden}
        seen = {function for one in self.tells for function in one.functions} - kept
        seen |= {function_of(test) for test in self.failing} - kept
        return all(one.functions & kept or any(not made & seen for made in one.calls) for one in self.tells)


@dataclass(slots=True)
class _Work:
    bench: Bench
    making: Making
    baseline: Baseline
    journal: Journal
    say: Progress
    reasons: Counter[str] = field(default_factory=Counter)

    async def singles(self) -> list[dict[str, Any]]:
        """Tasks with one fault, until there are enough."""
        wanted = round(self.making.tasks * (1 - self.making.pairs))
        return await self._gathered(self._candidates(), wanted)

    async def pairs(self, singles: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Tasks with two faults, each of which makes a task of its own."""
        wanted = self.making.tasks - round(self.making.tasks * (1 - self.making.pairs))
        return await self._gathered(self._couples(singles), wanted)

    async def _gathered(self, trials: Iterator[_Trial], wanted: int) -> list[dict[str, Any]]:
        """Try one bundle after the other, several at a time, until `wanted` are kept. Their order is that of `trials`,
        however long each took."""
        found: dict[int, dict[str, Any]] = {}
        numbered = enumerate(trials)

        async def worker() -> None:
            while len(found) < wanted:
                bundle: list[tuple[int, _Trial]] = []
                room = min(PER_RUN, wanted - len(found))
                for number, trial in numbered:
                    known = self.journal.verdict(trial.key)
                    if known is None:
                        bundle.append((number, trial))
                    else:
                        self._count(number, known[0], known[1], found)
                    if len(bundle) >= room or len(found) >= wanted:
                        break
                if not bundle:
                    return
                await self._tried([trial for _, trial in bundle])
                for number, trial in bundle:
                    task = self._task(trial) if trial.alive else None
                    reason = trial.reason or "kept"
                    self.journal.add(trial.key, reason, task)
                    self._count(number, reason, task, found)
                self.say(f"{sum(self.reasons.values())} faults tried, {self.reasons['kept']} kept")

        await asyncio.gather(*(worker() for _ in range(self.making.workers)))
        return [found[number] for number in sorted(found)][:wanted]

    def _count(self, number: int, reason: str, task: dict[str, Any] | None, found: dict[int, dict[str, Any]]) -> None:
        self.reasons[reason] += 1
        if task is not None:
            found[number] = task

    # -- what is tried -------------------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[_Trial]:
        """Faults in lines that some test runs, a function after the other."""
        by_function: list[list[_Trial]] = []
        project, making = self.bench.project, self.making
        for path in project.sources:
            if not self.baseline.runs(path):
                continue
            source = project.source(path)
            free = open_to_repair(source, project.packages)
            found = candidates(source, path, kinds=making.kinds, most=2 * making.per_function, seed=making.seed)
            for mutations in (mutations for name, mutations in found.items() if name in free):
                trials = []
                for fault in mutations:
                    lines = range(fault.line, fault.line + fault.old.count("\n") + 1)
                    tests = self.baseline.running(path, lines)
                    if tests:
                        trials.append(_Trial((fault,), tests, {path: fault.applied(source)}))
                if trials:
                    by_function.append(trials[: making.per_function])
        random.Random(f"functions/{making.seed}").shuffle(by_function)
        for turn in range(making.per_function):
            for trials in by_function:
                if turn < len(trials):
                    yield trials[turn]

    def _couples(self, singles: Sequence[Mapping[str, Any]]) -> Iterator[_Trial]:
        project = self.bench.project
        rng = random.Random(f"pairs/{self.making.seed}")
        seen = set()
        for _ in range(20 * len(singles)):
            one, other = rng.choice(singles), rng.choice(singles)
            faults = sorted((Mutation(**task["faults"][0]) for task in (one, other)), key=lambda fault: fault.key)
            places = {(fault.path, fault.function) for fault in faults}
            key = tuple(fault.key for fault in faults)
            if len(places) < 2 or key in seen or one["split"] != other["split"]:
                continue
            seen.add(key)
            files: dict[str, str] = {}
            for fault in sorted(faults, key=lambda one: -one.start):
                files[fault.path] = fault.applied(files.get(fault.path) or project.source(fault.path))
            tests = [test for task in (one, other) for test in (*task["visible"], *task["hidden"], *task["keep"])]
            trial = _Trial(tuple(faults), list(dict.fromkeys(tests)), files, level=3)
            trial.calls = [dict(call) for task in (one, other) for call in task["calls"]]
            trial.tells = [self._tells(task) for task in (one, other)]
            yield trial

    def _tells(self, task: Mapping[str, Any]) -> _Tells:
        """What tells the one fault of a task."""
        fault = task["faults"][0]
        known = self.baseline.calls.get(f"{fault['path']}|{fault['function']}", [])
        made = {json.dumps(call): set(tests) for call, _, tests in known}
        telling = [json.dumps(call["calls"][at]) for call in task["calls"] for at in call["telling"]]
        functions = {function_of(test) for test in (*task["visible"], *task["hidden"])}
        return _Tells(functions, [made[call] for call in telling])

    # -- trying --------------------------------------------------------------------------------------------------------

    async def _tried(self, trials: Sequence[_Trial]) -> None:
        """Leave on each trial what it needs to become a task, or the reason why it is none."""
        first = await self._tests(trials)
        for trial, report in zip(trials, first, strict=True):
            self._noted(trial, report)
        alive = [trial for trial in trials if trial.alive]
        second = await self._tests(alive)
        for trial, report in zip(alive, second, strict=True):
            again = sorted(test for test, outcome in outcomes(report).items() if outcome == "failed")
            if report["ended"] != "exit" or again != sorted(trial.failing):
                trial.drop("flaky")
        await self._called([trial for trial in alive if trial.alive])
        await self._divided([trial for trial in alive if trial.alive])
        await self._repaired([trial for trial in alive if trial.alive])

    async def _tests(self, trials: Sequence[_Trial]) -> list[dict[str, Any]]:
        """The tests of each trial on its broken files."""
        if not trials:
            return []
        jobs = [
            {"kind": "tests", "ids": trial.tests, "files": trial.files, "seconds": self.baseline.patience(trial.tests)}
            for trial in trials
        ]
        return await self.bench.jobs(jobs)

    def _noted(self, trial: _Trial, report: Mapping[str, Any]) -> None:
        """What the first run said."""
        found = outcomes(report)
        trial.failing = [test for test in trial.tests if found.get(test) == "failed"]
        if report["ended"] == "late":
            trial.drop("too slow")
        elif report["ended"] != "exit":
            trial.drop("crashed")
        elif report["found"].get("problems") or any(outcome == "error" for outcome in found.values()):
            trial.drop("not importable")
        elif not trial.failing:
            trial.drop("not noticed")
        elif trial.level != 3:
            names = {(fault.path, fault.function) for fault in trial.faults}
            tests = report["found"]["tests"]
            frames = [frame for test in trial.failing for frame in tests[test].get("frames", ())]
            shown = any((path, name.partition(".<locals>")[0]) in names for path, name in frames)
            trial.level = 1 if shown else 2

    async def _called(self, trials: Sequence[_Trial]) -> None:
        """Calls with plain values that tell each fault from the right function, and some others."""
        jobs, asked = [], []
        for trial in trials:
            if trial.level == 3:
                continue
            trial.tells = [_Tells({function_of(test) for test in trial.failing})]
            for fault in trial.faults:
                known = self.baseline.calls.get(f"{fault.path}|{fault.function}")
                if known:
                    module = self.bench.project.module(fault.path)
                    call = {"module": module, "function": fault.function, "calls": [one for one, *_ in known]}
                    jobs.append({"kind": "calls", "files": trial.files, "seconds": 30.0, **call})
                    asked.append((trial, call, [want for _, want, _ in known], [set(made) for *_, made in known]))
        if not jobs:
            return
        for (trial, call, want, made), report in zip(asked, await self.bench.jobs(jobs), strict=True):
            got = report["found"].get("values")
            if report["ended"] != "exit" or not isinstance(got, list) or len(got) != len(want):
                continue
            rng = random.Random(trial.key)
            order = rng.sample(range(len(want)), len(want))
            telling = [at for at in order if not same(got[at], want[at])]
            telling.sort(key=lambda at: bool(made[at] & trial.tells[0].functions))  # what is kept back comes first
            order = telling + [at for at in order if same(got[at], want[at])]
            if telling:
                chosen = sorted({*order[: CALLS // 2], *order[-(CALLS - CALLS // 2) :]})
                trial.tells[0].calls = [made[at] for at in chosen if at in telling]
                trial.calls.append(
                    {
                        **call,
                        "calls": [call["calls"][at] for at in chosen],
                        "want": [want[at] for at in chosen],
                        "telling": [number for number, at in enumerate(chosen) if at in telling],
                    }
                )

    async def _divided(self, trials: Sequence[_Trial]) -> None:
        """Divide the failing tests, and see that what is left to each side still fails, and only with the fault."""
        files = self.bench.project.files
        jobs: list[dict[str, Any]] = []
        owners: list[tuple[_Trial, bool]] = []
        for trial in trials:
            rng = random.Random(trial.key)
            trial.failing = rng.sample(trial.failing, min(len(trial.failing), MOST_FAILING))
            for _ in range(SPLITS):
                trial.split = split_functions(trial.failing, files, rng)
                if trial.split is None or trial.keeps_back(trial.split.hidden):
                    break
            if trial.split is None and not trial.keeps_back() and trial.level != 3:
                trial.split = split_assertions(trial.failing, files)
            if trial.split is None or not (trial.split.rest or trial.keeps_back(trial.split.hidden)):
                if trial.split is not None or not trial.keeps_back():
                    trial.drop("nothing to hide")
                trial.split = Split(visible=tuple(trial.failing))
                continue
            for cuts in (trial.split.cuts, trial.split.rest):
                if cuts:
                    for broken in (True, False):
                        jobs.append(self._half(trial, trial.split, cuts, broken))
                        owners.append((trial, broken))
        if not jobs:
            return
        for (trial, broken), report in zip(owners, await self.bench.jobs(jobs), strict=True):
            assert trial.split is not None
            found = outcomes(report)
            want = "failed" if broken else "passed"
            if report["ended"] != "exit" or any(found.get(test) != want for test in trial.split.visible):
                trial.drop("nothing to hide")

    async def _repaired(self, trials: Sequence[_Trial]) -> None:
        """With the faults mended, all that decides must pass; a test that does not is left out of everything."""
        if not trials:
            return
        jobs: list[dict[str, Any]] = []
        for trial in trials:
            assert trial.split is not None
            rng = random.Random(trial.key)
            decided = {*trial.split.visible, *trial.split.hidden}
            rest = [test for test in trial.tests if test not in decided]
            others = sorted({test for fault in trial.faults for test in self.baseline.of_file(fault.path)} - decided)
            chosen = rng.sample(rest, min(len(rest), MOST_KEPT)) + rng.sample(others, min(len(others), MOST_OTHERS))
            trial.keep = sorted(set(chosen))
            tests = [*trial.split.visible, *trial.split.hidden, *trial.keep]
            jobs.append({"kind": "tests", "ids": tests, "seconds": self.baseline.patience(tests)})
        for trial, job, report in zip(trials, jobs, await self.bench.jobs(jobs), strict=True):
            found = outcomes(report)
            failed = [test for test in job["ids"] if found.get(test) != "passed"]
            if failed:
                trial.drop("flaky")
                self.journal.add_flaky(failed)

    def steady(self, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that no test decides which has failed on the project as it is."""
        flaky = self.journal.flaky
        return [task for task in tasks if not flaky & {*task["visible"], *task["hidden"], *task["keep"]}]

    def _half(self, trial: _Trial, split: Split, cuts: Sequence[Cut], broken: bool) -> dict[str, Any]:
        texts = apply_cuts(cuts, self.bench.project.files) | (trial.files if broken else {})
        seconds = self.baseline.patience(split.visible)
        return {"kind": "tests", "ids": list(split.visible), "files": texts, "seconds": seconds}

    def _task(self, trial: _Trial) -> dict[str, Any]:
        """The task's data."""
        assert trial.split is not None
        tests = [*trial.split.visible, *trial.split.hidden, *trial.keep]
        return {
            "project": self.bench.project.name,
            "digest": self.bench.project.digest,
            "split": split_of(self.bench.project.name, trial.faults[0], self.making.heldout),
            "level": trial.level,
            "faults": [asdict(fault) for fault in trial.faults],
            "visible": list(trial.split.visible),
            "hidden": list(trial.split.hidden),
            "keep": trial.keep,
            "cuts": [list(cut) for cut in trial.split.cuts],
            "calls": trial.calls,
            "seconds": round(self.baseline.patience(tests), 1),
        }
