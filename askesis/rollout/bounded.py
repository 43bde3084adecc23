"""Waiting for what others wrote: a bound in time that holds even if the other side refuses to be cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from askesis.types import Waits, counted

T = TypeVar("T")

GRACE_S = 1.0
_LOOK_S = 0.01  # who stands in line with no time left is looked at this often
_log = logging.getLogger("askesis.rollout")


class CancelledWithin(Exception):
    """What was waited for was cancelled, but not by us: a failure of the other side."""


async def bounded(work: Coroutine[Any, Any, T], seconds: float, waits: Waits | None = None) -> T:
    """The result of `work`, run in a task of its own.

    Raises `TimeoutError` after `seconds`, without those in line, which `waits` gets; the task is cancelled and, if that
    does not end it within `GRACE_S`, abandoned. Raises `CancelledWithin` if the work cancelled itself. When the caller
    is cancelled, so is the work.
    """
    clock = asyncio.get_running_loop().time
    waits = Waits(clock) if waits is None else waits
    end = clock() + seconds - waits.seconds
    with counted(waits):
        task = asyncio.ensure_future(work)
    try:
        while not task.done() and (left := end + waits.seconds - clock()) > 0:
            await _done_within(task, max(left, _LOOK_S))
    except asyncio.CancelledError:
        await _put_down(task)
        raise
    if not task.done():
        await _put_down(task)
        raise TimeoutError(f"no answer within {seconds:g} s")
    if task.cancelled():
        raise CancelledWithin("the task was cancelled from within")
    return task.result()


async def _done_within(task: asyncio.Task[Any], seconds: float) -> None:
    """As `asyncio.wait((task,), timeout=seconds)`, for less: it is called for every turn and every call."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def over(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(seconds, over)
    task.add_done_callback(over)
    try:
        await waiter
    finally:
        timer.cancel()
        task.remove_done_callback(over)


async def finished(work: Coroutine[Any, Any, None], seconds: float, what: str) -> None:
    """Run `work` to its end, or for `seconds`, even while the caller is being cancelled: for closing things.

    Swallows cancellation (callers are about to return) and errors, which are logged as `what`.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not task.done() and loop.time() < deadline:
        try:
            await asyncio.wait((task,), timeout=max(0.0, deadline - loop.time()))
        except asyncio.CancelledError:
            continue
    if not task.done():
        task.cancel()
        _log.warning("%s did not end within %g s and was abandoned", what, seconds)
    elif not task.cancelled() and task.exception() is not None:
        _log.warning("%s failed: %r", what, task.exception())


async def _put_down(task: asyncio.Task[Any]) -> None:
    task.cancel()
    task.add_done_callback(_look_at)
    await asyncio.wait((task,), timeout=GRACE_S)


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not complain about an error that nobody waits for
