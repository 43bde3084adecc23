"""The pool: many sandboxes on few workers, workers that die, calls that are given up, and what is left behind."""

# Processes are watched from outside, and there is nothing but polling for that.
# ruff: noqa: ASYNC110, ASYNC220, PTH208

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from askesis.sandbox import SandboxPool
from askesis.types import ConfigError, RunLimits, SandboxError, Waits, counted

LIMITS = RunLimits(wall_s=30, cpu_s=20, memory=256 * 2**20)


def children(pid):
    """Living processes below `pid`, as {pid: command line}."""
    found, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
                parents[int(entry.name)] = (int(parent), state, entry.joinpath("cmdline").read_bytes())
            except OSError:
                continue
    todo = [pid]
    while todo:
        above = todo.pop()
        for child, (parent, state, command) in parents.items():
            if parent == above and state != "Z":
                found[child] = command
                todo.append(child)
    return found


def wardens():
    """Process 1 of each worker of ours."""
    return [pid for pid, command in children(os.getpid()).items() if b"-I\0-S" in command and b"bwrap" not in command]


def ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def gone(pid, seconds=20.0):
    """Whether a process has ended within that time."""
    for _ in range(int(seconds * 100)):
        await asyncio.sleep(0.01)
        if ended(pid):
            return True
    return False


async def test_hundreds_of_sandboxes_share_two_workers():
    async with SandboxPool(2, LIMITS) as pool:

        async def episode(number):
            sandbox = await pool.acquire()
            await sandbox.write("number", str(number).encode())
            opened.append(number)
            while len(opened) < 200:  # all are open before the first one runs
                await asyncio.sleep(0)
            code = "n = int(open('number').read()); open('square', 'w').write(str(n * n)); print(n)"
            result = await sandbox.python(code)
            square = await sandbox.read("square")
            await sandbox.close()
            return result.stdout, square

        opened = []
        done = await asyncio.gather(*map(episode, range(200)))
        assert done == [(f"{n}\n", str(n * n).encode()) for n in range(200)]
        assert len(wardens()) == 2


async def test_a_call_says_how_long_it_stood_in_line():
    async def seconds(pool, nap):
        with counted(waits := Waits()):
            await (await pool.acquire()).python(f"import time; time.sleep({nap})")
        return waits.seconds

    async with SandboxPool(1, LIMITS) as pool:
        first, second, third = await asyncio.gather(*(seconds(pool, 0.3) for _ in range(3)))
    assert first < 0.3 <= second < third >= 0.6


async def test_calls_of_one_sandbox_follow_each_other():
    async with SandboxPool(4, LIMITS) as pool:
        sandbox = await pool.acquire()
        add = "import os; n = len(os.listdir('.')); open(str(n), 'w').close()"
        await asyncio.gather(*(sandbox.python(add) for _ in range(10)))
        assert (await sandbox.python("import os; print(len(os.listdir('.')))")).stdout == "10\n"


async def test_a_cancelled_call_is_killed_and_the_pool_goes_on():
    async with SandboxPool(1, LIMITS) as pool:
        sandbox = await pool.acquire()
        await sandbox.write("kept", b"kept")
        call = asyncio.create_task(sandbox.run(["sleep", "600"]))
        waiting = asyncio.create_task(sandbox.python("print('never runs')"))
        while not (running := [pid for pid, command in children(os.getpid()).items() if b"sleep\000600" in command]):
            await asyncio.sleep(0.01)
        waiting.cancel()
        call.cancel()
        for task in (call, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await gone(running[0])
        assert (await sandbox.python("print(open('kept').read())")).stdout == "kept\n"


async def test_a_worker_that_dies_is_the_sandboxes_fault_and_is_replaced():
    async with SandboxPool(1, LIMITS) as pool:
        sandbox = await pool.acquire()
        await sandbox.write("kept", b"kept")
        for victim in ("warden", "bubblewrap"):
            call = asyncio.create_task(sandbox.run(["sleep", "600"]))
            while not any(b"sleep\000600" in command for command in children(os.getpid()).values()):
                await asyncio.sleep(0.01)
            outer = [pid for pid, command in children(os.getpid()).items() if b"bwrap" in command]
            os.kill(wardens()[0] if victim == "warden" else outer[0], signal.SIGKILL)
            with pytest.raises(SandboxError, match="worker died"):
                await call
            assert (await sandbox.python("print(open('kept').read())")).stdout == "kept\n"
        idle = wardens()[0]
        os.kill(idle, signal.SIGKILL)  # one that is idle takes no call down
        assert await gone(idle)
        assert (await sandbox.python("print('fine')")).stdout == "fine\n"
        stopped = wardens()[0]
        os.kill(stopped, signal.SIGSTOP)
        call = asyncio.create_task(sandbox.python("print('fine')", limits=RunLimits(wall_s=0.1)))
        await asyncio.sleep(0.2)
        assert not call.done()
        await sandbox.close()  # kills it, stopped as it is
        with pytest.raises(SandboxError, match="is closed"):
            await call
        assert await gone(stopped)


async def test_closing_ends_everything():
    pool = SandboxPool(2, LIMITS)
    with pytest.raises(SandboxError, match="not open"):
        await pool.acquire()
    async with pool:
        sandboxes = [await pool.acquire() for _ in range(5)]
        calls = [asyncio.create_task(sandbox.run(["sleep", "600"])) for sandbox in sandboxes]
        while sum(b"sleep\000600" in command for command in children(os.getpid()).values()) < 2:
            await asyncio.sleep(0.01)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, SandboxError) for end in ends), ends
    assert not wardens() and not children(os.getpid())
    await pool.close()
    with pytest.raises(SandboxError, match="not open"):
        await pool.acquire()


@pytest.mark.skipif(os.geteuid() != 0, reason="only where root starts it does bubblewrap wait for its host")
async def test_what_a_host_leaves_that_is_killed_while_it_makes_a_worker_is_ended_by_the_next():
    code = """
    import asyncio, json, os
    from askesis.sandbox import SandboxPool
    from askesis.sandbox.worker import Worker
    from askesis.types import RunLimits
    async def admit(worker, gate):
        told = b""
        while b"}" not in told:
            os.set_blocking(worker._info, True)
            told += os.read(worker._info, 4096)
        print(json.loads(told)["child-pid"], flush=True)
        await asyncio.sleep(600)
    Worker._admit = admit
    async def main():
        async with SandboxPool(1, RunLimits(wall_s=600)):
            pass
    asyncio.run(main())
    """
    hosts = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    left, kept = (int(host.stdout.readline()) for host in hosts)
    hosts[0].kill()
    hosts[0].wait()
    async with SandboxPool(1, RunLimits(wall_s=10)):
        assert await gone(left)
        assert Path(f"/proc/{kept}").exists()  # its host lives
    hosts[1].kill()
    for host in hosts:
        host.wait()
        host.stdout.close()
    async with SandboxPool(1, RunLimits(wall_s=10)):
        assert await gone(kept)


async def test_nothing_outlives_a_host_that_is_killed():
    code = """
    import asyncio
    from askesis.sandbox import SandboxPool
    from askesis.types import RunLimits
    async def main():
        async with SandboxPool(2, RunLimits(wall_s=600)) as pool:
            sandboxes = [await pool.acquire() for _ in range(2)]
            print("open", flush=True)
            await asyncio.gather(*(s.run(["sleep", "600"]) for s in sandboxes))
    asyncio.run(main())
    """
    host = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert host.stdout.readline() == b"open\n"
    while sum(b"sleep\000600" in command for command in children(host.pid).values()) < 2:
        await asyncio.sleep(0.01)
    below = children(host.pid)
    host.kill()
    host.wait()
    host.stdout.close()
    for pid in below:
        assert await gone(pid), below[pid]


async def test_without_bubblewrap_it_says_what_to_run(monkeypatch, tmp_path):
    for manager, command in (("apt-get", "apt-get install -y bubblewrap"), ("apk", "apk add bubblewrap")):
        tools = tmp_path / manager
        tools.mkdir()
        (tools / manager).write_text("#!/bin/sh\n")
        (tools / manager).chmod(0o755)
        monkeypatch.setenv("PATH", str(tools))
        with pytest.raises(SandboxError, match=f"not on PATH. Run:  (sudo )?{command}\nThere is no fall-back"):
            async with SandboxPool(1, LIMITS):
                pass


async def test_a_bubblewrap_that_may_not_work_is_quoted(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(
        SandboxError, match=r"could not start a worker: bwrap: setting up uid map: Permission denied(.|\n)*no fall-back"
    ):
        async with SandboxPool(1, LIMITS):
            pass
    assert not children(os.getpid())


def test_senseless_limits_are_named():
    for wrong in ({"wall_s": 0}, {"cpu_s": -1}, {"processes": 0}, {"memory": 2**20}, {"output": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SandboxPool(1, RunLimits(**wrong))
    with pytest.raises(ConfigError, match="size=0"):
        SandboxPool(0, LIMITS)


def held():
    """What a leak would show in: processes, files, and open descriptors here and, where we may look, in each worker."""
    pids = [os.getpid(), *(wardens() if os.geteuid() == 0 else [])]
    files = [sorted(os.listdir(place)) for place in (tempfile.gettempdir(), "/dev/shm")]
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}, sorted(children(os.getpid())), files


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def soak(sandboxes):
    async with SandboxPool(4, LIMITS, terminals=1, programs=("print(1)",)) as pool:

        async def episode(number):
            sandbox = await pool.acquire()
            await sandbox.write("file", bytes(1000))
            assert (await sandbox.python("print(1)")).stdout == "1\n"
            if number % 10 == 0:
                assert (
                    await sandbox.python("import time; time.sleep(60)", limits=RunLimits(wall_s=0.05))
                ).ended == "wall"
            if number % 5 == 0:
                terminal = await sandbox.terminal(["sh", "-c", "sleep 600 & echo said; exec sleep 600"])
                while b"said" not in await terminal.read(wait_s=0.1, quiet_s=0.01):
                    pass
                assert (await sandbox.python("print(1)")).stdout == "1\n"
                if number % 10 == 0:
                    await terminal.close()
            opened = await pool.acquire(await sandbox.snapshot())
            await opened.read("file")
            await opened.close()
            await sandbox.close()

        async def many(first, last):
            turns = asyncio.Semaphore(50)

            async def one(number):
                async with turns:
                    await episode(number)

            await asyncio.gather(*map(one, range(first, last)))

        await many(0, 20)
        await asyncio.sleep(0.2)  # an answer comes just before its worker has tidied up
        before, memory = held(), resident()
        await many(20, sandboxes)
        await asyncio.sleep(0.2)
        assert held() == before
        assert resident() < memory + 8 * 2**20
    assert not children(os.getpid())


async def test_a_hundred_sandboxes_leave_nothing():
    await soak(100)


@pytest.mark.full
async def test_a_thousand_sandboxes_leave_nothing():
    began = time.monotonic()
    await soak(1000)
    assert time.monotonic() - began < 600


async def test_folders_below_home_can_be_read_in_every_run():
    homes = [home for home in (Path("/home"), Path.home()) if home.is_relative_to("/home") and os.access(home, os.W_OK)]
    if not homes:
        pytest.skip("nothing below /home can be written here")
    with tempfile.TemporaryDirectory(dir=homes[0]) as name:
        folder = Path(name, "some", "venv")
        folder.mkdir(parents=True)
        folder.joinpath("module.py").write_text("found = 'here'\n")
        Path(name).chmod(0o755)
        folder.chmod(0o777)
        folder.joinpath("module.py").chmod(0o666)
        async with SandboxPool(1, LIMITS, mounts=[folder]) as pool:
            for _ in range(2):
                sandbox = await pool.acquire()
                code = f"import os, sys; sys.path.append({str(folder)!r}); import module"
                code += "; print(module.found, os.listdir())"
                assert (await sandbox.python(code)).stdout == "here []\n"
                assert (await sandbox.run(["cat", str(folder / "module.py")])).stdout == "found = 'here'\n"
                writing = await sandbox.run(["touch", str(folder / "module.py"), str(folder / "new")])
                assert writing.exit_code and writing.stderr.count("Read-only file system") == 2
        assert [path.name for path in folder.iterdir()] == ["module.py"]


def test_folders_that_cannot_be_shown_are_refused(tmp_path):
    for folder, part in (
        ("/tmp", "a /tmp of their own"),
        ("/proc/self", "a /proc of"),
        (tmp_path / "none", "no folder"),
    ):
        with pytest.raises(ConfigError, match=part):
            SandboxPool(1, LIMITS, mounts=[folder])


async def test_a_tree_can_have_another_name():
    links = {"/app": "/home/agent", "/logs/verifier": "/tmp/logs"}
    async with SandboxPool(1, LIMITS, links=links) as pool:
        sandbox = await pool.acquire()
        told = "echo one > /app/file; mkdir /tmp/logs; echo two > /logs/verifier/x; cat /home/agent/file /tmp/logs/x; "
        result = await sandbox.run(["sh", "-c", told + "rm /app || ln -s x /logs/y"])
        assert (result.stdout, await sandbox.paths()) == ("one\ntwo\n", ["file"])
        assert result.stderr.count("Read-only file system") == 2
        terminal = await sandbox.terminal(["cat", "/app/file"])
        assert b"one" in await terminal.read(wait_s=10, quiet_s=1)
        await sandbox.close()


def test_links_that_would_stand_in_the_way_are_refused(tmp_path):
    for link in ("/tmp", "/usr/local/x", "app", "/", "/app/../etc", "/home/agent/x", str(tmp_path / "x")):
        with pytest.raises(ConfigError, match="expected an absolute path outside"):
            SandboxPool(1, LIMITS, links={link: "/home/agent"})
