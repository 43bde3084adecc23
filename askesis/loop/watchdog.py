"""Nothing that blocks the event loop hangs unseen: a thread looks at whether the loop still turns.

Where it has stood still for a while, the thread says in which function; after `seconds` it raises `StallError` in that
function. In a tool or a verifier that is a typed failure of one episode, which is played again; in the trainer or in a
write to disk it ends the run in order. What blocks inside of the kernel or of a library that never comes back to Python
cannot be interrupted so, and is only named.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from askesis.types import StallError

NOTICE_S = 300.0
_SIGNAL = signal.SIGURG  # ignored unless somebody listens, and used by nobody here


def raise_in(ident: int, error: type[Exception]) -> None:
    """Have `error` raised in the thread `ident`, the next time that it runs Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


class Watchdog:
    """Watches the event loop in which it is entered. seconds: 0 for no bound, only notices. say: gets a line."""

    def __init__(self, seconds: float, say: Callable[[str], None], *, notice_s: float = NOTICE_S) -> None:
        self._seconds, self._say, self._notice_s = seconds, say, notice_s
        self._turned = time.monotonic()
        self._over = threading.Event()
        self._message, self._struck = "", 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._before: Any = None

    async def __aenter__(self) -> Self:
        self._thread = threading.current_thread()
        self._main = self._thread is threading.main_thread()
        if self._main and self._seconds:
            self._before = signal.signal(_SIGNAL, self._interrupt)
        bounds = [self._notice_s, *([self._seconds] if self._seconds else [])]
        self._look_s = min(1.0, min(bounds) / 4)
        self._turned = time.monotonic()
        self._tasks = [asyncio.create_task(self._turn(), name="askesis-watchdog")]
        threading.Thread(target=self._watch, name="askesis-watchdog", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for task in self._tasks:
            task.cancel()
        if self._main and self._seconds:
            signal.signal(_SIGNAL, self._before if self._before is not None else signal.SIG_DFL)

    async def _turn(self) -> None:
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(self._look_s)

    def _watch(self) -> None:
        noticed = struck = 0.0
        while not self._over.wait(self._look_s):
            turned = self._turned
            still = time.monotonic() - turned
            if still < self._notice_s and not (self._seconds and still >= self._seconds):
                continue
            where = self._where()
            if self._seconds and still >= self._seconds and struck != turned:
                struck = noticed = turned
                self._message = (
                    f"the run has stood still for {still:.3g} s in {where}; expected it to go on within "
                    f"{self._seconds:g} s (run.stall_s)"
                )
                self._struck = turned
                self._tell(self._message)
                self._strike()
            elif noticed != turned:
                noticed = turned
                self._tell(f"note: the run has stood still for {still:.3g} s in {where}")

    def _tell(self, line: str) -> None:
        with suppress(Exception):  # a display in the middle of drawing
            self._say(line)

    def _where(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "a function that is gone"
        stack = traceback.extract_stack(frame)
        own = [one for one in stack if "/askesis/" in one.filename] or stack
        told = [f"{one.name} ({one.filename.rpartition('/')[2]}:{one.lineno})" for one in (own[-1], stack[-1])]
        return ", in ".join(dict.fromkeys(told))

    def _strike(self) -> None:
        """Raise `StallError` in the thread of the loop."""
        ident = self._thread.ident
        if ident is None:
            return
        if self._main:
            signal.pthread_kill(ident, _SIGNAL)
        else:
            raise_in(ident, StallError)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        message, self._message = self._message, ""
        if message and self._turned == self._struck:  # else it has gone on in the last moment
            raise StallError(message)
