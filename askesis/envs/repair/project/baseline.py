"""The project as it is: which of its tests always pass, which lines each runs, and what its functions give on plain
inputs, taken from the tests' own calls and varied a little."""

from __future__ import annotations

import ast
import asyncio
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from askesis.envs.repair.project.journal import Journal
from askesis.envs.repair.project.mutations import functions
from askesis.envs.repair.project.reading import Project
from askesis.envs.repair.project.running import Bench, outcomes
from askesis.envs.repair.project.splitting import function_of
from askesis.types import ConfigError

if TYPE_CHECKING:
    from askesis.envs.repair.project.making import Making

MOST_TESTS = 24  # that are run for one fault: the quickest of those that run its line
RECORDED, VARIED = 24, 48  # calls of a function that are tried
Call = list[Any]  # [arguments, keyword arguments], plain
Known = list[tuple[Call, Any, list[str]]]  # calls, what they give, and the test functions that make them (varied: none)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """tests: seconds that each takes, of those that always pass. lines: path -> line -> the tests that run it.
    calls: by `path|function`. left_out: tests that did not pass each time."""

    tests: Mapping[str, float]
    lines: Mapping[str, Mapping[int, Sequence[str]]]
    calls: Mapping[str, Known]
    left_out: Sequence[str]

    def runs(self, path: str) -> bool:
        """Whether any test runs anything of a file."""
        return bool(self.lines.get(path))

    def running(self, path: str, lines: Iterable[int]) -> list[str]:
        """The quickest tests that run one of the lines."""
        found = {test for line in lines for test in self.lines.get(path, {}).get(line, ())}
        return sorted(found, key=lambda test: (self.tests[test], test))[:MOST_TESTS]

    def of_file(self, path: str) -> set[str]:
        """The tests that run anything of a file."""
        return {test for tests in self.lines.get(path, {}).values() for test in tests}

    def patience(self, tests: Iterable[str]) -> float:
        """Seconds after which a run of these counts as one without end."""
        return 10.0 + 10 * sum(self.tests.get(test, 0.0) for test in tests)


async def measured(bench: Bench, making: Making, journal: Journal, say: Callable[[str], None]) -> Baseline:
    """Run the suite `making.runs` times, the first time with an eye on every line.

    Raises `ConfigError` where no test passes, with what pytest said.
    """
    kept = journal.baseline
    if kept is None:
        kept = await _measured(bench, making, say)
        journal.keep_baseline(kept)
    lines: dict[str, dict[int, list[str]]] = {}
    for test, found in kept["lines"].items():
        for path, numbers in found.items():
            for number in numbers:
                lines.setdefault(path, {}).setdefault(number, []).append(test)
    return Baseline(tests=kept["tests"], lines=lines, calls=kept["calls"], left_out=kept["left_out"])


async def _measured(bench: Bench, making: Making, say: Callable[[str], None]) -> dict[str, Any]:
    project = bench.project
    record = {path: _plain_functions(project, path) for path in project.sources}
    turns = asyncio.Semaphore(making.workers)

    async def run(path: str, traced: bool) -> dict[str, Any]:
        job: dict[str, Any] = {"kind": "tests", "ids": [path], "seconds": making.suite_s * (4 if traced else 1)}
        if traced:
            job |= {"trace": True, "record": record}
        async with turns:
            return (await bench.jobs([job]))[0]

    reports = []
    for number in range(making.runs):
        say(f"run {number + 1} of {making.runs} of {len(project.tests)} test files")
        reports.append(await asyncio.gather(*(run(path, number == 0) for path in project.tests)))
    passed = [
        {test for report in reports_of_run for test, outcome in outcomes(report).items() if outcome == "passed"}
        for reports_of_run in reports
    ]
    seen = {test for reports_of_run in reports for report in reports_of_run for test in outcomes(report)}
    always = set.intersection(*passed)
    if not always:
        raise ConfigError(_nothing_passes(project, reports[-1]))
    tests: dict[str, float] = {}
    lines: dict[str, dict[str, list[int]]] = {}
    calls: dict[str, dict[str, tuple[Call, set[str]]]] = {}
    for report in reports[0]:
        for test, one in report["found"].get("tests", {}).items():
            if test in always:
                lines[test] = one.get("lines", {})
        for name, found in report["found"].get("calls", {}).items():
            for call, made in found:
                if always.intersection(made):
                    known = calls.setdefault(name, {}).setdefault(json.dumps(call), (call, set()))
                    known[1].update(function_of(test) for test in made)
    for report in reports[-1]:
        tests |= {test: one["seconds"] for test, one in report["found"].get("tests", {}).items() if test in always}
    say(f"{len(always)} tests pass each time, {len(seen - always)} are left out")
    return {
        "tests": tests,
        "lines": lines,
        "calls": await _answered(bench, making, calls),
        "left_out": sorted(seen - always),
    }


def _nothing_passes(project: Project, reports: Sequence[Mapping[str, Any]]) -> str:
    said = [
        f"{path}: {report['ended']}"
        + "".join(f": {text.strip().splitlines()[-1]}" for text in report["found"].get("problems", {}).values())
        + "".join(f": {one['said']}" for one in report["found"].get("tests", {}).values() if "said" in one)[:300]
        for path, report in zip(project.tests, reports, strict=True)
    ]
    return (
        f"make-repair: {project.name}: no test passes each time in the sandbox (no network, a fresh tree with the "
        "packages and tests alone): " + "; ".join(said[:3]) + ". What the tests import and is not the project's: "
        "--require; further files that they read: --include; other imports: --package"
    )


def _plain_functions(project: Project, path: str) -> dict[str, int]:
    """The functions at the top of a module, with the first line of their bodies."""
    try:
        tree = ast.parse(project.source(path))
    except (SyntaxError, ValueError):
        return {}
    return {
        name: node.body[0].lineno
        for name, node in functions(tree)
        if "." not in name and isinstance(node, ast.FunctionDef) and not name.startswith("__")
    }


async def _answered(
    bench: Bench, making: Making, recorded: Mapping[str, Mapping[str, tuple[Call, set[str]]]]
) -> dict[str, Known]:
    """What the functions give, asked twice; calls that give two things, or nothing plain, are left out, and those that
    look at a clock or draw at random: two askings may fall into one minute.

    A varied call that raises is left out too: how a function refuses what nobody gives it is not its purpose.
    """
    jobs, names = [], []
    for name, found in sorted(recorded.items()):
        path, _, function = name.partition("|")
        rng = random.Random(f"{making.seed}/{name}")
        own = [call for call, _ in found.values()]
        own = rng.sample(own, min(len(own), RECORDED))
        varied = (
            {json.dumps(call): call for call in (_varied(rng, rng.choice(own)) for _ in range(2 * VARIED))}
            if own
            else {}
        )
        calls = own + [call for text, call in varied.items() if text not in found][:VARIED]
        if calls:
            module = bench.project.module(path)
            jobs.append({"kind": "calls", "module": module, "function": function, "calls": calls, "seconds": 90.0})
            names.append((name, len(own)))
    turns = asyncio.Semaphore(making.workers)

    async def run(part: Sequence[dict[str, Any]], watch: bool) -> list[dict[str, Any]]:
        async with turns:
            return await bench.jobs([{**job, "watch": watch} for job in part])

    parts = [jobs[at : at + 8] for at in range(0, len(jobs), 8)]
    twice = [
        [one for found in await asyncio.gather(*(run(part, watch) for part in parts)) for one in found]
        for watch in (False, True)
    ]
    answered: dict[str, Known] = {}
    for (name, own_count), job, *both in zip(names, jobs, *twice, strict=True):
        values = [report["found"].get("values") for report in both]
        if any(not isinstance(found, list) or len(found) != len(job["calls"]) for found in values):
            continue
        known = [
            (call, one, sorted(recorded[name][json.dumps(call)][1]) if at < own_count else [])
            for at, (call, one, other) in enumerate(zip(job["calls"], *values, strict=True))
            if one == other and one[0] not in ("other", "late") and (at < own_count or one[0] != "error")
        ]
        if known:
            answered[name] = known
    return answered


def _varied(rng: random.Random, call: Call) -> Call:
    """A call in which one value is another."""
    copied: Call = json.loads(json.dumps(call))
    leaves: list[list[Any]] = []
    todo: list[Any] = [copied]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            tagged = len(one) == 2 and isinstance(one[0], str)
            if tagged and one[0] in _VARIATIONS:
                leaves.append(one)
            todo += one[1:] if tagged else one
    if leaves:
        leaf = rng.choice(leaves)
        leaf[1] = _VARIATIONS[leaf[0]](rng, leaf[1])
    return copied


def _other_int(rng: random.Random, value: str) -> str:
    number = int(value)
    return str(rng.choice([number + 1, number - 1, -number, 2 * number, number + rng.randint(2, 9), 0]))


def _other_text(rng: random.Random, value: str) -> str:
    ways = [value[:-1], value[1:], value + value[:1], value.swapcase(), value[::-1], f"{value} {value}", value + "s"]
    return str(rng.choice(ways))


def _other_items(rng: random.Random, value: list[Any]) -> list[Any]:
    return list(rng.choice([value[:-1], value[1:], value[::-1], value + value[:1], value + value]))


_VARIATIONS: dict[str, Callable[[random.Random, Any], Any]] = {
    "int": _other_int,
    "float": lambda rng, value: repr(float(value) * rng.choice((2.0, 0.5, -1.0)) + rng.choice((0.0, 1.0))),
    "constant": lambda rng, value: (not value) if isinstance(value, bool) else value,
    "str": _other_text,
    "list": _other_items,
    "tuple": _other_items,
    "iterator": _other_items,
    "timedelta": lambda rng, value: [value[0] + rng.choice((-1, 1)), value[1], value[2]],
}
