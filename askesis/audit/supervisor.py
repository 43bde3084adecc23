"""Runs probes in processes of their own, so that an environment can hang, fork, flood or die and the audit goes on.

A worker that says nothing in time, writes without end, takes too much memory or starts too many processes is ended with
everything that it has started, which is a finding; the probes that are left go to a fresh one. So is what comes on the
channel and was not asked for: each answer carries the key of its question.

Between this process and a worker stands a reaper: it gets whatever the worker leaves behind, however it was started.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from askesis.audit.hashes import HASH
from askesis.audit.probe import Probe
from askesis.types import ConfigError

START_S = 60.0  # until the environment is loaded
GRACE_S = 5.0  # of a probe beyond its seconds, before its worker is ended
MEMORY = 6 * 2**30  # bytes of address space that a worker may fill
PROCESSES = 400  # that a worker may have at one time
PRINTED = 8 * 2**20  # bytes that the environment may print for one probe
MARK = "ASKESIS_AUDIT"  # a variable
_SUBREAPER = 36  # prctl(2): processes whose parent is gone become children of this one
_LOOK_S = 0.2
_MOST_PATIENCE = 10.0  # times what is due on an idle machine

Answer = Mapping[str, Any]


@dataclass(slots=True)
class Supervisor:
    """told: what the workers load, as `worker` reads it. jobs: workers at a time. on_answer: called with each answer.

    facts: what a worker said of the environment when it had loaded it.
    """

    told: Mapping[str, Any]
    jobs: int = 2
    on_answer: Callable[[Answer], None] = lambda answer: None
    facts: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)

    async def run(self, chosen: Sequence[Probe], seconds: float) -> Mapping[str, Answer]:
        """An answer for each probe, by name. seconds: for all of it. Raises `ConfigError` where the environment cannot
        be loaded."""
        ends = time.monotonic() + seconds
        left = sorted(chosen, key=lambda probe: -probe.seconds)
        works = [self._work(left, ends) for _ in range(min(self.jobs, len(chosen)))]
        await asyncio.gather(*works, self._hash())
        for probe in chosen:
            if probe.name not in self.answers:
                self._answered(probe, {"verdict": "inconclusive", "note": "the time was up before it began"})
        return self.answers

    async def _work(self, left: list[Probe], ends: float) -> None:
        """Take probes until none is left, in one worker after another."""
        worker: Worker | None = None
        try:
            while left and time.monotonic() < ends:
                if worker is None or not worker.alive:
                    if worker is not None:
                        await worker.end()
                    worker = Worker(self.told)
                    loaded = await worker.start()
                    if "ready" not in loaded:  # what did not survive being loaded will not the next time either
                        self._lost(left, loaded)
                    self.facts |= loaded
                    continue
                probe = left.pop(0)
                share = self._share(probe, left, ends)
                self._answered(probe, await worker.ask(probe.name, share))
        finally:
            if worker is not None:
                await worker.end()

    async def _hash(self) -> None:
        """What tasks there are, told by a fresh worker: one that probes have run in may have been changed by them."""
        worker = Worker(self.told)
        try:
            if "ready" in await worker.start():
                self.facts["tasks"] = (await worker.ask(HASH, START_S)).get("tasks", "")
        finally:
            await worker.end()

    def _share(self, probe: Probe, left: Sequence[Probe], ends: float) -> float:
        """Seconds for this probe: its part of what there is, and what others leave over."""
        total = probe.seconds + sum(other.seconds for other in left)
        have = max(1.0, ends - time.monotonic())
        return min(have, max(1.0, 2.0 * self.jobs * have * probe.seconds / total))

    def _lost(self, left: list[Probe], answer: Answer) -> None:
        """The environment cannot be stood on: the first probe says so, the others cannot tell."""
        for place, probe in enumerate(left):
            unsure = {"verdict": "inconclusive", "note": "the environment did not survive being loaded"}
            self._answered(probe, unsure if place or self.answers else answer)
        left.clear()

    def _answered(self, probe: Probe, answer: Answer) -> None:
        self.answers[probe.name] = {"probe": probe.name, "seconds": 0.0, **answer}
        self.on_answer(self.answers[probe.name])


class Worker:
    """One process, and what it has started."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told = told
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._printed, self._words = 0, b""
        self._draining: asyncio.Task[None] | None = None
        self._scratch = tempfile.mkdtemp(prefix="askesis-audit-")
        self._mark = secrets.token_hex(8)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> Answer:
        """Load the environment: what the worker says of it (`ready` is its name), or a finding where it did not live to
        say it. Raises `ConfigError` where there is no such environment."""
        reading, writing = os.pipe()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "askesis.audit.worker", str(writing)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            env={"OMP_NUM_THREADS": "1"} | os.environ | {"TMPDIR": self._scratch, MARK: self._mark},
            preexec_fn=_behind_a_reaper,
        )
        os.close(writing)
        self._reader = asyncio.StreamReader(limit=2**20)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader or asyncio.StreamReader()), os.fdopen(reading, "rb")
        )
        self._draining = asyncio.create_task(self._drain())
        key = secrets.token_hex(8)
        self._send({**self._told, "key": key})
        answer = await self._answer(START_S, key)
        if "failed" in answer:
            await self.end()
            raise ConfigError(f"audit: {answer['failed']}")
        return answer

    async def ask(self, probe: str, seconds: float) -> Answer:
        """What came of a probe; a finding where the worker did not live to tell."""
        self._printed = 0
        key = secrets.token_hex(8)
        self._send({"probe": probe, "seconds": seconds, "key": key})
        return await self._answer(seconds + GRACE_S, key)

    @property
    def last_words(self) -> str:
        """The end of what was printed."""
        return self._words.decode(errors="replace").strip()[-800:]

    def _send(self, value: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(value).encode() + b"\n")

    async def _answer(self, seconds: float, key: str) -> Answer:
        assert self._reader is not None and self._process is not None
        begun, others = time.monotonic(), [0]
        line = asyncio.ensure_future(self._reader.readline())
        what = ""
        while not line.done() and not what:
            await asyncio.wait((line,), timeout=_LOOK_S)
            if line.done():
                break
            own, waited = family(self._process.pid), time.monotonic() - begun
            others.append(max(0, running() - 1 - len(own)))
            if waited > patience(seconds, others, os.cpu_count() or 1):
                what = f"it did not answer within {waited:.0f} s: something in it waits without letting others run"
            elif self._printed > PRINTED:
                what = f"it printed more than {PRINTED >> 20} MiB"
            elif len(own) > PROCESSES:
                what = f"it had more than {PROCESSES} processes"
        if not what:
            told = _read(line)
            if isinstance(told, dict) and told.pop("key", None) == key:
                return told
            forged = line.exception() is not None or line.result()
            what = "it wrote to the descriptor that the audit listens to" if forged else await self._how_it_ended()
        line.cancel()
        await self.end()
        return {
            "verdict": "found",
            "hits": 1,
            "n": 1,
            "severity": "high",
            "flaw": "does not survive",
            "evidence": f"The environment did not survive this: {what}. {self.last_words}".strip(),
            "note": "",
            "seconds": round(time.monotonic() - begun, 3),
        }

    async def _how_it_ended(self) -> str:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            code = await asyncio.wait_for(self._process.wait(), GRACE_S)
            return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with {code}"
        return "it closed the channel to the audit"

    async def _drain(self) -> None:
        """Read what is printed, and keep the end of it."""
        assert self._process is not None and self._process.stdout is not None
        while part := await self._process.stdout.read(2**16):
            self._printed += len(part)
            self._words = (self._words + part)[-4000:]

    async def end(self) -> None:
        """It, and everything that it has started. Idempotent."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE_S)
        end_all(process.pid, self._mark)
        if process.returncode is None:
            await process.wait()
        if self._draining is not None:
            self._draining.cancel()
        if self._transport is not None:
            self._transport.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _read(line: asyncio.Future[bytes]) -> Any:
    """What a line says; None where it is none."""
    try:
        return json.loads(line.result())
    except (ValueError, RecursionError):
        return None


def _behind_a_reaper() -> None:
    """In a new process, before it becomes the worker: it becomes the reaper, and its child goes on to be the worker.

    Hard limits stay: a sandbox sets its own, and may need more.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    worker = os.fork()
    if worker:
        _reap(worker)
    os.setsid()  # who kills the group does not kill the reaper
    for which, bound in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, 2**30), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(which, (bound, resource.getrlimit(which)[1]))


def _reap(worker: int) -> NoReturn:
    """Wait for the worker, kill all that it leaves, and end as it did."""
    os.closerange(0, 2**16)
    status = -1
    with contextlib.suppress(BaseException):
        ended = 0
        while ended != worker:
            ended, status = os.waitpid(-1, 0)
        end_all(os.getpid(), "")
    if os.WIFSIGNALED(status):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def patience(seconds: float, others: Sequence[int], cores: int) -> float:
    """Seconds to wait on a machine on which so many others wanted to run, each time one looked: who gets a third of a
    core takes three times as long, and that is nobody's fault."""
    return seconds * min(_MOST_PATIENCE, 1.0 + sum(others) / len(others) / cores)


def running() -> int:
    """How many threads of this machine run or wait for a core, this one among them."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


def family(root: int) -> set[int]:
    """The processes of the session that `root` leads, and all that descend from it."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                values = (path / "stat").read_text().rpartition(")")[2].split()
                if values[0] != "Z":
                    parents[int(path.name)], sessions[int(path.name)] = int(values[1]), int(values[3])
    found = {pid for pid, session in sessions.items() if session == root} | ({root} & parents.keys())
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def end_all(root: int, mark: str) -> None:
    """Kill what descends from `root` or is of its session, what a dead reaper has left, known by `mark`, and at last
    `root` itself, which gets their orphans as long as it lives. A `root` that asks for itself goes on."""
    for _ in range(200):  # what forks meanwhile is found the next time
        left = (family(root) | _marked(mark)) - {root}
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        if not left:
            break
        time.sleep(0.02)
    if root != os.getpid():
        with contextlib.suppress(OSError):
            os.kill(root, signal.SIGKILL)


def _marked(mark: str) -> set[int]:
    """Processes that have `mark` among their variables: a worker gives it to all that it starts."""
    found = set()
    for path in Path("/proc").iterdir() if mark else ():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found.add(int(path.name))
    return found
