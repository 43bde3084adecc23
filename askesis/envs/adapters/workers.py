"""Processes in which others' environments live, so that one that hangs or dies takes no more than its own down.

A worker answers one request after another. Its requests are bounded in time from when they are begun: what they wait
for their turn is time in line, and no limit's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from askesis.types import EnvError, in_line

_LAST_WORDS = 400
_CLOSE_S = 5.0


class Refused(Exception):
    """What was asked for is none of the things that can be: not the environment's fault."""


class Worker:
    """A process that runs `module.main`, one JSON object a line in and out. Raises `EnvError` where it is gone."""

    def __init__(self, module: str, what: str) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"
        self.what, self.held = what, 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
        )
        self._turn = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="askesis-worker")
        self._rest = b""
        self._gone = ""

    @property
    def alive(self) -> bool:
        """Whether a request could be answered, as far as is known."""
        return not self._gone and self._process.poll() is None

    def ask(self, asked: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """What the process answers. Raises `TimeoutError` where it does not within `seconds` (it is killed then),
        `Refused` and `EnvError` for what it says is wrong."""
        return self._ask(asked, seconds, lambda: None)

    async def asked(self, asked: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The same, without keeping others waiting."""
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()

        def told() -> None:
            if not begun.done():
                begun.set_result(None)

        def begin() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(told)

        try:
            work = asyncio.wrap_future(self._thread.submit(self._ask, asked, seconds, begin))
        except RuntimeError:
            raise EnvError(f"{self.what}: its process was stopped") from None
        try:
            with in_line():
                await asyncio.wait((begun, work), return_when=asyncio.FIRST_COMPLETED)
            return await work
        except asyncio.CancelledError:
            work.cancel()  # one that has begun goes on to its end, and nobody hears of it
            raise

    def _ask(self, asked: Mapping[str, Any], seconds: float, begin: Callable[[], None]) -> dict[str, Any]:
        with self._turn:
            begin()
            if not self.alive:
                raise EnvError(f"{self.what}: its process {self._gone or 'has ended'}{self._last_words()}")
            try:
                self._write(json.dumps(asked).encode() + b"\n")
                answer: dict[str, Any] = json.loads(self._line(seconds))
            except TimeoutError:
                self._end(f"did not answer within {seconds:g} s and was killed")
                raise TimeoutError(f"{self.what}: no answer to {asked['op']!r} within {seconds:g} s") from None
            except (OSError, EOFError, ValueError) as error:
                self._process.kill()
                code = self._process.wait()
                self._end(f"ended with exit code {code}" if isinstance(error, OSError | EOFError) else f"said {error}")
                raise EnvError(f"{self.what}: its process {self._gone}{self._last_words()}") from None
        if answer.pop("ok"):
            return answer
        if answer["unfit"]:
            raise Refused(answer["error"])
        raise EnvError(f"{self.what}: {answer['error']}")

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) or 0 :]

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        file, end = self._process.stdout.fileno(), time.monotonic() + seconds
        poll = select.poll()
        poll.register(file, select.POLLIN | select.POLLHUP)
        pieces = [self._rest]
        while b"\n" not in pieces[-1]:
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                raise TimeoutError
            pieces.append(os.read(file, 2**16))
            if not pieces[-1]:
                raise EOFError
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line

    def _last_words(self) -> str:
        try:
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - _LAST_WORDS))
            words = self._log.read().decode("utf-8", "replace").strip()
        except ValueError:  # closed
            return ""
        return f"; its last words: {words}" if words else ""

    def _end(self, why: str) -> None:
        self._gone = self._gone or why
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process. A request in flight gets an `EnvError`. Idempotent."""
        self._end("was stopped")
        self._thread.shutdown(wait=True, cancel_futures=True)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.close()


class Workers:
    """Up to `most` processes that episodes share, each going to the one with the fewest; 0: one for each episode."""

    def __init__(self, module: str, what: str, most: int) -> None:
        self._module, self._what, self._most = module, what, most
        self._all: list[Worker] = []

    def take(self) -> Worker:
        """The process of a new episode; `give` it back after."""
        for dead in [one for one in self._all if not one.alive and not one.held]:
            self._all.remove(dead)
            dead.close()
        alive = [one for one in self._all if one.alive]
        if self._most and len(alive) >= self._most:
            worker = min(alive, key=lambda one: one.held)
        else:
            idle = [one for one in alive if not one.held]
            worker = idle[0] if idle else Worker(self._module, self._what)
            if not idle:
                self._all.append(worker)
        worker.held += 1
        return worker

    def give(self, worker: Worker) -> None:
        """An episode has ended."""
        worker.held -= 1

    def close(self) -> None:
        """Stop all. Idempotent; the next `take` starts anew."""
        workers, self._all = self._all, []
        for worker in workers:
            worker.close()
