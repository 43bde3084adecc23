"""A thread beside the event loop, for what computes: gradients, checkpoints. What hangs in it does not hang unseen."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from askesis.loop.watchdog import NOTICE_S, raise_in
from askesis.types import StallError

T = TypeVar("T")
_TURN_S = 1e-3


@contextmanager
def quick_turns(wanted: bool) -> Iterator[None]:
    """Let threads take the interpreter from each other after a millisecond, in place of five.

    The engine's steps are about as short: with the trainer in Python beside it, it would else wait longer for its turn
    after each of them than the step has taken.
    """
    before = sys.getswitchinterval()
    if wanted:
        sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Beside:
    """One thread. seconds: after which a piece of work counts as hanging and `StallError` is raised in it, 0 for never;
    say: gets a line where one takes long, or hangs."""

    def __init__(self, seconds: float, say: Callable[[str], None], *, notice_s: float = NOTICE_S) -> None:
        self._seconds, self._say, self._notice_s = seconds, say, notice_s
        self._thread = ThreadPoolExecutor(1, "trainer")

    async def do(self, what: str, work: Callable[[], T]) -> T:
        """Have it done there, while all else goes on here."""
        piece = _Piece(work)
        future = asyncio.get_running_loop().run_in_executor(self._thread, piece.do)
        waited, noticed, struck = 0.0, False, 0.0
        while True:
            ends = [self._notice_s] if not noticed else []
            ends += [struck + self._seconds] if self._seconds else []
            await asyncio.wait({future}, timeout=min(ends) - waited if ends else None)
            if future.done():
                return future.result()
            waited = min(ends)
            if self._seconds and waited >= struck + self._seconds:
                struck = waited
                message = (
                    f"{what} has stood still for {self._seconds:.3g} s; expected it to come back within that time "
                    "(run.stall_s)"
                )
                self._say(message)
                piece.strike(message)
            elif waited >= self._notice_s:
                noticed = True
                self._say(f"note: {what} takes long: {waited:.3g} s so far")

    def close(self) -> None:
        """Wait for what it does."""
        self._thread.shutdown()


class _Piece(Generic[T]):
    """A piece of work. It is struck while it is done, and never later: the thread's own loop would die of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._ident = work, 0  # the thread that does it; 0 before and after
        self._striking = threading.Lock()

    def do(self) -> T:
        """In the thread."""
        done: list[T] = []
        try:
            self._ident = threading.get_ident()
            try:
                done.append(self._work())
            finally:
                with self._striking:
                    self._ident = 0
        except StallError:
            if not done:  # else it was struck when it had just come to its end
                raise
        return done[0]

    def strike(self, message: str) -> None:
        """Raise a `StallError` in it, if it is still done."""

        class Stalled(StallError):
            """A `StallError` that knows what it says: an exception for another thread is given as a class."""

            def __init__(self) -> None:
                super().__init__(message)

        if not self._striking.acquire(blocking=False):
            return  # it comes to its end at this very moment
        try:
            if self._ident:
                raise_in(self._ident, Stalled)
        finally:
            self._striking.release()
