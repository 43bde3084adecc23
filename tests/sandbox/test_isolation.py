"""Escapes by name: what a program in a sandbox must not reach, of the host and of the episode in the next worker.

Each escape is a program that prints `escaped` and what it got, or ends otherwise. It is tried as a Python call, as a
program of its own, and in a terminal. Neighbours hold secrets in every place that a careless sandbox shares.
"""

import asyncio
import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from askesis.sandbox import SandboxPool
from askesis.types import RunLimits

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = RunLimits(wall_s=30, cpu_s=20, memory=256 * 2**20, processes=16)
SECRET = "the-secret-of-another"

NEIGHBOUR = f"""
import socket, sys, time
held = []
for place in ("/tmp/neighbour", "/dev/shm/neighbour", "neighbour"):
    open(place, "w").write("{SECRET}")
for address in ("\\0neighbour", "/tmp/neighbour.socket"):
    server = socket.socket(socket.AF_UNIX)
    server.bind(address); server.listen(); held.append(server)
server = socket.socket(); server.bind(("127.0.0.1", 4242)); server.listen()
open("ready", "w").close()
time.sleep(600)
"""

ESCAPES = r"""
== host_port
import socket
socket.create_connection(("127.0.0.1", {port}), 1)
print("escaped")
== internet
import socket
socket.create_connection(("1.1.1.1", 53), 1)
print("escaped")
== vsock
import socket
socket.socket(socket.AF_VSOCK)
print("escaped")
== raw_packets
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
print("escaped")
== host_abstract_socket
import socket
socket.socket(socket.AF_UNIX).connect("\0{abstract}")
print("escaped")
== neighbour_abstract_socket
import socket
socket.socket(socket.AF_UNIX).connect("\0neighbour")
print("escaped")
== neighbour_port
import socket
socket.create_connection(("127.0.0.1", 4242), 1)
print("escaped")
== network_devices
names = [line.split(":")[0].strip() for line in open("/proc/net/dev")][2:]
if names != ["lo"]: print("escaped", names)
== host_file
print("escaped", open("{secret}").read())
== host_home
import os
found = [name for name in os.listdir("/root") if name != ".pyenv"]
if found: print("escaped", found)
== host_shadow
print("escaped", open("/etc/shadow").read())
== host_passwd
text = open("/etc/passwd").read()
if "root" in text: print("escaped", text)
== host_repository
import os
print("escaped", os.listdir("{here}"))
== host_through_proc
import os
print("escaped", os.listdir("/proc/1/root/home"))
== sysfs
import os
print("escaped", os.listdir("/sys"))
== devices
import os
harmless = "null zero full random urandom fd shm stdin stdout stderr pts ptmx tty"
found = set(os.listdir("/dev")) - set(harmless.split())
if found: print("escaped", found)
== device_node
import os, stat
os.mknod("disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
print("escaped")
== neighbour_files
import os
for folder in ("/tmp", "/dev/shm", "/home", "/var/tmp", "/run"):
    for where, _, names in os.walk(folder):
        if any("neighbour" in name for name in names): print("escaped", where, names)
== write_outside
import os
places = "/x /usr/x /etc/passwd /etc/x /dev/x /bin/x /proc/sys/kernel/hostname /proc/sysrq-trigger"
for path in (*places.split(), os.path.dirname(os.__file__) + "/x"):
    try:
        open(path, "w").write("x")
        print("escaped", path)
    except OSError: pass
== mounts
import ctypes
libc = ctypes.CDLL(None)
if libc.mount(None, b"/", None, 32 | 4096, None) == 0: print("escaped: remounted")
if libc.mount(b"x", b"/home/tmp", b"tmpfs", 0, None) == 0: print("escaped: mounted")
if libc.umount2(b"/proc", 2) == 0: print("escaped: unmounted")
== other_processes
import os
found = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid())]
if found: print("escaped", found)
== read_the_warden
for name in ("mem", "environ", "maps", "fd/3"):
    try:
        open("/proc/1/" + name, "rb").read(1)
        print("escaped", name)
    except OSError: pass
== write_the_warden
open("/proc/1/mem", "r+b")
print("escaped")
== trace_the_warden
import ctypes
if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0: print("escaped")
== limit_the_warden
import resource
resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))
print("escaped")
== slow_the_warden
import os
calls = [
    lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    lambda: os.setpriority(os.PRIO_USER, 0, 19),
    lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19),
    lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    lambda: os.nice(5),  # nor itself: who makes way for all others would seem to be kept waiting by the machine
    lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    lambda: os.sched_setaffinity(1, [0]),
]
for number, call in enumerate(calls):
    try:
        call()
        print("escaped", number)
    except OSError: pass
== kill_the_warden
import os, time
for number in (9, 15, 2, 11, 19, 6, 34):
    try: os.kill(1, number)
    except OSError: pass
time.sleep(0.1)
== kill_the_group
import os, signal
signal.signal(15, signal.SIG_IGN)
for who in (0, -1): os.kill(who, 15)
os.killpg(0, 15)
== the_wardens_session
import os
if os.getsid(0) in (0, 1) or os.getpgrp() in (0, 1): print("escaped")
== environment
import os
found = set(os.environ) - set("PATH HOME TMPDIR LANG USER PWD SHLVL _ LC_CTYPE TERM HISTFILE".split())
if found or "{value}" in str(os.environ): print("escaped", found)
== descriptors
import os
for number in range(3, 4096):
    try:
        os.fstat(number)
        print("escaped", number)
    except OSError: pass
== become_root
import os
os.setuid(0)
print("escaped")
== capabilities
text = open("/proc/self/status").read()
held = [line for line in text.splitlines() if line.startswith("Cap") and int(line.split()[1], 16)]
if held or "NoNewPrivs:\t1" not in text: print("escaped", held)
== setuid_programs
import os, subprocess
for name in ("su", "sudo", "newgrp"):
    try: done = subprocess.run([name, "-c", "id"], capture_output=True, stdin=subprocess.DEVNULL)
    except OSError: continue
    if b"uid=0" in done.stdout: print("escaped", name)
== user_namespace
import ctypes
if ctypes.CDLL(None).unshare(0x10000000) == 0: print("escaped")
== network_namespace
import ctypes
if ctypes.CDLL(None).unshare(0x40000000) == 0: print("escaped")
== cloned_namespace
import ctypes, platform
number = 56 if platform.machine() == "x86_64" else 220
if ctypes.CDLL(None).syscall(number, 0x10000000 | 17, 0, 0, 0, 0) > 0: print("escaped")
== join_namespace
import ctypes, os
if ctypes.CDLL(None).setns(os.open("/proc/self/ns/mnt", 0), 0) == 0: print("escaped")
== raise_limits
import resource
for what in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    try:
        resource.setrlimit(what, (-1, -1))
        print("escaped")
    except ValueError: pass
== chroot
import os
os.chroot("/home")
print("escaped")
== hostname
import socket
socket.sethostname("x")
print("escaped")
== memory_that_is_no_ones
import os
os.memfd_create("x")
print("escaped")
== newer_and_other_system_calls
import ctypes, platform
libc = ctypes.CDLL(None)
# io_uring_setup, clone3, pidfd_getfd, mount_setattr, landlock, and some that are not yet known to anyone
for number in (425, 435, 438, 442, 444, 447, 500, 0x40000000 + 39):
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1: print("escaped", number)
# System V shared memory, semaphores and queues, keys, bpf, performance events, userfaultfd, reboot, module loading
for number in (29, 64, 68, 240, 248, 250, 321, 298, 323, 169, 175) if platform.machine() == "x86_64" else ():
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1: print("escaped", number)
== type_into_a_terminal
import fcntl, os
for path in ("/dev/tty", "/dev/pts/0", "/proc/self/fd/0"):
    try:
        fcntl.ioctl(os.open(path, os.O_RDWR), 0x5412, b"x")
        print("escaped", path)
    except OSError: pass
== line_discipline
import fcntl, os, struct
for path in ("/dev/tty", "/dev/pts/0", "/proc/self/fd/0"):
    try:
        fcntl.ioctl(os.open(path, os.O_RDWR), 0x5423, struct.pack("i", 13))
        print("escaped", path)
    except OSError: pass
== host_terminals
import os
for path in ("/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/pts/1", "/dev/pts/2"):
    try:
        os.open(path, os.O_RDWR | os.O_NOCTTY)
        print("escaped", path)
    except OSError: pass
== wardens_files
import os
for name in ("oom_score_adj", "attr/current", "comm", "timerslack_ns", "coredump_filter"):
    try:
        os.write(os.open("/proc/1/" + name, os.O_WRONLY), b"0")
        print("escaped", name)
    except OSError: pass
== wardens_descriptors
import os
print("escaped", os.listdir("/proc/1/fd"))
== take_a_descriptor
import ctypes, os
if ctypes.CDLL(None).syscall(438, os.pidfd_open(1), 3, 0) != -1: print("escaped")
== kernel_settings
import os
for where, _, names in os.walk("/proc/sys"):
    for name in names:
        try:
            file = os.open(os.path.join(where, name), os.O_RDWR)
            os.write(file, os.read(file, 4096))
            print("escaped", where, name)
        except OSError: pass
== set_the_clock
import time
time.clock_settime(time.CLOCK_REALTIME, 0)
print("escaped")
== kernel_log
import ctypes, platform
number = 103 if platform.machine() == "x86_64" else 116
if ctypes.CDLL(None).syscall(number, 3, ctypes.create_string_buffer(9), 9) != -1: print("escaped")
== link_to_a_host_file
import os
os.link("/usr/bin/env", "linked")
print("escaped")
== wardens_memory_by_process_vm
import ctypes, platform
if ctypes.CDLL(None).syscall(310 if platform.machine() == "x86_64" else 270, 1, 0, 0, 0, 0, 0) != -1: print("escaped")
== signal_from_a_timer
import fcntl, os, signal, time
reading, writing = os.pipe()
try:
    fcntl.fcntl(reading, fcntl.F_SETOWN, 1)
    fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
except OSError: pass
os.write(writing, b"x")
time.sleep(0.1)
"""
ESCAPES = dict(part.split("\n", 1) for part in ESCAPES.split("\n== ")[1:])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    """A host with something to steal, a pool, and a neighbour that runs for as long as the tests do."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret").write_text(SECRET)
    os.environ["ASKESIS_TEST_SECRET"] = SECRET
    port, abstract = socket.socket(), socket.socket(socket.AF_UNIX)
    port.bind(("127.0.0.1", 0))
    abstract.bind(f"\0askesis-test-{os.getpid()}")
    for server in (port, abstract):
        server.listen()
    facts = {
        "port": port.getsockname()[1],
        "abstract": f"askesis-test-{os.getpid()}",
        "secret": str(folder / "secret"),
        "value": SECRET,
        "here": Path(__file__).parent,
    }
    async with SandboxPool(2, LIMITS) as pool:
        neighbour = await pool.acquire()
        long = replace(LIMITS, wall_s=600)
        code = ["python3", "-I", "-S", "-c", NEIGHBOUR]
        await neighbour.write("ready.py", b"")
        living = asyncio.create_task(neighbour.run(code, limits=long))
        await asyncio.sleep(0.3)
        assert not living.done(), living
        yield pool, facts
        living.cancel()
    for server in (port, abstract):
        server.close()
    del os.environ["ASKESIS_TEST_SECRET"]


def program(escape, facts):
    code = ESCAPES[escape]
    for name, value in facts.items():
        code = code.replace("{" + name + "}", str(value))
    return code


def held(result):
    """It did not escape, and what stopped it was the kernel's word and no mistake in the escape."""
    assert result.ended == "exit" and "escaped" not in result.stdout, result
    assert result.exit_code == 0 or re.match(r"\w+Error: \[Errno \d+\]", result.stderr.splitlines()[-1]), result


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_python_call_does_not_escape(world, escape):
    pool, facts = world
    sandbox = await pool.acquire()
    held(await sandbox.python(program(escape, facts)))
    assert (await sandbox.python("print('still here')")).stdout == "still here\n"


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_program_does_not_escape(world, escape):
    pool, facts = world
    sandbox = await pool.acquire()
    held(await sandbox.run(["python3", "-I", "-S", "-c", program(escape, facts)]))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def terminal(world):
    """A shell in a terminal, and its sandbox."""
    pool, _ = world
    sandbox = await pool.acquire()
    shell = await sandbox.terminal(["/bin/bash", "--norc", "-i"], limits=replace(LIMITS, wall_s=600, cpu_s=600))
    yield sandbox, shell
    await sandbox.close()


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_program_in_a_terminal_does_not_escape(world, terminal, escape):
    sandbox, shell = terminal
    await sandbox.write("escape.py", program(escape, world[1]).encode())
    await shell.send(b"rm -rf disk linked; python3 -I -S escape.py >out 2>err; echo $? >code; mv code done-$?\n")
    async with asyncio.timeout(30):
        while "done-0" not in await sandbox.paths():
            await shell.read(wait_s=0.05, quiet_s=0.02)
    result = await sandbox.run(["sh", "-c", "cat out; cat err >&2; code=$(cat done-0); rm done-0; exit $code"])
    held(replace(result, exit_code=result.exit_code if result.exit_code < 128 else 128 - result.exit_code))
    assert shell.alive or escape in ("kill_the_group",)


TRACES = """
import multiprocessing.shared_memory, os, socket, sys, threading
open("/tmp/trace", "w").write("x"); open("/dev/shm/trace", "w").write("x"); open("kept", "w").write("x")
sys.modules["json"].trace = True; os.environ["TRACE"] = "x"; os.umask(0)
os.set_blocking(0, False); os.set_blocking(1, False)
"""
LOOK = """
import gc, json, os, sys
print(*map(os.path.exists, ("/tmp/trace", "/dev/shm/trace", "kept")), hasattr(json, "trace"), "TRACE" in os.environ,
      oct(os.umask(0o22)), os.get_blocking(0), os.get_blocking(1), len(os.listdir(".")))
"""


async def test_a_call_leaves_nothing_but_its_tree():
    async with SandboxPool(1, LIMITS) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        clean = "False False False False False 0o22 True True 0\n"
        assert (await first.python(LOOK)).stdout == clean
        assert (await first.python(TRACES)).exit_code == 0
        assert (await second.python(LOOK)).stdout == clean
        assert (await first.python("import os; print(os.listdir('.'), os.listdir('/tmp'))")).stdout == "['kept'] []\n"
        listening = (
            "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80 * 100)); s.listen(); c = socket.socket(); "
        )
        listening += "c.connect(s.getsockname()); print(len(open('/proc/net/tcp').readlines()))"
        for sandbox in (first, second):  # a loopback device of its own, without the traces of the last one's
            done = await sandbox.run(["python3", "-I", "-S", "-c", listening])
            assert done.stdout == "4\n", done


async def test_results_cannot_be_forged(world):
    pool, _ = world
    sandbox = await pool.acquire()
    code = """
import gc, os, socket, struct, sys
for thing in gc.get_objects():
    if "socket" in type(thing).__name__:
        try: thing.send(struct.pack("<BiBd", 0, 0, 0, 0.0))
        except (OSError, AttributeError, TypeError): pass
for number in range(3, 200):
    try: os.write(number, struct.pack("<BiBd", 0, 0, 0, 0.0))
    except OSError: pass
os.write(1, b"ready" + struct.pack("<BiBd", 0, 0, 0, 0.0))
os._exit(9)
"""
    result = await sandbox.python(code)
    assert (result.ended, result.exit_code, result.stdout[:5]) == ("exit", 9, "ready")


SEARCH = """
import ctypes, os
needle, hits = bytes(reversed(b"ruobhgien-a-fo-nidts-eht-ni")), 0
kept = open("file").read() if os.path.exists("file") else ""
for line in open("/proc/self/maps"):
    span, mode, *_, name = line.split()
    if "rw" in mode:
        low, high = (int(number, 16) for number in span.split("-"))
        hits += ctypes.string_at(low, high - low).count(needle + b"in")  # the needle itself is no hit
print(hits)
"""


async def test_stdin_of_one_episode_is_not_in_the_memory_of_the_next():
    needle = b"in-the-stdin-of-a-neighbour" * 100
    async with SandboxPool(1, LIMITS) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        await first.write("file", needle)
        echo = "import sys; print(sys.stdin.read() + open('file').read() + sys.argv[1])"
        assert "neighbour" in (await first.python(echo, stdin=needle, argv=[needle.decode()])).stdout
        assert (await first.python(SEARCH)).stdout != "0\n"  # the search finds what is there
        assert (await second.python(SEARCH, stdin=needle[::-1])).stdout == "0\n"
