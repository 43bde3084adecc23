"""Live terminals: what a person at a keyboard would have, on the tree that all other calls see; and its end."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from askesis.sandbox import SandboxPool
from askesis.types import ConfigError, RunLimits, SandboxError, Waits, counted

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
LIMITS = RunLimits(wall_s=30, cpu_s=20, memory=256 * MIB, processes=32, file_size=MIB, output=2**14)
PLAIN = {"TERM": "dumb", "PS1": "$ "}
SHELL = ("/bin/bash", "--norc", "-i")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with SandboxPool(2, LIMITS, terminals=3) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(pool):
    sandbox = await pool.acquire()
    yield sandbox
    await sandbox.close()


async def shell(sandbox, **options):
    terminal = await sandbox.terminal(SHELL, env=PLAIN, **options)
    await until(terminal, b"$ ")
    return terminal


async def until(terminal, what, seconds=20.0):
    """What comes until `what` has come."""
    seen, deadline = b"", asyncio.get_running_loop().time() + seconds
    while what not in seen:
        seen += await terminal.read(wait_s=1, quiet_s=0.02)
        assert asyncio.get_running_loop().time() < deadline, seen
        if not terminal.alive:
            break
    return seen


async def said(terminal, command):
    """What a command prints."""
    await terminal.send(f"{command}; echo 'en''d'\n".encode())
    seen = (await until(terminal, b"end\r\n")).decode()
    return seen.split("'en''d'\r\n", 1)[1].rsplit("end\r\n", 1)[0].replace("\r\n", "\n")


def descendants(pid):
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(one for child in children for one in descendants(child))]


async def test_a_terminal_is_a_terminal_and_keeps_its_state(sandbox):
    terminal = await shell(sandbox, rows=30, columns=100)
    assert await said(terminal, "cd /tmp; x=5; stty size; tty; test -t 0 -a -t 1 -a -t 2 && echo yes") == (
        "30 100\n/dev/pts/0\nyes\n"
    )
    assert await said(terminal, "pwd; echo $((x + 1)); echo ü") == "/tmp\n6\nü\n"
    await terminal.resize(10, 40)
    assert await said(terminal, "stty size; ps -o pid= | wc -l | tr -d ' '") == "10 40\n4\n"
    await terminal.send(b"sleep 600\n")
    await asyncio.sleep(0.2)
    await terminal.interrupt()
    assert b"^C" in await until(terminal, b"$ ")
    assert await said(terminal, "echo $?") == "130\n"
    await terminal.send(b"python3 -q\n")
    await until(terminal, b">>> ")
    await terminal.send(b"6 * 7\n")
    assert b"42" in await until(terminal, b"42\r\n>>> ")
    await terminal.send(b"\x04")
    await until(terminal, b"$ ")
    assert await said(terminal, "echo back") == "back\n"
    await terminal.send(b"exit 3\n")
    await until(terminal, b"never")
    assert (terminal.alive, terminal.ended, terminal.exit_code) == (False, "exit", 3)
    with pytest.raises(BrokenPipeError):
        await terminal.send(b"x")
    assert await terminal.read(wait_s=9, quiet_s=9) == b""  # at once
    for rows, columns in ((0, 80), (24, 10**6)):
        with pytest.raises(ValueError, match="expected 1 to"):
            await sandbox.terminal(rows=rows, columns=columns)
    with pytest.raises(ConfigError, match="memory"):
        await sandbox.terminal(limits=replace(LIMITS, memory=1))
    none = await sandbox.terminal(["no-such-program"])
    assert b"no such program" in await until(none, b"never") and none.exit_code == 127


async def test_reading_returns_when_it_is_quiet_or_time_is_over(sandbox):
    terminal = await shell(sandbox)
    clock = asyncio.get_running_loop().time
    assert await terminal.read(wait_s=0, quiet_s=0) == b""
    await terminal.send(b"for i in 1 2 3 4 5 6; do echo tick$i; sleep 0.2; done\n")
    seen = await terminal.read(wait_s=20, quiet_s=1.0)  # no gap in it is that long
    assert b"tick6" in seen
    await terminal.send(b"while :; do echo x; sleep 0.02; done\n")
    began = clock()
    seen = await terminal.read(wait_s=0.5, quiet_s=5)
    assert b"x\r\nx\r\n" in seen and 0.4 < clock() - began < 5
    await terminal.interrupt()
    assert (await said(terminal, "echo fine")).endswith("fine\n")


async def test_the_tree_is_one_for_all_that_works_on_it(pool, sandbox):
    await sandbox.write("before/file", b"old\n")
    terminal = await shell(sandbox)
    assert await said(terminal, "cat before/file; echo made > new; mkdir d; ln -s before/file link; umask 0") == "old\n"
    assert await sandbox.read("new") == b"made\n" and await sandbox.read("link") == b"old\n"
    await sandbox.write("link", b"through\n")
    await sandbox.write("a/b/c", b"deep\n")
    assert await said(terminal, "cat before/file a/b/c; echo more >> a/b/c; stat -c '%U %a' a/b/c a") == (
        "through\ndeep\nagent 644\nagent 755\n"
    )
    assert (await sandbox.run(["cat", "a/b/c"])).stdout == "deep\nmore\n"
    assert (
        await sandbox.python("print(open('a/b/c').read(), end=''); open('from-python', 'w')")
    ).stdout == "deep\nmore\n"
    assert await said(terminal, "ls -1") == "a\nbefore\nd\nfrom-python\nlink\nnew\n"
    paths = ["a/b/c", "before/file", "from-python", "new"]
    assert list(await sandbox.paths()) == paths
    snapshot = await sandbox.snapshot()
    assert list(snapshot.paths) == paths and snapshot.read("link") == b"through\n"
    for path, error in (("d", IsADirectoryError), ("none", FileNotFoundError), ("new/x", NotADirectoryError)):
        with pytest.raises(error):
            await sandbox.read(path)
    for path in ("/etc/passwd", "../x"):
        with pytest.raises(PermissionError):
            await sandbox.write(path, b"")
    with pytest.raises(OSError, match="bytes at most"):
        await sandbox.write("large", bytes(5 * MIB))
    await terminal.close()
    assert list(await sandbox.paths()) == paths  # as data again
    assert (await sandbox.run(["sh", "-c", "cat link; ls -d d"])).stdout == "through\nd\n"
    other = await pool.acquire(snapshot)
    assert (await other.run(["cat", "link"])).stdout == "through\n"


async def test_what_runs_in_the_background_serves_later_calls(sandbox):
    await sandbox.write("page", b"served")
    terminal = await shell(sandbox)
    await said(terminal, "(python3 -m http.server 8000 --bind 127.0.0.1 > log 2>&1 &)")
    code = "import time, urllib.request as u\nfor _ in range(200):\n"
    code += "    try: print(u.urlopen('http://127.0.0.1:8000/page').read().decode()); break\n"
    code += "    except OSError: time.sleep(0.05)"
    assert (await sandbox.python(code)).stdout == "served\n"
    assert (await sandbox.run(["python3", "-c", code])).stdout == "served\n"
    second = await shell(sandbox)
    assert await said(second, f'python3 -c "{code}"') == "served\n"
    assert b"GET /page" in await sandbox.read("log")
    await second.close()
    assert (await sandbox.python(code)).stdout == "served\n"
    await terminal.close()
    assert (await sandbox.python("import socket; socket.socket()")).exit_code == 1  # not live: no network at all
    again = await shell(sandbox)
    connect = "import socket; socket.create_connection(('127.0.0.1', 8000))"
    assert "refused" in (await sandbox.python(connect)).stderr
    await again.close()


async def test_a_run_beside_a_terminal_ends_as_any_run(sandbox):
    terminal = await shell(sandbox)
    for argv, limits, ended in (
        (["sh", "-c", "exit 3"], {}, "exit"),
        (["sleep", "60"], {"wall_s": 0.3}, "wall"),
        (["sh", "-c", "sleep 60 & exec sleep 60"], {"wall_s": 0.3}, "wall"),
        (["sh", "-c", "while :; do :; done"], {"cpu_s": 0.2}, "cpu"),
        (["sh", "-c", "kill -9 $$"], {}, "killed"),
    ):
        result = await sandbox.run(argv, limits=replace(LIMITS, **limits))
        assert result.ended == ended, (argv, result)
    hog = "import os, time\nfor _ in range(4):\n    if os.fork() == 0: x = b'x' * (90 << 20); time.sleep(60)\n"
    hog += "time.sleep(60)"
    assert (await sandbox.python(hog)).ended == "memory"
    bomb = await sandbox.run(["sh", "-c", "b() { b | b & }; b; sleep 60"], limits=replace(LIMITS, wall_s=0.5))
    assert bomb.ended in ("wall", "exit")
    stop = asyncio.Event()
    running = asyncio.create_task(sandbox.run(["sleep", "60"], stop=stop))
    await asyncio.sleep(0.1)
    stop.set()
    assert (await running).ended == "stopped"
    running = asyncio.create_task(sandbox.run(["sleep", "61"]))
    await asyncio.sleep(0.2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await said(terminal, "ps -o args= -e | grep -c '^s[l]eep'") == "0\n"
    assert terminal.alive


ENDS = {
    "exits": ("exit 7", {}, "exit", 7),
    "is_killed": ("kill -9 $$", {}, "killed", -9),
    "kills_all": ("kill -9 -1; kill -9 $$", {}, "killed", -9),
    "spins": ("while :; do :; done", {"cpu_s": 0.3}, "cpu", -9),
    "spins_in_children": ("while :; do (:); done", {"cpu_s": 0.3}, "cpu", -9),
    "spins_in_the_background": ("(while :; do :; done) & sleep 60", {"cpu_s": 0.3}, "cpu", -9),
    "grows": (
        "for i in 1 2 3 4; do python3 -c \"x = b'x' * (90 << 20); import time; time.sleep(60)\" & done; wait",
        {},
        "memory",
        -9,
    ),
    "lives_too_long": ("sleep 60", {"wall_s": 0.5}, "wall", -9),
}


@pytest.mark.parametrize("name", ENDS)
async def test_every_end_of_a_terminal_has_its_name(sandbox, name):
    command, limits, ended, code = ENDS[name]
    terminal = await shell(sandbox, limits=replace(LIMITS, wall_s=120) if not limits else replace(LIMITS, **limits))
    await terminal.send(command.encode() + b"\n")
    await until(terminal, b"never", 30)
    assert (terminal.ended, terminal.exit_code) == (ended, code)
    assert (await sandbox.run(["sh", "-c", "ps -e | wc -l"])).exit_code == 0  # the sandbox goes on


async def test_closing_kills_all_and_gives_the_worker_back(pool):
    sandbox = await pool.acquire()
    first, second = await shell(sandbox), await shell(sandbox)
    await said(first, "setsid sleep 1001 & (setsid sleep 1002 & ) ; (sleep 1003 &)")
    await said(second, "sleep 1004 & cd /tmp; touch kept-in-tmp")
    (worker,) = [worker for worker in pool._workers if worker not in pool._idle and worker not in pool._idle_live]
    assert len([pid for pid in descendants(worker._process.pid) if b"sleep" in _command(pid)]) == 4
    await first.close()
    assert b"sleep\x001004" in b"".join(map(_command, descendants(worker._process.pid)))
    await second.close()
    await second.close()
    assert not [pid for pid in descendants(worker._process.pid) if b"sleep" in _command(pid)]
    assert worker in pool._idle_live
    again = await pool.acquire()
    terminal = await shell(again)  # the same worker, and nothing of the last sandbox
    assert await said(terminal, "ls -A . /tmp; ps -e -o args= | grep -c s[l]eep; tty; ls -1 /dev/pts") == (
        ".:\n\n/tmp:\n0\n/dev/pts/0\n0\nptmx\n"
    )
    running = asyncio.create_task(again.run(["sleep", "600"]))
    await asyncio.sleep(0.1)
    await again.close()  # with a terminal open and a run in flight
    with pytest.raises(SandboxError, match="closed"):
        await running
    with pytest.raises(SandboxError, match="closed"):
        await terminal.read(wait_s=1, quiet_s=1)
    await terminal.close()
    await sandbox.close()
    assert pool._stays._value == 3


def _command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


async def test_terminals_wait_in_line_and_calls_do_not_wait_for_them():
    async with SandboxPool(1, LIMITS, terminals=1) as pool:
        first, second, third = [await pool.acquire() for _ in range(3)]
        terminal = await shell(first)

        async def waits():
            with counted(waits := Waits()):
                opened = await shell(second)
            assert await said(opened, "echo mine") == "mine\n"
            await second.close()
            return waits.seconds

        waiting = asyncio.create_task(waits())
        for number in range(5):  # nobody else waits: a verifier's run, say
            assert (await third.python(f"print({number})")).stdout == f"{number}\n"
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await terminal.close()
        assert await waiting > 0.3
    with pytest.raises(ConfigError, match="terminals=0"):
        SandboxPool(1, LIMITS, terminals=0)


async def test_a_worker_that_dies_is_the_machinerys_failure():
    async with SandboxPool(1, LIMITS) as pool:
        sandbox = await pool.acquire()
        terminal = await shell(sandbox)
        await said(terminal, "echo kept > file")
        (worker,) = [worker for worker in pool._workers if worker not in pool._idle]
        steward = descendants(worker._process.pid)[0]
        os.kill(steward, signal.SIGKILL)
        with pytest.raises(SandboxError, match="died"):
            await terminal.read(wait_s=20, quiet_s=20)
        with pytest.raises(SandboxError):
            await sandbox.run(["true"])
        await terminal.close()
        assert await sandbox.read("file") == b"kept\n"
        again = await shell(sandbox)
        assert await said(again, "cat file") == "kept\n"
        closing = asyncio.create_task(again.read(wait_s=60, quiet_s=60))
        await asyncio.sleep(0.1)
    with pytest.raises(SandboxError):
        await closing
    await again.close()


async def test_a_flood_of_output_is_no_load_and_is_cut_in_the_middle(pool, sandbox, monkeypatch):
    monkeypatch.setattr("askesis.sandbox.terminal._SEND_S", 0.3)
    terminal = await shell(sandbox)
    await terminal.send(b"seq 200000; echo last\n")
    seen = await until(terminal, b"last\r\n")
    assert len(seen) < 8 * LIMITS.output and terminal.dropped > 0
    assert b"bytes of output were not kept]" in seen and b"1\r\n2\r\n3\r\n" in seen and b"199999\r\n200000\r\n" in seen
    await terminal.send(b"yes\n")
    for number in range(20):
        result = await (await pool.acquire()).python(f"print({number})")
        assert result.stdout == f"{number}\n"
    await terminal.interrupt()
    seen = await until(terminal, b"$ ")
    assert len(seen) < 2 * LIMITS.output
    await terminal.send(b"stty -echo; sleep 600\n")
    await asyncio.sleep(0.2)
    with pytest.raises(BlockingIOError, match="read nothing"):
        await terminal.send(b"typed and never read\n" * 10**5)
    await terminal.interrupt()  # it does not wait behind what nobody read, and that is forgotten
    await until(terminal, b"$ ")
    await terminal.send(b"stty echo\n")
    await until(terminal, b"$ ")
    assert await said(terminal, "echo fine") == "fine\n"
