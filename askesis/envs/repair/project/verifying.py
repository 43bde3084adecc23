"""The verdict on a submission: the texts of source files, on a fresh copy of the project, in a fresh sandbox.

First the rules (`rules`): the submission is read, and nothing of it runs. Then what the functions in question give on
plain inputs is compared here, with values that were never in that sandbox: that is out of the submission's reach. Last,
the project's tests: they assert in the process of the code that they test, so what keeps them honest is the rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from askesis.envs.repair.project import rules
from askesis.envs.repair.project.mutations import Mutation
from askesis.envs.repair.project.running import Bench, outcomes
from askesis.types import RunLimits, SandboxError, VerifierError

RULES = Path(rules.__file__).read_text(encoding="utf-8") + "\n\nmain()\n"
RULES_LIMITS = RunLimits(wall_s=10.0, cpu_s=10.0, memory=512 * 2**20, processes=2, output=2**16)
CALLS_S = 20.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a submission is right; `why` says what is wrong with one that is not."""

    right: bool
    why: str = ""


def judging_s(data: Mapping[str, Any]) -> float:
    """Seconds of its own time after which everything that judges a task's submission has been given up."""
    return CALLS_S * len(data["calls"]) + float(data["seconds"])


def mutations_of(data: Mapping[str, Any]) -> list[Mutation]:
    """The faults of a task."""
    return [Mutation(**fault) for fault in data["faults"]]


def broken_files(bench: Bench, data: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the files with a task's faults in them."""
    found: dict[str, str] = {}
    for fault in sorted(mutations_of(data), key=lambda one: -one.start):
        found[fault.path] = fault.applied(found.get(fault.path) or bench.project.source(fault.path))
    return found


def same(got: object, want: object) -> bool:
    """Whether two values are the same as tagged plain data (`guest`); floats may differ by rounding."""
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return False
        if len(want) == 2 and want[0] == "float" and got[0] == "float" and isinstance(got[1], str):
            return got[1] == want[1] or _close(got[1], str(want[1]))
        return all(same(one, other) for one, other in zip(got, want, strict=True))
    return type(got) is type(want) and got == want


def _close(got: str, want: str) -> bool:
    try:
        return math.isclose(float(got), float(want), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False


async def judged(bench: Bench, data: Mapping[str, Any], submitted: Mapping[str, bytes | None]) -> Verdict:
    """The verdict. submitted: what each source file holds at the end; None for one that is gone.

    Raises `VerifierError` where the machinery fails.
    """
    before = {path: bench.project.source(path) for path in bench.project.sources} | broken_files(bench, data)
    changed: dict[str, str] = {}
    for path, content in submitted.items():
        if content is None:
            return Verdict(False, f"{path} is gone")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return Verdict(False, f"{path} is no UTF-8 text")
        if text != before[path]:
            changed[path] = text
    if not changed:
        return Verdict(False, "no source file was changed")
    said = await rules_broken(bench, before, changed)
    if said:
        return Verdict(False, f"refused: {said}")
    try:
        return await _tried(bench, data, {**broken_files(bench, data), **changed})
    except SandboxError as error:
        raise VerifierError(f"repair_project: the verifier's sandbox failed: {error}") from error


async def rules_broken(bench: Bench, before: Mapping[str, str], changed: Mapping[str, str]) -> str:
    """Which rule the changed files break; empty for none. Raises `VerifierError` where the machinery fails."""
    for path in sorted(changed):
        reference = bench.project.source(path)
        own = bench.project.packages
        said, ended = await _ruled(bench, [before[path], changed[path], reference, own])
        if said is None:  # whose fault is it: what about a text with which nothing is wrong?
            control, ended_too = await _ruled(bench, [before[path], reference, reference, own])
            if control is None:
                raise VerifierError(
                    f"repair_project: the rules cannot be tried on {path}, nor on the project's own text: {ended_too}"
                )
            return f"{path} cannot be read: {ended}"
        if said:
            return f"{path}: {said}"
    return ""


async def _ruled(bench: Bench, texts: list[Any]) -> tuple[str | None, str]:
    """What the rules say to a file (`rules.broken`), None where the program did not come through; and how it ended."""
    try:
        sandbox = await bench.sandboxes.acquire()
        try:
            result = await sandbox.python(RULES, stdin=json.dumps([texts]).encode(), limits=RULES_LIMITS)
        finally:
            await sandbox.close()
    except SandboxError as error:
        raise VerifierError(f"repair_project: the verifier's sandbox failed: {error}") from error
    try:
        found = json.loads(result.stdout) if result.ended == "exit" and result.exit_code == 0 else None
    except ValueError:
        found = None
    said = found[0] if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str) else None
    return said, result.ended


async def _tried(bench: Bench, data: Mapping[str, Any], files: Mapping[str, str]) -> Verdict:
    tests = [*data["visible"], *data["hidden"], *data["keep"]]
    jobs: list[dict[str, Any]] = [
        {"kind": "calls", "seconds": CALLS_S, **{key: one[key] for key in ("module", "function", "calls")}}
        for one in data["calls"]
    ]
    jobs.append({"kind": "tests", "ids": tests, "seconds": data["seconds"]})
    *called, tested = await bench.jobs(jobs, files=files)
    for one, report in zip(data["calls"], called, strict=True):
        got = report["found"].get("values")
        if report["ended"] != "exit" or not isinstance(got, list) or len(got) != len(one["want"]):
            return Verdict(False, f"{one['function']}, called: {report['ended']}")
        wrong = sum(not same(value, want) for value, want in zip(got, one["want"], strict=True))
        if wrong:
            return Verdict(False, f"{one['function']}: {wrong} of {len(got)} calls give something else")
    found = outcomes(tested)
    failed = [test for test in tests if found.get(test) != "passed"]
    if failed or tested["ended"] != "exit":
        return Verdict(False, f"{len(failed)} of {len(tests)} tests do not pass ({tested['ended']}): {failed[:3]}")
    return Verdict(True)
