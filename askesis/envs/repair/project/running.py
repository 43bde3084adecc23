"""How a project's programs are run in a sandbox: the tree, the command, the limits, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.repair.project.guest import JOBS, SHOW
from askesis.envs.repair.project.reading import Project
from askesis.sandbox import LazyPool
from askesis.sandbox.bubblewrap import interpreter
from askesis.types import RunLimits, RunResult, Sandbox, Snapshot

OUTPUT = 2**26  # bytes that a run of jobs may report


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a project is run. sites: folders with the packages that its tests need. snapshot: its tree as it is."""

    project: Project
    sites: Sequence[str]
    pytest_args: Sequence[str]
    sandboxes: LazyPool
    limits: RunLimits
    snapshot: Snapshot

    @classmethod
    async def open(
        cls,
        project: Project,
        sandboxes: LazyPool,
        limits: RunLimits,
        *,
        sites: Sequence[str],
        pytest_args: Sequence[str] = (),
    ) -> Bench:
        """Lay the project's tree out once; every sandbox begins with it."""
        sandbox = await sandboxes.acquire()
        try:
            for path, content in project.files.items():
                await sandbox.write(path, content)
            snapshot = await sandbox.snapshot()
        finally:
            await sandbox.close()
        return cls(
            project=project,
            sites=sites,
            pytest_args=pytest_args,
            sandboxes=sandboxes,
            limits=limits,
            snapshot=snapshot,
        )

    async def jobs(
        self, jobs: Sequence[Mapping[str, Any]], *, files: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Do jobs in a fresh sandbox, and return what each came to (`guest`).

        files: texts that replace those of the project for all jobs. Where the program ended before it got to a job,
        that job has `ended` "never". Raises `SandboxError`.
        """
        asked = {**self._asked, "jobs": list(jobs)}
        sandbox = await self.sandboxes.acquire(self.snapshot)
        try:
            for path, text in (files or {}).items():
                await sandbox.write(path, text.encode())
            result = await sandbox.run(_command(JOBS), stdin=json.dumps(asked).encode(), limits=self.limits)
        finally:
            await sandbox.close()
        found = reports(result, len(jobs))
        never: dict[str, Any] = {"ended": "never", "seconds": 0.0, "found": {}}
        return [found.get(number, never) for number in range(len(jobs))]

    async def show(self, sandbox: Sandbox, tests: Sequence[str], limits: RunLimits) -> RunResult:
        """Run tests in an agent's own sandbox, for it to read."""
        asked = {**self._asked, "ids": list(tests)}
        return await sandbox.run(_command(SHOW), stdin=json.dumps(asked).encode(), limits=limits)

    @property
    def _asked(self) -> dict[str, Any]:
        return {
            "roots": [*self.project.roots],
            "sites": [*self.sites],
            "pytest_args": [*self.pytest_args],
            "sources": [*self.project.sources],
        }


def _command(program: str) -> list[str]:
    return [interpreter(), "-I", "-S", "-X", "utf8", "-c", program]


def reports(result: RunResult, count: int) -> dict[int, dict[str, Any]]:
    """The jobs that were reported exactly once, by their number; data of an unknown make is none."""
    found: dict[int, dict[str, Any]] = {}
    twice: set[int] = set()
    for line in result.stdout.splitlines():
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            continue
        number = one.get("job") if isinstance(one, dict) else None
        if type(number) is int and 0 <= number < count and isinstance(one.get("found"), dict):
            twice |= {number} & set(found)
            found[number] = one
    return {number: one for number, one in found.items() if number not in twice}


def outcomes(report: Mapping[str, Any]) -> dict[str, str]:
    """What became of each test of a job."""
    tests = report["found"].get("tests", {})
    if not isinstance(tests, dict):
        return {}
    return {test: str(one.get("outcome")) for test, one in tests.items() if isinstance(one, dict)}
