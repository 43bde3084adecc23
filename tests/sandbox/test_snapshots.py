"""Snapshots and lazy pools: what was kept is kept, whatever happens to the sandbox that it came from."""

import asyncio
import os
import subprocess

import pytest

from askesis.sandbox import LazyPool, SandboxPool
from askesis.types import ConfigError, RunLimits, SandboxError

MIB = 2**20
LIMITS = RunLimits(wall_s=30, cpu_s=20, memory=256 * MIB, file_size=MIB)


async def test_a_snapshot_is_what_was_there_and_opens_new_sandboxes():
    async with SandboxPool(2, LIMITS) as pool:
        first = await pool.acquire()
        await first.write("src/module.py", b"x = 1\n")
        await first.write("run.sh", b"echo $0 ran\n")
        made = "import os, socket\nos.chmod('run.sh', 0o755); os.utime('run.sh', (1e6, 1e6))\n"
        made += "os.symlink('src', 'link'); os.mkdir('empty'); os.mkfifo('fifo')\n"
        made += "open('bytes', 'wb').write(bytes(range(256)))"
        await first.python(made)
        snapshot = await first.snapshot()
        assert list(snapshot.paths) == ["bytes", "run.sh", "src/module.py"] == list(await first.paths())
        assert list(snapshot.lost) == ["fifo"]
        await first.write("src/module.py", b"x = 2\n")
        await first.python("import os; os.remove('bytes')")
        await first.close()
        assert snapshot.read("src/module.py") == snapshot.read("link/module.py") == b"x = 1\n"
        assert snapshot.read("bytes") == bytes(range(256))
        for path, error in (("none", FileNotFoundError), ("empty", IsADirectoryError), ("../x", PermissionError)):
            with pytest.raises(error):
                snapshot.read(path)
        second, third = await pool.acquire(snapshot), await pool.acquire(snapshot)
        seen = await second.run(["sh", "-c", "./run.sh; stat -c %Y run.sh; cat link/module.py; ls; rm -r src"])
        assert seen.stdout == "./run.sh ran\n1000000\nx = 1\nbytes\nempty\nlink\nrun.sh\nsrc\n"
        assert list(await second.paths()) == ["bytes", "run.sh"]
        assert list(await third.paths()) == list(snapshot.paths)  # what one of them does is not the other's
        assert [path for path in snapshot.paths if snapshot.read(path) is None] == []


async def test_trees_are_as_large_as_a_pool_allows():
    async with SandboxPool(1, LIMITS, tree=40 * MIB, files=6000) as large, SandboxPool(1, LIMITS) as small:
        sandbox = await large.acquire()
        for number in range(5000):
            await sandbox.write(f"package{number % 50}/module{number}.py", b"x = %d\n" % number)
        await sandbox.write("data", bytes(30 * MIB))
        seen = await sandbox.run(["sh", "-c", "find . -type f | wc -l; cat package7/module4957.py; touch one-more"])
        assert seen.stdout == "5001\nx = 4957\n" and not seen.stderr
        snapshot = await sandbox.snapshot()
        assert len(snapshot.paths) == 5002 and not snapshot.lost
        assert len((await (await large.acquire(snapshot)).snapshot()).paths) == 5002
        with pytest.raises(ConfigError, match="larger `tree` or `files`"):
            await small.acquire(snapshot)
    for wrong in ({"files": 0}, {"tree": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=0"):
            SandboxPool(1, LIMITS, **wrong)


def running():
    return subprocess.run(["pgrep", "-c", "-P", str(os.getpid()), "bwrap"], capture_output=True).stdout


def test_a_lazy_pool_starts_when_it_is_needed_and_in_every_event_loop():
    with pytest.raises(ConfigError, match="size=0"):
        LazyPool(size=0, limits=LIMITS)
    pool = LazyPool(size=2, limits=LIMITS)

    async def episodes():
        sandboxes = await asyncio.gather(*(pool.acquire() for _ in range(3)))
        await sandboxes[0].write("file", b"kept")
        snapshot = await sandboxes[0].snapshot()
        again = await pool.acquire(snapshot)
        return (await again.python("print(open('file').read())")).stdout

    async def ends():
        sandbox = await pool.acquire()
        await pool.close()
        await pool.close()
        with pytest.raises(SandboxError, match="closed"):
            await sandbox.python("")

    assert running() == b"0\n"  # made, and nothing started
    assert asyncio.run(episodes()) == asyncio.run(episodes()) == "kept\n"
    asyncio.run(ends())
    assert running() == b"0\n"
