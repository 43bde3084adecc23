"""The thread beside the loop: what it does, what it says of what hangs."""

import asyncio
import threading
import time

import pytest

from askesis.loop.beside import Beside
from askesis.types import StallError


async def test_work_goes_on_beside_the_loop_and_what_it_raises_comes_back():
    beside, turns = Beside(0, print), 0
    work = asyncio.create_task(beside.do("a nap", lambda: time.sleep(0.2) or "slept"))
    while not work.done():
        turns += 1
        await asyncio.sleep(0.01)
    assert (await work, turns > 3) == ("slept", True)
    with pytest.raises(ZeroDivisionError):
        await beside.do("a sum", lambda: 1 // 0)
    beside.close()


async def test_what_has_just_ended_is_not_struck():
    """It ends between the moment at which it counts as hanging and the one at which it would be interrupted."""
    release = threading.Event()

    def say(line):
        release.set()
        time.sleep(0.2)

    beside = Beside(0.1, say, notice_s=60)
    assert await beside.do("a step of the trainer", lambda: release.wait() and "done") == "done"
    async with asyncio.timeout(10):
        assert await beside.do("the next", lambda: 1) == 1
    beside.close()


async def test_what_hangs_is_named_and_interrupted():
    said = []
    beside = Beside(0.3, said.append, notice_s=0.1)

    def hang():
        while True:
            time.sleep(0.01)

    with pytest.raises(StallError, match=r"a step of the trainer has stood still for 0\.3 s"):
        await beside.do("a step of the trainer", hang)
    assert said[0].startswith("note: a step of the trainer takes long: 0.1 s") and len(said) == 2
    assert await beside.do("the next", lambda: 1) == 1
    beside.close()
