"""The warden: process 1 of a worker, inside bubblewrap. It is handed its source (`BOOT`); the host imports constants.

It serves one run after another. For each it mounts a new, empty tmpfs on `/home`, forks a child, and watches it. The
child unpacks its episode's tree, takes its limits, gives up every capability, installs the last system-call filter, and
only then becomes the program. When all that the child started is dead and reaped, the warden answers with numbers and
with descriptors: what went to stdout, what went to stderr, and the tree.

The invariant: no byte of an episode enters the warden's memory, from which the next episode's child is forked. The
payload is a descriptor that the child reads, output is spliced from pipe to file, and the host reads the tree.
"""

# Every page of this process is mapped again for every run, and copied once touched: few imports, and plain `os`.
# ruff: noqa: PTH101, PTH102, PTH103, PTH123, PTH208, PTH211, SIM105, SIM115

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps every number in an enum
import _socket
import atexit
import ctypes
import gc
import json
import marshal
import os
import resource
import select
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Modules first: what lies close together in memory lies in the same pages. Source and configuration are descriptors.
BOOT = "import sys\n[*map(__import__, sys.argv[1].split(','))]\nwith open(int(sys.argv[2])) as file: exec(file.read())"
# The steward imports from the warden, which is handed over under its name; nothing else of ours is in here.
LIVE_BOOT = """import sys
[*map(__import__, sys.argv[1].split(','))]
sys.modules['askesis.sandbox.warden'] = warden = type(sys)('askesis.sandbox.warden')
with open(int(sys.argv[2])) as file: exec(file.read(), warden.__dict__)
with open(int(sys.argv[4])) as file: exec(file.read())"""
NEEDED = "_signal _socket atexit ctypes gc json marshal os resource select struct time".split()
READY = b"ready"
REQUEST = struct.Struct("<BddQQQQ")  # mode, wall_s, cpu_s, memory, processes, file size, output
REPLY = struct.Struct("<BiBd")  # ended, exit code, truncated, wall_s
PYTHON, RUN = 0, 1
LISTENS = b"listens"  # what comes with the socket of a door
EXIT, WALL, CPU, MEMORY, KILLED, UNSTARTED, STALLED, STOPPED = range(8)
OUT_OF_MEMORY = 63  # the signal by which a Python program that died of `MemoryError` says so
HOME, TREE = "/home", "/home/agent"
TICK_S = 0.02  # how often what a run uses is added up
SETUP_S = 10.0  # in which a child must become the program: time that the machine takes, not the program
PATIENCE = 10  # times its wall limit (or seconds beyond it): by then the machine must have let a program have its time
LATE_S = 0.1  # a look that comes later than this was kept waiting by a machine that stood still
CHUNK = 2**16
COMPILED = ("<string>", "exec", 0, True)  # a program as a file name, in no dialect of ours
ANY_CHILD = 0x40000000  # __WALL: wait for children of every make
RESERVED = 1  # processes that the user has in here beside the run's: the warden
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
SHARED: dict[str, Any] = {}  # made once the warden runs: descriptors, filters, programs

libc = ctypes.CDLL(None, use_errno=True)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MNT_DETACH, CLONE_NEWNET = 2, 4, 0x1000, 0x4000, 2, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 8, 22, 24
SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_ADMIN = 6, 7, 8, 12, 21
CAPABILITIES = struct.pack("=Ii", 0x20080522, 0)  # of this process: _LINUX_CAPABILITY_VERSION_3
NONE = bytes(24)


def check(result: int, what: str) -> None:
    """Raise the `OSError` of a libc call that failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Program(ctypes.Structure):
    """struct sock_fprog: a system-call filter."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def longest(wall_s: float) -> float:
    """Seconds after which a run is given up that the machine keeps from its time."""
    return max(PATIENCE * wall_s, PATIENCE + wall_s)


def install(program: Any) -> None:
    """Bind this process and its children to a system-call filter, on top of those that they have."""
    check(libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0), "install a system-call filter")


def loaded(code: str) -> Any:
    """A filter, from hexadecimal digits."""
    return ctypes.byref(Program(len(code) // 16, bytes.fromhex(code)))


# -- the child: from the fork to the program ------------------------------------------------------------------------


def enter(request: tuple[Any, ...], payload: int, stdin: int, outputs: tuple[int, int], door: int | None) -> NoReturn:
    """Become the program, in a tree that is unpacked first."""
    try:
        mode = request[0]
        os.setsid()
        source, argv, files, environment, port = delivered(payload)
        os.chdir(TREE)
        unpack(files)
        for number, file in enumerate((stdin, *outputs)):
            os.dup2(file, number)
        if mode == RUN:
            own_network()
        if door is not None:
            open_door(door, port)
        begin(request, payload, SHARED["filters"][mode])
    except BaseException as error:
        refuse(payload, error)
    become(mode, source, argv, environment)


def delivered(payload: int) -> Any:
    """What the host put into a payload."""
    return marshal.loads(os.pread(payload, os.fstat(payload).st_size, 0))


def begin(request: tuple[Any, ...], payload: int, program: Any, others: int = 0) -> None:
    """The last steps before the program: limits, no descriptor, no capability, the filter. The payload is emptied.

    Only then can others of this user look into the process. others: processes that live in here beside the run's.
    """
    mode, _, cpu_s, memory, processes, file_size, _ = request
    os.closerange(3, payload)
    os.closerange(payload + 1, 2**16)
    limit(cpu_s, memory if mode == PYTHON else 2 * memory, processes + others, file_size)
    check(libc.capset(CAPABILITIES, NONE), "give up all capabilities")
    install(program)
    os.ftruncate(payload, 0)
    os.close(payload)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc/self is its to read


def refuse(payload: int, error: BaseException) -> NoReturn:
    """What failed before the program began is written over its payload, of which the program has no descriptor."""
    os.ftruncate(payload, 0)
    os.pwrite(payload, f"!{type(error).__name__}: {error}".encode("utf-8", "replace"), 0)
    os._exit(1)


def become(mode: int, source: str | int, argv: list[str], environment: dict[str, str]) -> NoReturn:
    """The program, from here on."""
    if mode != PYTHON:
        os.environ.update(environment)
        execute(argv)
    interpret(source, argv)


def unpack(files: list[tuple[str, str, int, int, bytes]]) -> None:
    """Make the tree: everything in order, then the folders' own modes, the deepest first."""
    folders = []
    for path, kind, mode, mtime, data in files:
        if kind == "folder":
            os.mkdir(path, 0o700)
            folders.append((path, mode, mtime))
        elif kind == "link":
            os.symlink(data, path)
        else:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fchmod(file, mode)
            os.utime(file, ns=(mtime, mtime))
            os.close(file)
    for path, mode, mtime in reversed(folders):
        os.chmod(path, mode)
        os.utime(path, ns=(mtime, mtime))


def own_network() -> None:
    """A network namespace of this run's own, with nothing in it but a loopback device that is up."""
    check(libc.unshare(CLONE_NEWNET), "unshare the network")
    device = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    flags = struct.pack("16sh22x", b"lo", 1)  # struct ifreq, IFF_UP
    check(libc.ioctl(device.fileno(), 0x8914, flags), "bring loopback up")
    device.close()


def open_door(door: int, port: int) -> None:
    """Hand out a socket that listens on `port` in here: who connects to it in here is heard by the host alone."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    channel = _socket.socket(fileno=os.dup(door))
    channel.sendmsg([LISTENS], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener.fileno()))])
    channel.close()
    listener.close()


def limit(cpu_s: float, memory: int, processes: int, file_size: int) -> None:
    """The kernel's limits. CPU time is the warden's to watch, over all processes; here it only has a backstop."""
    for what, bound in (
        (resource.RLIMIT_CPU, int(cpu_s) + 2),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes + RESERVED),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 1),  # unlike 0, it also spares the host's crash handler
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_SIGPENDING, 256),
    ):
        resource.setrlimit(what, (bound, bound))


def execute(argv: list[str]) -> NoReturn:
    """Replace this process by a program; where there is none, end as a shell would: 127, or 126 if it may not run."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    code, said = 126, ""
    try:
        os.execvp(argv[0], argv)
    except (FileNotFoundError, NotADirectoryError):
        code, said = 127, "no such program"
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
    os.write(2, f"{argv[0]}: {said}\n".encode("utf-8", "backslashreplace"))
    os._exit(code)


def interpret(source: str | int, argv: list[str]) -> NoReturn:
    """Run `source`, or the program of this number, as `python -I -S -c` would, and end the process as that would."""
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    sys.argv = ["-c", *argv]
    gc.enable()
    code = 0
    try:
        program = SHARED["programs"][source] if isinstance(source, int) else compile(source, *COMPILED)
        exec(program, module.__dict__)
    except BaseException as error:
        code = failed(error)
    code = finish() or code
    if code < 0:
        _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def failed(error: BaseException) -> int:
    """Report what ended the program as CPython does, without our own frames. The exit code, negative for a signal."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    try:
        theirs = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.excepthook(type(error), error.with_traceback(theirs), theirs)
    except BaseException:
        pass
    if isinstance(error, KeyboardInterrupt):
        return -int(_signal.SIGINT)
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


class Stream:
    """One output of a program: a pipe that it writes to, and a file of at most `cap` bytes that the host will read."""

    def __init__(self, cap: int) -> None:
        self.pipe, self.end = os.pipe2(os.O_CLOEXEC)
        self.file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=SHARED["shelf"])
        self.room = cap
        self.truncated = self.over = False

    def pump(self) -> bool:
        """Move what is there, without reading it; False where nothing is, and `over` where nothing more will be."""
        try:
            if self.room:
                moved = os.splice(self.pipe, self.file, min(self.room, CHUNK), flags=2)  # SPLICE_F_NONBLOCK
                self.room -= moved
            else:
                moved = os.splice(self.pipe, SHARED["sink"], CHUNK, flags=2)
                self.truncated = self.truncated or moved > 0
            self.over = moved == 0
        except BlockingIOError:
            return False
        except OSError:  # whatever a program put into its pipe that cannot be moved: the end of it, and not of us
            self.truncated = self.over = True
        return not self.over


def usage(memory: int, waits: dict[str, int]) -> tuple[float, int, float]:
    """CPU seconds and resident bytes of all that runs, shared pages counted once if it comes near `memory`.

    And the seconds that one of its threads, the one that waited most, stood in line for a core since the last look;
    `waits` (nanoseconds by thread) is brought up to date.
    """
    cpu, pids, buffer = 0.0, dict[str, int](), bytearray(1024)
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1" and proc(name, "stat", buffer):
            # behind the command's name, which is the program's
            fields = bytes(memoryview(buffer)[buffer.rfind(b")") + 4 :]).split()
            cpu += sum(map(int, fields[10:14])) / TICKS  # its own and its reaped children's, in user and kernel
            pids[name] = int(fields[20]) * PAGE
    used = sum(pids.values())
    if used > memory:
        used = sum(proportional(pid, resident, buffer) for pid, resident in pids.items())
    most = 0
    for pid in pids:
        for thread, waited in in_line(pid, buffer).items():
            most, waits[thread] = max(most, waited - waits.get(thread, 0)), waited
    buffer[:] = bytes(len(buffer))
    return cpu, used, most / 1e9


def in_line(pid: str, buffer: bytearray) -> dict[str, int]:
    """How long each thread of a process has stood in line for a core so far, in nanoseconds.

    Empty where it is gone, or the kernel does not count that.
    """
    found = {}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            if proc(pid, f"task/{thread}/schedstat", buffer):
                found[thread] = int(bytes(buffer).split()[1])
    except OSError:
        pass
    return found


def proportional(pid: str, resident: int, buffer: bytearray) -> int:
    """Resident bytes of a process, each page divided by how many share it; `resident` is what they are undivided."""
    start = buffer.find(b"\nPss:") if proc(pid, "smaps_rollup", buffer) else -1
    if start < 0:  # it does not let itself be looked at, or is gone
        return resident
    return int(bytes(buffer[start + 5 : buffer.find(b"kB", start)])) * 1024


def proc(pid: str, name: str, buffer: bytearray) -> bool:
    """Fill `buffer` from a file of /proc; False if the process is gone."""
    buffer[:] = bytes(len(buffer))
    try:
        file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.readv(file, [buffer]) > 0
    except OSError:
        return False
    finally:
        os.close(file)


def reaped_s() -> float:
    """CPU seconds of all children so far that are dead and reaped."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Clock:
    """The wall limit of a run, which begins when its program does, and before that the time that it has to begin.

    What the machine took from it does not count: the time for which a thread stood in line for a core, or we did not
    get to look. But all CPU time that was had in here does, so that nothing is won by standing in line behind oneself.
    """

    def __init__(self, wall_s: float) -> None:
        self.wall_s, self.begun = wall_s, 0.0
        self.deadline = time.monotonic() + SETUP_S
        self.late_s = self.taken_s = 0.0

    def begin(self, now: float) -> None:
        """The program has begun."""
        self.begun, self.deadline = now, now + self.wall_s

    def overdue(self, seconds: float) -> None:
        """A look came so much later than it was meant to."""
        self.late_s += seconds if seconds > LATE_S else 0.0

    def verdict(self, now: float, running_s: float, in_line_s: float) -> int:
        """EXIT while there is time left, or how it ends. running_s: CPU time since the beginning."""
        if self.begun:  # the kernel enters a wait when it is over, so that it may be longer than the time between looks
            self.taken_s = min(self.taken_s + max(in_line_s, self.late_s), now - self.begun)
        self.late_s = 0.0
        if now < self.deadline:
            return EXIT
        last = self.begun + longest(self.wall_s)
        left_s = self.wall_s - max(running_s, now - self.begun - self.taken_s) if self.begun else 0.0
        if left_s <= 0 or now >= last:
            return WALL if left_s <= 0 else STALLED
        self.deadline = min(now + left_s, last)
        return EXIT


def supervise(
    child: int, payload: int, request: tuple[Any, ...], outputs: tuple[Stream, Stream], door: int | None
) -> tuple[int, int, float]:
    """Watch a run until it and all that it started are gone: how it ended, its wait status, wall seconds.

    door: when its other end is closed, the run is to stop.
    """
    _, wall_s, cpu_s, memory, *_ = request
    started, before_s = time.monotonic(), reaped_s()
    clock, tick, ended, status, waits = Clock(wall_s), started + TICK_S, EXIT, None, dict[str, int]()
    poll, streams = select.poll(), {stream.pipe: stream for stream in outputs}
    watched = os.pidfd_open(child)
    for file in (watched, *streams):
        poll.register(file, select.POLLIN)
    if door is not None:
        poll.register(door, select.POLLRDHUP)
    while True:
        now = time.monotonic()
        if not clock.begun and not os.fstat(payload).st_size:
            clock.begin(now)
        if now >= min(tick, clock.deadline):
            running_s, used, in_line_s = usage(memory, waits)
            running_s += reaped_s() - before_s
            if running_s > cpu_s or used > memory:
                ended = MEMORY if used > memory else CPU
                break
            ended = clock.verdict(now, running_s, in_line_s)
            if ended != EXIT:
                break
            status, _ = reap(child, status)
            tick = time.monotonic() + TICK_S
        # what the program left behind has no descriptor to wait for
        wait_s = min(clock.deadline, tick) - now if status is None else 0.002
        files = poll.poll(int(1000 * wait_s) + 1)
        clock.overdue(time.monotonic() - now - wait_s)
        if door is not None and any(file == door for file, _ in files):
            ended = STOPPED
            break
        for file, _ in files:
            if file == watched:
                poll.unregister(watched)
                status, _ = reap(child, status)
            elif not streams[file].pump() and streams[file].over:
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
    ended, status = named(request[0], ended, status, reaped_s() - before_s >= cpu_s)
    return ended, status, wall_s


def named(mode: int, ended: int, status: int, over: bool) -> tuple[int, int]:
    """How a run ended, and its wait status, by the signal that it died of. over: it has had its CPU time."""
    if ended == EXIT and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == OUT_OF_MEMORY and mode == PYTHON:
            return MEMORY, 1 << 8  # it exited with 1
        if number == _signal.SIGXCPU or (number == _signal.SIGKILL and over):
            return CPU, status
        if number == _signal.SIGKILL:
            return KILLED, status
    return ended, status


def reap(child: int, status: int | None) -> tuple[int | None, bool]:
    """Wait for all that has ended: the wait status of `child` if it has, and whether nothing is left."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG | ANY_CHILD))[0]:
            if ended[0] == child:
                status = ended[1]
    except ChildProcessError:
        return status, True
    return status, False


def exterminate(child: int, status: int | None) -> int:
    """Kill all that lives here and wait until it is gone; the wait status of `child`."""
    while True:
        try:
            os.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            pid, how = os.waitpid(-1, ANY_CHILD)
        except ChildProcessError:
            return 0 if status is None else status
        if pid == child:
            status = how


def fresh(size: int, inodes: int) -> int:
    """Mount an empty file system in the last one's place; the descriptor of its tree."""
    libc.umount2(HOME.encode(), MNT_DETACH)  # fails the first time: nothing is mounted yet
    options = f"size={size},nr_inodes={inodes},mode=755".encode()
    check(libc.mount(b"tmpfs", HOME.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), "mount the tree")
    os.mkdir("/home/tmp", 0o700)
    os.mkdir(TREE, 0o755)
    for path, folder in SHARED["covered"]:
        os.makedirs(path, exist_ok=True)
        check(libc.mount(b"/proc/self/fd/%d" % folder, path.encode(), None, MS_BIND | MS_REC, None), f"mount {path}")
    return os.open(TREE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def serve(control: Any, home: int) -> bool:
    """One run; False when the host is gone."""
    message, ancillary, _, _ = control.recvmsg(REQUEST.size, _socket.CMSG_SPACE(12), _socket.MSG_CMSG_CLOEXEC)
    if not message:
        return False
    payload, stdin, *doors = struct.unpack(f"{len(ancillary[0][2]) // 4}i", ancillary[0][2])
    door = doors[0] if doors else None
    request = REQUEST.unpack(message)
    outputs = (Stream(request[-1]), Stream(request[-1]))
    child = os.fork()
    if child == 0:
        enter(request, payload, stdin, (outputs[0].end, outputs[1].end), door)
    for stream in outputs:
        os.close(stream.end)
    ended, status, wall_s = supervise(child, payload, request, outputs, door)
    if os.fstat(payload).st_size and ended != STOPPED:
        ended = UNSTARTED
    truncated = outputs[0].truncated or outputs[1].truncated
    reply = REPLY.pack(ended, os.waitstatus_to_exitcode(status), truncated, wall_s)
    files = struct.pack("4i", outputs[0].file, outputs[1].file, home, payload)
    control.sendmsg([reply], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
    for file in (payload, stdin, home, *doors, *(file for stream in outputs for file in (stream.pipe, stream.file))):
        os.close(file)
    return True


def ordinary(user: int) -> None:
    """Where root started us: become an ordinary user, with the capabilities of this user namespace alone."""
    for capability in (SETUID, SETGID, NET_ADMIN, SYS_ADMIN, SETPCAP):  # nothing that is executed in here gains any
        check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "drop from the bounding set")
    if os.getuid() != user:
        check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kept = 1 << SYS_ADMIN | 1 << NET_ADMIN
    check(libc.capset(CAPABILITIES, struct.pack("=6I", kept, kept, 0, 0, 0, 0)), "keep two capabilities")
    # a change of credentials forgets both of these
    check(libc.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0), "die with the host")
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "undumpable")


def streams() -> None:
    """What a program knows as its standard streams: made once, on pipes, as a child has them under the same numbers."""
    kept = [os.dup(number) for number in (1, 2)]
    ends = os.pipe()
    for number in (1, 2):
        os.dup2(ends[1], number)
    for number, name, mode, errors, buffering in (
        (0, "stdin", "r", "surrogateescape", -1),
        (1, "stdout", "w", "surrogateescape", -1),
        (2, "stderr", "w", "backslashreplace", 1),
    ):
        stream = open(number, mode, buffering, "utf-8", errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for number, file in zip((1, 2), kept, strict=True):
        os.dup2(file, number)
    for file in (*kept, *ends):
        os.close(file)


def prepare() -> tuple[Any, int, int]:
    """Everything that is done once: the control socket, and the size and inodes of a tree's file system."""
    with open(int(sys.argv[3])) as file:
        config = json.load(file)
    os.environ.pop("PWD", None)  # bubblewrap's own
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # where memory runs out, a program in a sandbox goes first
    ordinary(config["user"])
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # process 1 ignores what it does not handle
    streams()
    SHARED["sink"] = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    # what of the host's is to be seen below HOME, and would be covered: an interpreter in somebody's home, say
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    SHARED["covered"] = [(path, os.open(path, flags)) for path in config["covered"]]
    os.close(fresh(0, 0))  # no bounds: a stream's file has its own, and no program sees this one once it is covered
    SHARED["shelf"] = os.open(HOME, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    SHARED["programs"] = [compile(source, *COMPILED) for source in config["programs"]]
    SHARED["filters"] = [loaded(code) for code in config["filters"]]
    install(loaded(config["filter"]))
    return _socket.socket(fileno=config["control"]), config["size"], config["inodes"]


def settle() -> None:
    """Give back what is not needed, which need not be mapped again for every run then."""
    gc.collect()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    gc.freeze()
    gc.disable()


def main() -> None:
    """Say that the worker is ready, then serve until the host closes the socket."""
    control, size, inodes = prepare()
    home = fresh(size, inodes)
    settle()
    control.send(READY)
    while serve(control, home):
        home = fresh(size, inodes)


if __name__ == "__main__":
    main()
