"""A tool call that runs a test in the sandbox, beside a bubblewrap that is started for it.

The call is what `repair` does at every turn: the visible tests of a module, in a tree that holds that module. The peer
is isolated by starting afresh each time: the same interpreter, namespaces, mounts and rlimits, its tree a temporary
folder, as many at once. It has no system-call filter, and nobody adds up what all its processes use: it does a little
less. Both take turns in one run, and must print the same.

p50_ms, p99_ms: one call at a time. calls_per_s: with as many callers as an RL step has episodes, and as many of their
calls at once as there are workers. reset_ms: what an episode costs beside its calls: a sandbox acquired, its file
written and read, closed.

Options: `repeats` (5), `calls` (200 a repeat), `callers` (64), `workers` (2: one a core of the goal's machine).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from askesis.envs.repair import Repair
from askesis.envs.repair.environment import FILE, RUN_LIMITS
from askesis.envs.repair.guest import HIDDEN_CALLS, VISIBLE_TESTS
from askesis.sandbox import SandboxPool, bubblewrap
from bench.result import Options, Result

OURS, PEER = "askesis", "bubblewrap"
P50_MS, PER_S = 5.0, 300.0
Call = Callable[[], Awaitable[str]]  # run the tests; what they printed


@dataclass
class Figures:
    """Of one contender: a figure's name to one value a repeat."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """The value of one repeat."""
        self.values.setdefault(name, []).append(value)

    def medians(self) -> dict[str, float]:
        """Over the repeats."""
        return {name: round(statistics.median(found), 3) for name, found in self.values.items()}

    def spread(self) -> dict[str, list[float]]:
        """Least and most."""
        return {name: [round(min(found), 3), round(max(found), 3)] for name, found in self.values.items()}


class Warm:
    """Ours: a pool as `repair` makes it."""

    def __init__(self, pool: SandboxPool, module: bytes, cases: bytes) -> None:
        self.pool, self.module, self.cases = pool, module, cases

    async def episode(self, calls: int, body: Callable[[Call], Awaitable[None]]) -> None:
        """A sandbox, `calls` calls in it, and its end."""
        sandbox = await self.pool.acquire()
        await sandbox.write(FILE, self.module)

        async def call() -> str:
            return (await sandbox.python(VISIBLE_TESTS, stdin=self.cases)).stdout

        for _ in range(calls):
            await body(call)
        await sandbox.read(FILE)
        await sandbox.close()


class Cold:
    """The peer: a bubblewrap a call, at most `workers` at once."""

    def __init__(self, folder: Path, workers: int, module: bytes, cases: bytes) -> None:
        self.folder, self.module, self.cases = folder, module, cases
        self.turns = asyncio.Semaphore(workers)

    async def episode(self, calls: int, body: Callable[[Call], Awaitable[None]]) -> None:
        """A folder, `calls` calls in it, and its end."""
        tree = Path(tempfile.mkdtemp(dir=self.folder))
        tree.joinpath(FILE).write_bytes(self.module)
        command = _command(tree)

        async def call() -> str:
            async with self.turns:
                pipe = asyncio.subprocess.PIPE
                process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
                async with asyncio.timeout(RUN_LIMITS.wall_s + 60):
                    stdout, stderr = await process.communicate(self.cases)
            if process.returncode != 0:
                raise SystemExit(f"bench sandbox: the peer ended with {process.returncode}: {stderr.decode()}")
            return stdout.decode()

        for _ in range(calls):
            await body(call)
        tree.joinpath(FILE).read_bytes()
        shutil.rmtree(tree)


def _command(tree: Path) -> list[str]:
    """The sandbox's own mounts and environment, without what belongs to its workers, and the tree as a folder."""
    ours = bubblewrap.arguments(bubblewrap.find(), info=0, gate=0, texts={})
    command, at = [], 0
    while at < len(ours):
        if ours[at] in ("--info-fd", "--userns-block-fd", "--cap-add", "--uid", "--gid"):
            at += 2
        elif ours[at] in ("--as-pid-1", "--remount-ro"):  # an interpreter is no process 1; the tree comes after this
            at += 1 if ours[at] == "--as-pid-1" else 2
        else:
            command.append(ours[at])
            at += 1
    command += ["--uid", str(bubblewrap.USER), "--gid", str(bubblewrap.USER), "--dir", "/home/tmp"]
    command += ["--bind", str(tree), "/home/agent", "--remount-ro", "/", "--chdir", "/home/agent"]
    limits = f"ulimit -t {math.ceil(RUN_LIMITS.cpu_s)} -v {RUN_LIMITS.memory // 1024} -n 256 -c 0 "
    limits += f"-f {RUN_LIMITS.file_size // 512} -u {RUN_LIMITS.processes}"
    limits = limits.replace(" -", "; ulimit -").removeprefix("ulimit; ")  # dash takes one a command
    return [*command, "sh", "-c", f'{limits}; exec "$0" -I -S -X utf8 -c "$1"', bubblewrap.interpreter(), VISIBLE_TESTS]


async def _measure(contender: Warm | Cold, figures: Figures, calls: int, callers: int) -> set[str]:
    """One repeat; what the calls printed."""
    printed, times = set(), []

    async def timed(call: Call) -> None:
        began = time.perf_counter()
        printed.add(await call())
        times.append(1000 * (time.perf_counter() - began))

    await contender.episode(calls, timed)
    times.sort()
    figures.add("p50_ms", times[len(times) // 2])
    figures.add("p99_ms", times[math.ceil(0.99 * len(times)) - 1])
    times.clear()
    each = max(1, calls // callers)
    began = time.perf_counter()
    await asyncio.gather(*(contender.episode(each, timed) for _ in range(callers)))
    figures.add("calls_per_s", len(times) / (time.perf_counter() - began))
    began = time.perf_counter()
    for _ in range(calls):
        await contender.episode(0, timed)
    figures.add("reset_ms", 1000 * (time.perf_counter() - began) / calls)
    return printed


async def _run(options: Options) -> dict[str, Figures]:
    repeats, calls = options.number("repeats", 5), options.number("calls", 200)
    callers, workers = options.number("callers", 64), options.number("workers", 2)
    task = Repair().tasks("train", limit=1)[0]
    module, cases = task.data["source"].encode(), json.dumps(task.data["visible"]).encode()
    figures = {OURS: Figures(), PEER: Figures()}
    with tempfile.TemporaryDirectory() as folder:
        pool = SandboxPool(workers, RUN_LIMITS, preload=("io", "json"), programs=(VISIBLE_TESTS, HIDDEN_CALLS))
        async with pool:
            contenders = {OURS: Warm(pool, module, cases), PEER: Cold(Path(folder), workers, module, cases)}
            printed = set()
            for repeat in range(-1, repeats):  # the first, shorter one is for warming up
                size = (calls, callers) if repeat >= 0 else (20, 4)
                for name, contender in contenders.items():
                    print(f"repeat {repeat + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
                    printed |= await _measure(contender, figures[name] if repeat >= 0 else Figures(), *size)
                    if len(printed) != 1 or not next(iter(printed)).startswith(("OK", "FAIL")):
                        raise SystemExit(f"bench sandbox: {name}: expected one verdict from all calls, got {printed}")
    return figures


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    figures = asyncio.run(_run(options))
    ours, peer = figures[OURS].medians(), figures[PEER].medians()
    cores = len(os.sched_getaffinity(0))
    return Result(
        name="sandbox",
        command="python -m bench sandbox",
        goal=f"a tool call's median within {P50_MS:g} ms, and {PER_S:g} calls a second on two cores",
        ours=ours,
        peers={PEER: peer},
        spread={name: found.spread() for name, found in figures.items()},
        ratio=round(ours["calls_per_s"] / peer["calls_per_s"], 2),
        met=ours["p50_ms"] <= P50_MS and ours["calls_per_s"] >= PER_S,
        notes=[
            f"{options.number('workers', 2)} at once, {cores} cores, {options.number('repeats', 5)} repeats in turns",
            f"one at a time: {peer['p50_ms'] / ours['p50_ms']:.1f} x faster than a bubblewrap started for the call",
        ],
    )


def row(kept: Mapping[str, Any]) -> str:
    """The page's line."""
    ours, (peer,) = kept["ours"], kept["peers"].values()
    return (
        f"- **A tool call that runs a test in the sandbox**: {ours['p50_ms']:.1f} ms (p99 {ours['p99_ms']:.1f} ms), "
        f"{ours['calls_per_s']:,.0f} calls a second; a bubblewrap started for each call: {peer['p50_ms']:.0f} ms, "
        f"{peer['calls_per_s']:,.0f} a second. `{kept['command']}`"
    )
