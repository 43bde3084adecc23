"""Tampering by name: what lives in a terminal works against whoever calls the sandbox from outside.

Each tamperer is a program that runs in a terminal, and goes on for as long as it is let. Meanwhile the tree is read and
written, programs are run, snapshots taken, and tools called, as an environment does. Whatever it does:
every call comes back, with a result or with the `OSError` of a file system, and never as a failure of the machinery,
which would take the episode out of what is learned from; nothing of the host's is read or changed; neighbours go on;
and when the terminal is closed, all of it is gone.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from askesis.sandbox import SandboxPool
from askesis.tools.files import file_tools
from askesis.tools.python import python_tool
from askesis.types import Door, RunLimits

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
LIMITS = RunLimits(wall_s=1, cpu_s=5, memory=128 * MIB, processes=16, file_size=MIB, output=2**13)
LIVING = replace(LIMITS, wall_s=60, cpu_s=60)
SECRET = "the-secret-of-the-host"

TAMPERERS = r"""
== a_link_in_a_folders_place
import os
def fresh():
    clear("bait", "real", "link")
    os.mkdir("real"); open("real/secret", "w").close(); os.symlink("{host}", "link")
fresh()
ready()
while True:
    try:
        for name in ("real", "link"): os.rename(name, "bait"); os.rename("bait", name)
    except OSError:
        try: fresh()
        except OSError: pass
== a_link_in_a_files_place
import os
ready()
while True:
    try:
        clear("link"); os.symlink("{host}/secret", "link")
        open("bait", "w").close(); os.rename("link", "bait"); os.remove("bait")
    except OSError: clear("bait")
== a_link_to_itself
import os
os.symlink("bait", "bait")
ready()
wait()
== a_pipe_in_a_files_place
import os
os.mkfifo("bait")
ready()
wait()
== a_socket_in_a_files_place
import socket
listening = socket.socket(socket.AF_UNIX); listening.bind("bait"); listening.listen()
ready()
wait()
== a_leased_file
import fcntl, os, signal
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open("bait", os.O_CREAT | os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
ready()
wait()
== a_locked_file
import fcntl, os
file = os.open("bait", os.O_CREAT | os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_EX)
ready()
wait()
== a_file_without_rights
import os
os.makedirs("bait/inner"); open("bait/secret", "w").close(); os.chmod("bait/secret", 0); os.chmod("bait", 0)
ready()
wait()
== a_file_that_grows
ready()
while True:
    with open("bait", "wb") as file:
        for _ in range(900): file.write(b"x" * 1024); file.flush()
== a_tree_that_is_full
import os
ready()
number = 0
while True:
    try:
        with open(f"full{number}", "wb") as file: file.write(b"x" * 2**20)
    except OSError: pass
    number = (number + 1) % 100
== a_tree_of_too_many_files
import os
ready()
number = 0
while True:
    try: os.mkdir(f"m{number}")
    except OSError: pass
    number = (number + 1) % 10**5
== a_tree_too_deep
import os
ready()
while True:
    try: os.mkdir("d" * 40); os.chdir("d" * 40)
    except OSError: wait()
== a_tree_that_is_taken_away
import os, shutil
ready()
os.chdir("/tmp")
while True:
    shutil.rmtree("/home/agent", ignore_errors=True)
    try: os.symlink("{host}", "/home/agent")
    except OSError: pass
== names_that_are_no_text
import os
os.mkdir(b"\xff\xfe"); open(b"\xff\xfe/\n\x1b[2J", "w").close(); os.symlink(b"\xff", "bait")
ready()
wait()
== a_shadowed_standard_library
for name in ("json", "re", "os", "fnmatch", "sitecustomize", "usercustomize", "traceback", "linecache"):
    open(name + ".py", "w").write("print('{secret}'[::-1])\nraise SystemExit(0)\n")
ready()
wait()
== kills_whatever_begins
import os
ready()
while True:
    try: os.kill(-1, 9)
    except OSError: pass
== stops_whatever_begins
import os, signal
ready()
while True:
    try: os.kill(-1, signal.SIGSTOP)
    except OSError: pass
== takes_every_core
import os
for _ in range(10):
    if os.fork() == 0: break
ready()
while True: pass
== forks_without_end
import os
ready()
while True:
    try: os.fork()
    except OSError: pass
== leaves_its_group
import os, signal
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: break
        os._exit(0)
ready()
wait()
== takes_every_terminal
import os
held = []
try:
    while True: held.append(os.open("/dev/ptmx", os.O_RDWR))
except OSError: pass
ready()
wait()
== takes_the_port_of_the_door
import socket
taken = socket.socket(); taken.bind(("127.0.0.1", 7007)); taken.listen()
ready()
wait()
== reads_others_input
import os
ready()
while True:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            for what in ("mem", "fd/0", "fd/3", "fd/4", "fd/5", "fd/6", "fd/7", "environ"):
                try:
                    file = os.open(f"/proc/{name}/{what}", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
                    try: os.pwrite(file, b"!tampered", 0)
                    finally: os.close(file)
                except OSError: pass
== floods_its_terminal
ready()
while True: print("x" * 10**5)
== speaks_to_the_terminal
import os
ready()
while True: os.write(1, b"\x1b[2J\x1b]0;title\x07\x1bc\x1b[6n\x05" * 100)
== hides_its_memory
import ctypes, os
for _ in range(4):
    if os.fork() == 0: break
ctypes.CDLL(None).prctl(4, 0)
ready()
held = []
while True:
    try: held.append(b"x" * 2**20)
    except MemoryError: wait()
"""
START = """
def ready(): open("ready", "w").close()
def wait():
    import time
    time.sleep(600)
def clear(*paths):  # what the calls from outside have made there
    import os, shutil
    for path in paths:
        try: os.remove(path)
        except OSError: shutil.rmtree(path, ignore_errors=True)
"""
TAMPERERS = dict(part.split("\n", 1) for part in ("\n" + TAMPERERS.strip()).split("\n== ")[1:])
ENDS = {"hides_its_memory": "memory"}  # all others go on


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with SandboxPool(2, LIMITS, files=500) as pool:
        yield pool


@pytest.fixture
def host(tmp_path):
    """A folder of the host's that nothing may read or change."""
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path


async def called(sandbox, host, at):
    """Every call that there is, once. What came back of them, as text."""
    seen = []

    async def tried(awaitable):
        try:
            seen.append(repr(await awaitable))
        except OSError as error:
            seen.append(f"{type(error).__name__}: {error}")

    for path in ("bait", "bait/secret", "ready"):
        await tried(sandbox.read(path))
        await tried(sandbox.write(path, b"written"))
    await tried(sandbox.write(f"bait/new{at}", b"written"))
    await tried(sandbox.paths())
    await tried(sandbox.run(["cat", "bait"], stdin=b"x" * 1000))
    await tried(sandbox.python("print(open('bait').read())"))
    door = Door(port=7007, path=str(host / "none"))
    await tried(sandbox.run(["true"], door=door))
    for tool in (*file_tools(sandbox), python_tool(sandbox)):
        args = {"path": "bait", "content": "x", "old": "x", "new": "y", "pattern": "x", "code": "print('fine')"}
        await tried(tool({name: args[name] for name in tool.spec.parameters.get("required", ())}, None))
    snapshot = await sandbox.snapshot()
    seen += [repr(snapshot.read(path)) for path in snapshot.paths]
    return "\n".join(seen)


@pytest.mark.parametrize("name", TAMPERERS)
async def test_tampering_wins_nothing(pool, host, name):
    sandbox, neighbour = await pool.acquire(), await pool.acquire()
    source = TAMPERERS[name].replace("{host}", str(host)).replace("{secret}", SECRET[::-1])
    await sandbox.write("tamper.py", (START + source).encode())
    terminal = await sandbox.terminal(["python3", "-I", "-S", "tamper.py"], limits=LIVING)
    async with asyncio.timeout(50):
        while "ready" not in await sandbox.paths() and name != "a_tree_that_is_taken_away":
            said = await terminal.read(wait_s=0.02, quiet_s=0.02)
            assert terminal.alive, said
        for at in range(2):
            seen = await called(sandbox, host, at)
            assert SECRET not in seen, seen
            assert (await neighbour.python("print(6 * 7)")).stdout == "42\n"
            try:
                second = await sandbox.terminal(["sh", "-c", "echo opened"])
            except OSError as error:
                assert name == "takes_every_terminal", error
            else:
                await second.read(wait_s=1, quiet_s=0.2)
                await second.close()
        if name in ENDS:
            while terminal.alive:
                await terminal.read(wait_s=0.1, quiet_s=0.1)
        said = await terminal.read(wait_s=0, quiet_s=0)
        assert terminal.ended == ENDS.get(name) and SECRET.encode() not in said, (terminal.ended, said)
        await terminal.close()
        after = await sandbox.run(["sh", "-c", "ls /proc | grep -c '^[0-9]*$'"])
        assert after.ended == "exit" and int(after.stdout) <= 4, after  # the warden, sh, ls, grep
        await sandbox.close()
    assert [path.name for path in host.iterdir()] == ["secret"] and (host / "secret").read_text() == SECRET
    assert all(worker.alive for worker in pool._workers)


async def test_there_are_sixty_and_more_of_them():
    escapes = Path(__file__).with_name("test_isolation.py").read_text().count("\n== ")
    assert escapes + len(TAMPERERS) >= 60
