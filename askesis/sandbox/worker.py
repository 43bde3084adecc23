"""A worker as the host sees it: a bubblewrap with a warden in it, which runs one program at a time.

A worker that does anything but answer is killed with all that lives in it, and the call that it served raises
`SandboxError`: that is the machinery's failure and never the program's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import marshal
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from askesis.sandbox import bubblewrap, seccomp, warden
from askesis.sandbox.tree import Row
from askesis.types import Ended, RunLimits, SandboxError

START_S = 60.0  # a worker that is not ready by then will not be
GRACE_S = 2 * warden.SETUP_S  # what a run may take beyond its time: to begin, to die, to answer
ENDS: dict[int, Ended] = {
    warden.EXIT: "exit",
    warden.WALL: "wall",
    warden.CPU: "cpu",
    warden.MEMORY: "memory",
    warden.KILLED: "killed",
    warden.STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a run came to. tree: the descriptor of its folder, closed by whoever holds the answer."""

    ended: Ended
    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    wall_s: float
    tree: int


class Worker:
    """Made by `Worker.start`; whoever made it kills it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: int, info: int) -> None:
        self._process, self._control, self._log, self._info = process, control, log, info
        self._warden: int | None = None  # a pidfd
        self._said = ""
        self._waiting: asyncio.Future[tuple[bytes, list[int]]] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._readable)
        self.alive = True

    @classmethod
    async def start(cls, bwrap: str, config: Mapping[str, Any]) -> Worker:
        """A worker that is ready. config: for the warden. Raises `SandboxError`.

        size, inodes: of the file system that a run gets. preload: modules, programs: sources, ready before the fork.
        live: it serves a sandbox with terminals (`steward`).
        """
        gate = os.pipe2(os.O_CLOEXEC)
        try:
            worker = cls._spawn(bwrap, gate[0], config)
            try:
                async with asyncio.timeout(START_S):
                    ready = worker._next()
                    await worker._admit(gate[1])
                    message, _ = await ready
                worker._waiting = None
                if message != warden.READY:
                    raise OSError(f"a worker began with {message!r}, expected {warden.READY!r}")
            except BaseException as error:
                said = await worker.kill()
                if isinstance(error, TimeoutError):
                    raise bubblewrap.refusal(f"not ready after {START_S:g} s. {said}") from None
                if isinstance(error, OSError):
                    raise bubblewrap.refusal(said or str(error)) from error
                raise
            return worker
        finally:
            for end in gate:
                os.close(end)

    @classmethod
    def _spawn(cls, bwrap: str, gate: int, config: Mapping[str, Any]) -> Worker:
        """Start the process. It dies with the thread that starts it, so that is the event loop's own."""
        filters = seccomp.filters()
        with contextlib.ExitStack() as on_error, contextlib.ExitStack() as always:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            on_error.callback(ours.close)
            always.callback(theirs.close)
            info, info_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            on_error.callback(os.close, info)
            always.callback(os.close, info_end)
            log = os.memfd_create("askesis-worker")
            on_error.callback(os.close, log)
            given = {**config, "control": theirs.fileno(), "user": bubblewrap.USER, "filter": filters.every.hex()}
            given["filters"] = [filters.python.hex(), filters.run.hex()]
            given["covered"] = [
                folder for folder in bubblewrap.folders(config["mounts"]) if Path(folder).is_relative_to(warden.HOME)
            ]
            texts = {path: memory(text.encode()) for path, text in bubblewrap.TEXTS.items()}
            mail = [memory(Path(warden.__file__).read_bytes()), memory(json.dumps(given).encode())]
            live = bool(config.get("live"))
            if live:
                mail.append(memory(Path(warden.__file__).with_name("steward.py").read_bytes()))
            for file in (*texts.values(), *mail):
                always.callback(os.close, file)
            command = bubblewrap.arguments(
                bwrap,
                info=info_end,
                gate=gate,
                texts=texts,
                mounts=config["mounts"],
                links=config["links"],
                terminals=live,
                covered=bubblewrap.packages(config["mounts"]) if config.get("bare") else (),
            )
            command += [bubblewrap.interpreter(), "-I", "-S", "-X", "utf8", "-c"]
            command += [warden.LIVE_BOOT if live else warden.BOOT]
            command += [",".join((*warden.NEEDED, *config["preload"])), *map(str, mail)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(theirs.fileno(), info_end, gate, *texts.values(), *mail),
            )
            on_error.pop_all()
            return cls(process, ours, log, info)

    async def _admit(self, gate: int) -> None:
        """Learn the warden's pid and, where we are root, map its user to one that is not."""
        told = b""
        while not told.rstrip().endswith(b"}"):
            try:
                part = os.read(self._info, 4096)
            except BlockingIOError:
                await asyncio.sleep(0.001)
                continue
            if not part:
                raise OSError("it ended before its first process began")
            told += part
        pid = int(json.loads(told)["child-pid"])
        self._warden = os.pidfd_open(pid)
        if os.geteuid() == 0:
            for kind in ("uid", "gid"):
                Path(f"/proc/{pid}/{kind}_map").write_text(f"0 0 1\n{bubblewrap.USER} {bubblewrap.NOBODY} 1\n")
            os.write(gate, b"1")

    async def call(self, mode: int, payload: int, stdin: int, limits: RunLimits, *, door: int | None = None) -> Answer:
        """Run one program. payload: what `packed` made; stdin: what the program reads; both are closed.

        door: one end of a pair of sockets, closed too. Through it comes the socket that listens in there, and when the
        other end is closed, the run is stopped.

        Raises `SandboxError`, and is dead after that or a cancellation.
        """
        files = [payload, stdin] if door is None else [payload, stdin, door]
        return _answer(*await self.exchange(mode, limits, files, warden.longest(limits.wall_s) + GRACE_S))

    async def exchange(
        self, mode: int, limits: RunLimits, files: Sequence[int], patience_s: float
    ) -> tuple[bytes, list[int]]:
        """Send a request, and close its `files`; the answer, with descriptors that are the caller's to close.

        Raises `SandboxError` if none comes in `patience_s`, and is dead after that or a cancellation.
        """
        request = warden.REQUEST.pack(
            *(mode, limits.wall_s, limits.cpu_s, limits.memory, limits.processes, limits.file_size, limits.output)
        )
        try:
            answer = self._next()
            socket.send_fds(self._control, [request], files)
            async with asyncio.timeout(patience_s):
                message, answered = await answer
        except BaseException as error:
            said = await self.kill()
            if isinstance(error, TimeoutError):
                raise SandboxError(f"sandbox: a worker did not answer {GRACE_S:g} s after the last moment") from None
            if isinstance(error, OSError):
                raise SandboxError(f"sandbox: a worker died during a call. {said or error}") from error
            raise
        finally:
            _close(files)
        self._waiting = None
        return message, answered

    async def kill(self) -> str:
        """End it and all that lives in it, and wait until that is gone; what it said last. Idempotent."""
        self.stop()
        for _ in range(2000):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.001)
        else:
            self._process.kill()  # it has lost its warden from sight; the warden dies with it
            self._process.wait()
        if self._warden is not None:
            os.close(self._warden)
            self._warden = None
        return self._said

    def stop(self) -> None:
        """Kill it without waiting. Idempotent."""
        if self._warden is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._warden, signal.SIGKILL)
        elif self._process.poll() is None:
            self._process.kill()
        self._lost()

    def _lost(self) -> None:
        """Let go of it; whoever waits for an answer gets a `BrokenPipeError`."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        end = os.lseek(self._log, 0, os.SEEK_END)
        self._said = os.pread(self._log, 2000, max(0, end - 2000)).decode("utf-8", "replace").strip()
        for file in (self._log, self._info):
            os.close(file)
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_exception(BrokenPipeError(self._said or "it said nothing"))
                self._waiting.exception()  # nobody may be waiting any more
            elif not self._waiting.cancelled() and self._waiting.exception() is None:
                _close(self._waiting.result()[1])  # it came too late
            self._waiting = None

    def _next(self) -> asyncio.Future[tuple[bytes, list[int]]]:
        """The next message and its descriptors."""
        if not self.alive:
            raise BrokenPipeError(self._said or "it was dead before")
        self._waiting = self._loop.create_future()
        return self._waiting

    def _readable(self) -> None:
        try:
            message, files, _, _ = socket.recv_fds(self._control, 4096, 8, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message, files = b"", []
        if message and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((message, files))
            return
        _close(files)
        self._lost()


def _answer(message: bytes, files: list[int]) -> Answer:
    ended, code, truncated, wall_s = warden.REPLY.unpack(message)
    stdout, stderr, tree, payload = files
    try:
        if ended == warden.UNSTARTED:
            why = _content(payload)
            said = why[1:].decode("utf-8", "replace") if why.startswith(b"!") else f"it ended with {code} before that"
            raise SandboxError(f"sandbox: a program could not be started: {said}")
        if ended == warden.STALLED:
            raise SandboxError(
                f"sandbox: the machine let a program have less than its wall limit in {wall_s:.1f} s; it is too busy: "
                "run fewer programs at once, or fewer other ones beside them"
            )
        answer = Answer(
            ended=ENDS[ended],
            exit_code=code,
            stdout=_content(stdout),
            stderr=_content(stderr),
            truncated=bool(truncated),
            wall_s=wall_s,
            tree=tree,
        )
    except BaseException:
        os.close(tree)
        raise
    finally:
        _close([stdout, stderr, payload])
    return answer


def packed(
    code: str | int,
    argv: Sequence[str],
    rows: list[Row],
    environment: Mapping[str, str] = MappingProxyType({}),
    port: int = 0,
) -> int:
    """A program and its tree as the warden's child reads them. code: source, or the number of one of `programs`.

    environment: variables on top of the usual ones. port: of the door, if there is one.
    """
    return memory(marshal.dumps((code, list(argv), rows, dict(environment), port)))


def memory(content: bytes) -> int:
    """A descriptor from which `content` can be read."""
    file = os.memfd_create("askesis")
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _content(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0) if size else b""


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
