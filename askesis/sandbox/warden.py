"""The warden: process 1 of a worker, inside bubblewrap. Its source is handed to `python -I -S -c`; the host
imports its constants alone.

It serves one run after another. For each it mounts a new, empty tmpfs on `/home`, forks a child, and watches it. The
child unpacks its episode's tree, takes its limits, gives up every capability, installs the system-call filter, and only
then becomes the program. When all that the child started is dead and reaped, the warden answers with numbers and with
three descriptors: what went to stdout, what went to stderr, and the tree.

The invariant: no byte of an episode enters the warden's memory, from which the next episode's child is forked. The
payload is a descriptor that the child reads, output is spliced from pipe to file, and the tree is read by the host.
"""

# Every call counts in what is forked for every run: plain `os`, no `pathlib`.
# ruff: noqa: PTH101, PTH102, PTH208, PTH211

from __future__ import annotations

import _socket
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import marshal
import math
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Sequence
from typing import Any, NoReturn

REQUEST = struct.Struct("<BddQQQQ")  # mode, wall_s, cpu_s, memory, processes, file size, output
REPLY = struct.Struct("<BiBd")  # ended, exit code, truncated, wall_s
READY = b"ready"
PYTHON, RUN = 0, 1
EXIT, WALL, CPU, MEMORY, KILLED, UNSTARTED = range(6)
OUT_OF_MEMORY = 63  # the signal by which a Python program that died of `MemoryError` says so
HOME, TREE = "/home", "/home/agent"
TICK_S = 0.02  # how often what a run uses is added up
CHUNK = 2**16

libc = ctypes.CDLL(None, use_errno=True)
MS_NOSUID, MS_NODEV, MNT_DETACH, CLONE_NEWNET = 2, 4, 2, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 8, 22, 24
SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_ADMIN = 6, 7, 8, 12, 21
STREAMS = (
    (0, "stdin", "r", "surrogateescape", -1),
    (1, "stdout", "w", "surrogateescape", -1),
    (2, "stderr", "w", "backslashreplace", 1),
)
RESERVED = 1  # processes that the user has here beside the run's: the warden
SINK = -1  # /dev/null, once the warden runs
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


def check(result: int, what: str) -> None:
    """Raise the `OSError` of a libc call that failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def set_capabilities(*kept: int) -> None:
    """Make `kept` the effective and permitted capabilities of this process."""
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("=Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("=6I", mask, mask, 0, 0, 0, 0)), "capset")


class Program(ctypes.Structure):
    """struct sock_fprog: a system-call filter."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


class Stream:
    """One output of a program: a pipe that it writes to, and a file of at most `cap` bytes that the host will read."""

    def __init__(self, cap: int) -> None:
        self.pipe, self.end = os.pipe2(os.O_CLOEXEC)
        self.file = os.memfd_create("output")
        self.room = cap
        self.truncated = False

    def pump(self) -> bool:
        """Move what is there, without reading it; False at the end of the pipe or when nothing is there."""
        try:
            if self.room:
                moved = os.splice(self.pipe, self.file, min(self.room, CHUNK), flags=2)
                self.room -= moved
            else:
                moved = os.splice(self.pipe, SINK, CHUNK, flags=2)
                self.truncated = self.truncated or moved > 0
        except BlockingIOError:
            return False
        return moved > 0


class Usage:
    """What a run uses: seconds of CPU and bytes of memory, over all its processes, the dead ones included."""

    def __init__(self) -> None:
        self.before = self._reaped()
        self.buffer = bytearray(1024)

    @staticmethod
    def _reaped() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def final(self) -> float:
        """CPU seconds, once everything has been reaped."""
        return self._reaped() - self.before

    def now(self, memory: int) -> tuple[float, int]:
        """CPU seconds and resident bytes, shared pages counted once if it comes near `memory`."""
        cpu, pages, pids = self.final(), 0, []
        for name in os.listdir("/proc"):
            if name.isdigit() and name != "1" and (fields := self._stat(name)) is not None:
                cpu += sum(fields[10:14]) / TICKS
                pages += fields[20]
                pids.append(name)
        used = pages * PAGE
        return cpu, used if used <= memory else sum(self._proportional(pid) for pid in pids)

    def _stat(self, pid: str) -> list[int] | None:
        """The numbers in /proc/PID/stat behind the command's name, which is the program's and is wiped from memory."""
        content = self._proc(pid, "stat")
        if content is None:
            return None
        start = content.rfind(b")") + 4
        return [int(field) for field in bytes(memoryview(content)[start:]).split()[:22]] if start > 3 else None

    def _proportional(self, pid: str) -> int:
        content = self._proc(pid, "smaps_rollup")
        if content is None or (start := content.find(b"\nPss:")) < 0:
            return 0
        return int(bytes(content[start + 5 : content.find(b"kB", start)])) * 1024

    def _proc(self, pid: str, name: str) -> bytearray | None:
        self.buffer[:] = bytes(len(self.buffer))
        try:
            file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            os.readv(file, [self.buffer])
        except OSError:
            return None
        finally:
            os.close(file)
        return self.buffer


# -- the child: from the fork to the program ------------------------------------------------------------------------


def enter(payload: int, request: tuple[Any, ...], outputs: tuple[int, int], filters: Sequence[Program]) -> NoReturn:
    """Become the program. What fails before it is written over the payload, which is emptied once the program begins.

    The program has no descriptor of the payload, so it cannot say that it never began.
    """
    try:
        mode, _, cpu_s, memory, processes, file_size, _ = request
        os.setsid()
        size = os.fstat(payload).st_size
        source, argv, stdin, files = marshal.loads(os.pread(payload, size, 0))
        unpack(files)
        streams(stdin, *outputs)
        if mode == RUN:
            own_network()
        limit(cpu_s, memory if mode == PYTHON else 2 * memory, processes, file_size)
        give_up(filters[mode])
        os.ftruncate(payload, 0)
        os.closerange(3, 2**16)
    except BaseException as error:
        os.ftruncate(payload, 0)
        os.pwrite(payload, f"!{type(error).__name__}: {error}".encode("utf-8", "replace"), 0)
        os._exit(1)
    if mode == RUN:
        execute(argv)
    interpret(source, argv)


def unpack(files: list[tuple[bytes, str, int, int, bytes]]) -> None:
    """Make the tree: folders in order, then files and links, then the folders' own modes, the deepest first."""
    os.chdir(TREE)
    folders = []
    for path, kind, mode, mtime, data in files:
        if kind == "folder":
            os.mkdir(path, 0o700)
            folders.append((path, mode, mtime))
        elif kind == "link":
            os.symlink(data, path)
        else:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fchmod(file, mode)
                os.utime(file, ns=(mtime, mtime))
            finally:
                os.close(file)
    for path, mode, mtime in reversed(folders):
        os.chmod(path, mode)
        os.utime(path, ns=(mtime, mtime))


def streams(stdin: bytes, out: int, err: int) -> None:
    """Descriptors 0, 1 and 2, none of them shared with anything outside this run."""
    source = os.memfd_create("stdin") if stdin else os.open("/dev/null", os.O_RDONLY)
    rest = memoryview(stdin)
    while rest:
        rest = rest[os.write(source, rest) :]
    if stdin:
        os.lseek(source, 0, os.SEEK_SET)
    for number, file in enumerate((source, out, err)):
        os.dup2(file, number)


def own_network() -> None:
    """A network namespace of this run's own, with nothing in it but a loopback device that is up."""
    check(libc.unshare(CLONE_NEWNET), "unshare the network")
    device = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        flags = struct.pack("16sh22x", b"lo", 1)  # struct ifreq, IFF_UP
        check(libc.ioctl(device.fileno(), 0x8914, flags), "bring loopback up")
    finally:
        device.close()


def limit(cpu_s: float, memory: int, processes: int, file_size: int) -> None:
    """The kernel's limits. CPU time is the warden's to watch, over all processes; here it only has a backstop."""
    seconds = math.ceil(cpu_s) + 1
    for what, bound in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes + RESERVED),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (bound, bound))


def give_up(program: Program) -> None:
    """Every capability, for good: none to inherit, none to gain. Then the filter."""
    for capability in (NET_ADMIN, SYS_ADMIN, SETPCAP):
        check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "drop from the bounding set")
    set_capabilities()
    check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "install the system-call filter")


def execute(argv: list[str]) -> NoReturn:
    """Replace this process by a program; where there is none, end as a shell would: 127, or 126 if it may not run."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        os.write(2, os.fsencode(f"{argv[0]}: {'no such program' if missing else error.strerror}\n"))
        os._exit(127 if missing else 126)
    except ValueError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(126)


def interpret(source: str, argv: list[str]) -> NoReturn:
    """Run `source` as `python -I -S -c` would, and end the process as it would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    sys.argv = ["-c", *argv]
    for number, name, mode, errors, buffering in STREAMS:
        stream = open(number, mode, buffering, "utf-8", errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    gc.enable()
    code = 0
    try:
        exec(compile(source, "<string>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        code = failed(error)
    code = finish() or code
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def failed(error: BaseException) -> int:
    """Report what ended the program as CPython does, without our own frames. The exit code, negative for a signal."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    with contextlib.suppress(BaseException):
        theirs = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.excepthook(type(error), error.with_traceback(theirs), theirs)
    if isinstance(error, KeyboardInterrupt):
        return -signal.SIGINT
    return -OUT_OF_MEMORY if isinstance(error, MemoryError) else 1


def finish() -> int:
    """What an interpreter does at its end: other threads, `atexit`, buffers. 120 if output could not be flushed."""
    code = 0
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    except BaseException as error:
        code = failed(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            code = 120
    return code


# -- the warden -----------------------------------------------------------------------------------------------------


def fresh(size: int, inodes: int) -> int:
    """Mount an empty tree over the last one's place; the descriptor of its folder."""
    libc.umount2(HOME.encode(), MNT_DETACH)  # fails the first time: nothing is mounted yet
    options = f"size={size},nr_inodes={inodes},mode=755".encode()
    check(libc.mount(b"tmpfs", HOME.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), "mount the tree")
    for name in ("agent", "tmp", "shm"):
        os.mkdir(f"{HOME}/{name}", 0o755)
    return os.open(TREE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def supervise(child: int, request: tuple[Any, ...], outputs: tuple[Stream, Stream]) -> tuple[int, int, float]:
    """Watch a run until it and all that it started are gone: how it ended, its wait status, wall seconds."""
    _, wall_s, cpu_s, memory, *_ = request
    started = time.monotonic()
    deadline, tick, ended, status = started + wall_s, started + TICK_S, EXIT, None
    usage, poll, streams = Usage(), select.poll(), {stream.pipe: stream for stream in outputs}
    watched = os.pidfd_open(child)
    for file in (watched, *streams):
        poll.register(file, select.POLLIN)
    while True:
        now = time.monotonic()
        if now >= deadline:
            ended = WALL
            break
        if now >= tick:
            used_s, used = usage.now(memory)
            if used_s > cpu_s or used > memory:
                ended = CPU if used_s > cpu_s else MEMORY
                break
            status, _ = reap(child, status)
            tick = time.monotonic() + TICK_S
        # what the program left behind has no descriptor to wait for
        wait_s = min(deadline, tick) - now if status is None else 0.002
        for file, event in poll.poll(math.ceil(1000 * wait_s)):
            if file == watched:
                poll.unregister(watched)
                status, _ = reap(child, status)
            elif not (event & select.POLLIN and streams[file].pump()) and event & select.POLLHUP:
                poll.unregister(file)
        if status is not None:
            status, alone = reap(child, status)
            if alone:
                break
    os.close(watched)
    if ended != EXIT or status is None:
        status = exterminate(child, status)
    wall_s = time.monotonic() - started
    for stream in outputs:
        while stream.pump():
            pass
    used_s = usage.final()
    if ended == EXIT and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and used_s >= cpu_s):
            ended = CPU
        elif number == OUT_OF_MEMORY and request[0] == PYTHON:
            ended, status = MEMORY, 1 << 8
        elif number == signal.SIGKILL:
            ended = KILLED
    return ended, status, wall_s


def reap(child: int, status: int | None) -> tuple[int | None, bool]:
    """Wait for all that has ended: the wait status of `child` if it has, and whether nothing is left."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = ended[1]
    except ChildProcessError:
        return status, True
    return status, False


def exterminate(child: int, status: int | None) -> int:
    """Kill all that lives here and wait until it is gone; the wait status of `child`."""
    while True:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            pid, how = os.waitpid(-1, 0)
        except ChildProcessError:
            return 0 if status is None else status
        if pid == child:
            status = how


def serve(control: Any, home: int, filters: Sequence[Program]) -> bool:
    """One run; False when the host is gone."""
    message, ancillary, _, _ = control.recvmsg(REQUEST.size, _socket.CMSG_SPACE(4))
    if not message:
        return False
    (payload,) = struct.unpack("i", ancillary[0][2])
    request = REQUEST.unpack(message)
    outputs = (Stream(request[-1]), Stream(request[-1]))
    child = os.fork()
    if child == 0:
        enter(payload, request, (outputs[0].end, outputs[1].end), filters)
    for stream in outputs:
        os.close(stream.end)
    ended, status, wall_s = supervise(child, request, outputs)
    if os.fstat(payload).st_size:
        ended = UNSTARTED
    truncated = outputs[0].truncated or outputs[1].truncated
    code = os.waitstatus_to_exitcode(status)
    files = struct.pack("4i", outputs[0].file, outputs[1].file, home, payload)
    control.sendmsg([REPLY.pack(ended, code, truncated, wall_s)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
    for file in (payload, home, *(file for stream in outputs for file in (stream.pipe, stream.file))):
        os.close(file)
    return True


def ordinary(user: int) -> None:
    """Where root started us: become an ordinary user, with the capabilities of this user namespace alone."""
    if os.getuid() != user:
        for capability in (SETUID, SETGID):
            check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "drop from the bounding set")
        check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    set_capabilities(SYS_ADMIN, NET_ADMIN, SETPCAP)
    # a change of credentials forgets both of these
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the host")
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "undumpable")


def main() -> None:
    """Say that the worker is ready, then serve until the host closes the socket."""
    config = json.loads(sys.argv[1])
    os.environ.pop("PWD", None)  # bubblewrap's own
    ordinary(config["user"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 ignores what it does not handle
    filters = [Program(len(code) // 8, code) for code in map(bytes.fromhex, config["filters"])]
    for name in config["preload"]:
        importlib.import_module(name)
    control = _socket.socket(fileno=config["control"])
    home = fresh(config["size"], config["inodes"])
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(READY)
    while serve(control, home, filters):
        home = fresh(config["size"], config["inodes"])


if __name__ == "__main__":
    SINK = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    main()
