"""Whatever a program does with time, memory, processes, files and output has a typed end, and hurts nobody else."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from askesis.sandbox import SandboxPool
from askesis.types import RunLimits, SandboxError

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
LIMITS = RunLimits(wall_s=30, cpu_s=20, memory=128 * MIB, processes=8, file_size=MIB, output=2**12)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with SandboxPool(2, LIMITS) as pool:
        yield pool


async def run(pool, code, **limits):
    sandbox = await pool.acquire()
    try:
        return await sandbox.python(code, limits=replace(LIMITS, **limits))
    finally:
        await sandbox.close()


FORKS = """
import os, time
started = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(60)
        started += 1
except BlockingIOError:
    print("stopped after", started)
os.kill(-1, 9)  # all but itself
"""
THREADS = """
import threading, time
started = 0
try:
    for _ in range(100):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
except RuntimeError:
    print("stopped after", started)
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
print("the parent is done")
"""
ENDS = {
    "exits": ("raise SystemExit(3)", {}, "exit", 3),
    "raises": ("1 / 0", {}, "exit", 1),
    "crashes": ("import ctypes; ctypes.string_at(0)", {}, "exit", -11),
    "sleeps": ("import time; time.sleep(60)", {"wall_s": 0.3}, "wall", -9),
    "ignores_signals": (
        "import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except OSError: pass\ntime.sleep(60)",
        {"wall_s": 0.3},
        "wall",
        -9,
    ),
    "leaves_a_daemon": (DAEMON, {"wall_s": 0.5}, "wall", 0),
    "spins": ("while True: pass", {"cpu_s": 0.2}, "cpu", -9),
    "spins_in_children": (
        "import os\nwhile True:\n    if os.fork() == 0:\n        sum(range(10**5)); os._exit(0)\n    os.wait()",
        {"cpu_s": 0.2},
        "cpu",
        -9,
    ),
    "asks_for_much": ("bytearray(10**10)", {}, "memory", 1),
    "grows": ("kept = []\nwhile True: kept.append(bytes(MIB := 2**20))", {}, "memory", 1),
    "grows_in_children": (
        "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        kept = b'x' * (50 * 2**20)\n"
        "        time.sleep(60)\ntime.sleep(60)",
        {},
        "memory",
        -9,
    ),
    "kills_itself": ("import os; os.kill(os.getpid(), 9)", {}, "killed", -9),
    "forks": (FORKS, {}, "exit", 0),
    "starts_threads": (THREADS, {"memory": 1024 * MIB}, "exit", 0),
}


@pytest.mark.parametrize("name", ENDS)
async def test_every_end_has_its_name(pool, name):
    code, limits, ended, exit_code = ENDS[name]
    result = await run(pool, code, **limits)
    assert (result.ended, result.exit_code) == (ended, exit_code), result
    if name in ("forks", "starts_threads"):
        assert result.stdout == f"stopped after {LIMITS.processes - 1}\n"
    if name == "asks_for_much":
        assert result.stderr.endswith("MemoryError\n")
    after = await run(
        pool, "import os; print([n for n in os.listdir('/proc') if n.isdigit() and int(n) != os.getpid()])"
    )
    assert after.stdout == "['1']\n"  # nothing is left of it but the warden


async def test_a_program_of_any_kind_is_held_too(pool):
    sandbox = await pool.acquire()
    for argv, limits, ended in (
        (["sh", "-c", "sleep 60"], {"wall_s": 0.3}, "wall"),
        (["sh", "-c", "sleep 60 & exec sh -c 'sleep 60 & :'"], {"wall_s": 0.3}, "wall"),
        (["sh", "-c", "while :; do :; done"], {"cpu_s": 0.2}, "cpu"),
        (["sh", "-c", "x=x; while :; do x=$x$x; done"], {}, "memory"),
        (["sh", "-c", "kill -9 $$"], {}, "killed"),
        (["no-such-program"], {}, "exit"),
        (["/usr"], {}, "exit"),
    ):
        result = await sandbox.run(argv, limits=replace(LIMITS, **limits))
        assert result.ended == ended, (argv, result)
    assert (await sandbox.run(["no-such-program"])).exit_code == 127
    assert (await sandbox.run(["no\0program"])).exit_code == 126
    bomb = await sandbox.run(["sh", "-c", "b() { b | b & }; b; sleep 60"], limits=replace(LIMITS, wall_s=1))
    assert bomb.ended in ("wall", "exit")
    await sandbox.close()


# -- the machine's time ----------------------------------------------------------------------------------------------

WORK = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
until = time.process_time() + 0.4
while time.process_time() < until: pass
print("done")
"""
CROWD = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for _ in range(3): os.fork()
while True: pass
"""


async def test_standing_in_line_is_not_the_programs_time(pool):
    """Others spin on the core that it wants, so that its 0.4 s of work take twice as long at least."""
    crowd = asyncio.create_task(run(pool, CROWD, processes=8, cpu_s=60))
    await asyncio.sleep(0.2)
    result = await run(pool, WORK, wall_s=0.6)
    assert not crowd.done()
    assert (result.ended, result.stdout) == ("exit", "done\n"), result
    assert result.wall_s > 0.6  # or nobody was in its way, and this has tested nothing
    slept = await run(pool, "import time; time.sleep(60)", wall_s=0.3)
    assert slept.ended == "wall"  # who does not want a core is not kept from one
    crowd.cancel()
    await asyncio.gather(crowd, return_exceptions=True)


@pytest.mark.full
async def test_a_machine_too_busy_for_a_program_is_no_end_of_the_program():
    spin = CROWD.replace("for _ in range(3): os.fork()\n", "")
    async with SandboxPool(31, LIMITS) as crowded:  # it gets a thirtieth of a core
        crowd = [asyncio.create_task(run(crowded, spin, cpu_s=60)) for _ in range(30)]
        await asyncio.sleep(2)
        with pytest.raises(SandboxError):  # whoever was the first to notice
            await run(crowded, WORK.replace("0.4", "9"), wall_s=1)
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_nothing_is_won_by_standing_in_line_behind_oneself(pool):
    assert (await run(pool, CROWD, wall_s=0.5)).ended == "wall"


def _family(pid):
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(one for child in children for one in _family(child))]


async def test_a_machine_that_stands_still_ends_no_program():
    async with SandboxPool(1, LIMITS) as pool:
        (worker,) = pool._workers
        sleeping = asyncio.create_task(
            run(pool, "import time\nfor _ in range(6): time.sleep(0.1)\nprint('done')", wall_s=1.2)
        )
        await asyncio.sleep(0.2)
        family = _family(worker._process.pid)
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)
        result = await sleeping
        assert (result.ended, result.stdout) == ("exit", "done\n"), result


async def test_disks_are_small(pool):
    one = await run(pool, "with open('large', 'wb') as file: file.write(bytes(2**20 + 1))")
    assert one.exit_code == 1 and "File too large" in one.stderr
    code = "import errno\ntry:\n    for i in range(10**6): open('{}%d' % i, 'wb').write(bytes({}))\n"
    code += "except OSError as error: print(errno.errorcode[error.errno])"
    for name, size in (("f", 2**20), ("/tmp/f", 2**20), ("/dev/shm/f", 2**20), ("f", 0)):
        result = await run(pool, code.format(name, size))
        assert result.stdout == "ENOSPC\n", (name, size, result)


async def test_output_is_cut_and_the_program_goes_on(pool):
    result = await run(pool, "import sys\nfor _ in range(10**5): print('x' * 99)\nsys.stderr.write('end'); sys.exit(7)")
    assert (result.ended, result.exit_code, result.truncated) == ("exit", 7, True)
    assert len(result.stdout) == LIMITS.output and result.stderr == "end"
    exact = await run(pool, f"import sys; sys.stdout.write('x' * {LIMITS.output})")
    assert len(exact.stdout) == LIMITS.output and not exact.truncated


async def test_output_may_come_from_anywhere(pool):
    code = """
import os
file = os.open("file", os.O_RDWR | os.O_CREAT)
os.write(file, b"x" * 3000)
os.sendfile(1, file, 0, 1000)
os.ftruncate(file, 0)
os.splice(os.open("/dev/zero", 0), 1, 100)
os.close(2); os.close(1)
"""
    result = await run(pool, code)
    assert result.ended == "exit" and len(result.stdout) in (1000, 1100), result


FLOODS = {
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory": "import os\nfor _ in range(5):\n    if os.fork() == 0: break\nx = []\nwhile True: x.append(b'x' * 2**22)",
    "disk": "import os\nwhile True:\n    for i in range(99): open(str(i), 'wb').truncate(2**20)",
    "output": "while True: print('x' * 10**6)",
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_hurts_no_other_episode(pool, flood):
    flooding = asyncio.create_task(run(pool, FLOODS[flood], wall_s=20 if flood == "memory" else 1))
    await asyncio.sleep(0)
    while not flooding.done():
        result = await run(pool, "print(sum(range(1000)))")
        assert (result.ended, result.stdout) == ("exit", "499500\n"), result
    assert (await flooding).ended == ("memory" if flood == "memory" else "wall")


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_in_a_terminal_hurts_no_other_episode(pool, flood):
    sandbox = await pool.acquire()
    limits = replace(LIMITS, wall_s=20 if flood == "memory" else 1)
    terminal = await sandbox.terminal(["python3", "-I", "-S", "-c", FLOODS[flood]], limits=limits)
    while terminal.alive:
        result = await run(pool, "print(sum(range(1000)))")
        assert (result.ended, result.stdout) == ("exit", "499500\n"), result
        assert (await sandbox.python("print(6 * 7)")).ended in ("exit", "memory")  # beside the flood itself
        assert len(await terminal.read(wait_s=0.05, quiet_s=0.05)) < 2 * LIMITS.output
    assert terminal.ended == ("memory" if flood == "memory" else "wall")
    await sandbox.close()
