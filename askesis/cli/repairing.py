"""`askesis envs make-repair`: tasks of `repair_project` out of a project with tests."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Many = list[str]
NONE: Many = []  # typer reads it and never changes it


def make_repair(
    project: Annotated[Path, typer.Argument(help="The folder of a project, with its packages and their tests.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The task file (.jsonl or .jsonl.gz).")],
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks to make, at most.")] = 200,
    tests: Annotated[
        Many,
        typer.Option("--tests", metavar="PATH", help="Test files or folders (default: the usual ones); repeatable."),
    ] = NONE,
    packages: Annotated[
        Many, typer.Option("--package", metavar="PATH", help="What may be broken (default: all); repeatable.")
    ] = NONE,
    include: Annotated[
        Many, typer.Option("--include", metavar="PATTERN", help="Further files that the tests read; repeatable.")
    ] = NONE,
    require: Annotated[
        Many, typer.Option("--require", metavar="PACKAGE", help="What the tests import beside pytest; repeatable.")
    ] = NONE,
    site: Annotated[
        str, typer.Option(metavar="FOLDER", help="A folder with pytest and those, in place of what is installed here.")
    ] = "",
    pytest_args: Annotated[
        Many, typer.Option("--pytest-arg", metavar="ARG", help="A further argument of pytest; repeatable.")
    ] = NONE,
    kinds: Annotated[
        Many, typer.Option("--kind", metavar="KIND", help="Kinds of faults (default: all); repeatable.")
    ] = NONE,
    heldout: Annotated[float, typer.Option(min=0, max=1, help="Share of the functions kept for evaluation.")] = 0.25,
    pairs: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the tasks that have two faults.")] = 0.2,
    per_function: Annotated[int, typer.Option(min=1, help="Faults tried in each function, at most.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Sandboxes at work at once.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Which faults are drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Make repair tasks of a Python project with tests: put faults into its functions, keep those that tests notice.

    Runs the project's tests many times, in sandboxes; it takes minutes, and goes on where it was interrupted.

    Example: `askesis envs make-repair ~/src/toolz -o toolz.jsonl`, then
    `askesis envs check repair_project --option tasks=toolz.jsonl`.
    """
    from askesis.envs.repair.project import Making, make_tasks, read_project
    from askesis.envs.repair.project.mutations import KINDS

    making = Making(
        tasks=tasks,
        pairs=pairs,
        heldout=heldout,
        per_function=per_function,
        kinds=tuple(kinds) or KINDS,
        workers=workers,
        seed=seed,
        requires=tuple(require),
        site=site,
        pytest_args=tuple(pytest_args),
    )
    found = read_project(project, tests=tests, packages=packages, include=include)
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {line}", file=sys.stderr, flush=True)

    say(f"{found.name}: {len(found.sources)} source files, {len(found.tests)} test files")
    made = asyncio.run(make_tasks(found, out, making, on_progress=say))
    if as_json:
        print(json.dumps({"file": str(out), "digest": found.digest, "tasks": len(made.tasks), **made.made}, indent=2))
    else:
        print(told(out, len(made.tasks), made.made))


def told(out: Path, tasks: int, made: Mapping[str, Any]) -> str:
    """What came of it, for a person."""
    dropped = {reason: count for reason, count in made["verdicts"].items() if reason != "kept"}
    lines = [
        f"{out}: {tasks} tasks ({_counted(made['splits'])}; levels {_counted(made['levels'])})",
        f"faults: {_counted(made['kinds'])}",
        f"tried {made['tried']} in {made['seconds']:.0f} s; dropped: {_counted(dropped) or 'none'}",
        f"tests: {made['baseline']['tests']} always pass, {made['baseline']['left_out']} left out",
        "",
        f"askesis envs check repair_project --option tasks={out}",
    ]
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
