"""The steward: process 1 of a worker that one sandbox keeps for as long as it has a terminal open.

Where the warden empties its file system after every run, the steward leaves everything as it is: programs in terminals
go on, runs come and go beside them, in one tree, one network and one process namespace. It is handed its source behind
the warden's (`warden.LIVE_BOOT`), whose invariant it keeps: no byte of an episode enters its memory. Terminals are
pseudo-terminals whose one side the host holds.

What a terminal or a run started is its group. A process belongs to the group of its parent, or, where that is gone, to
that of its session; one that has left both behind belongs to nobody (`STRAYS`), whose limits are those of the first
terminal. Nothing here trusts a group with more than that: when the last terminal is closed, all that lives is killed.
"""

# ruff: noqa: PTH208, SIM105

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import struct
import time

from askesis.sandbox.warden import (
    ANY_CHILD,
    CHUNK,
    CPU,
    EXIT,
    KILLED,
    MEMORY,
    MS_NOSUID,
    PAGE,
    READY,
    REPLY,
    REQUEST,
    RUN,
    SHARED,
    STOPPED,
    TICK_S,
    TICKS,
    TREE,
    UNSTARTED,
    WALL,
    Clock,
    Stream,
    become,
    begin,
    check,
    delivered,
    exterminate,
    fresh,
    in_line,
    libc,
    named,
    open_door,
    own_network,
    prepare,
    proc,
    proportional,
    reaped_s,
    refuse,
    settle,
    unpack,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

TERMINAL, OPEN, OVER = 2, 3, 4  # requests beside `PYTHON` and `RUN`
END = struct.Struct("<Bi")  # of a terminal: how it ended, exit code
PIPE = 2**20  # bytes that a pipe holds at most
PTYS = 64  # at once, those that programs make included
SLOWEST_S = 0.16  # how often one looks where nothing happens
KILL_S = 2.0  # in which a group must be gone, or everything goes
MS_NOEXEC = 8
TIOCSCTTY, TIOCSWINSZ, TIOCSPTLCK, TIOCGPTPEER = 0x540E, 0x5414, 0x40045431, 0x5441


class Group:
    """A terminal or a run: its first process, and how it did. channel: of a terminal, to the host."""

    def __init__(self, child: int, request: tuple[Any, ...], channel: Any = None) -> None:
        self.child, self.request, self.channel = child, request, channel
        self.watched = os.pidfd_open(child)
        self.started = time.monotonic()
        self.status: int | None = None
        self.ended = EXIT
        self.reaped_s = 0.0  # CPU seconds of those of it whose parent was gone


STRAYS = 0  # the group of those who have none


class Row:
    """A process at the last look."""

    def __init__(self, fields: list[bytes], state: bytes) -> None:
        self.parent, self.session, self.threads = int(fields[0]), int(fields[2]), int(fields[16])
        self.start, self.state = int(fields[18]), state
        self.cpu_s = sum(map(int, fields[10:14])) / TICKS
        self.resident = int(fields[20]) * PAGE


class Steward:
    """Of one live sandbox, from `OPEN` to `OVER`. home: the descriptor of its tree."""

    def __init__(self, control: Any, home: int) -> None:
        self.control, self.home = control, home
        self.groups: dict[int, Group] = {}  # by their first process
        self.rows: dict[int, Row] = {}
        self.members: dict[int, tuple[int, int]] = {}  # pid: when it started, the first process of its group
        self.strays_s, self.bounds = 0.0, (0.0, 0)  # CPU seconds of strays, and their limits
        self.cpu_s, self.pace_s = 0.0, TICK_S
        self.buffer = bytearray(1024)
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Who lives here, and whose they are."""
        rows, buffer = {}, self.buffer
        for name in os.listdir("/proc"):
            if name.isdigit() and name != "1" and proc(name, "stat", buffer):
                at = buffer.rfind(b")")  # behind the command's name, which is the program's
                rows[int(name)] = Row(bytes(memoryview(buffer)[at + 4 :]).split(), bytes(buffer[at + 2 : at + 3]))
        buffer[:] = bytes(len(buffer))
        self.rows = rows
        self.members = {pid: self.members[pid] for pid in rows if pid in self.members}
        for pid in rows:
            self.owner(pid)

    def owner(self, pid: int) -> int:
        """The group of a process, looked up by those above it."""
        chain: list[int] = []
        while True:
            row, known = self.rows[pid], self.members.get(pid)
            if known is not None and known[0] == row.start:
                group = known[1]
                break
            chain.append(pid)
            if pid in self.groups:
                group = pid
            elif row.parent in self.rows and len(chain) <= len(self.rows):
                pid = row.parent
                continue
            else:
                group = row.session if row.session in self.groups else STRAYS
            break
        for one in chain:
            self.members[one] = (self.rows[one].start, group)
        return group

    def of(self, group: int) -> list[int]:
        """The living processes of a group, by the last look."""
        return [pid for pid, (_, whose) in self.members.items() if whose == group and self.rows[pid].state != b"Z"]

    def used(self, group: int, memory: int) -> tuple[float, int]:
        """CPU seconds of a group so far, and its resident bytes, shared pages counted once if that nears `memory`."""
        pids = self.of(group)
        resident = sum(self.rows[pid].resident for pid in pids)
        if resident > memory:
            resident = sum(proportional(str(pid), self.rows[pid].resident, self.buffer) for pid in pids)
            self.buffer[:] = bytes(len(self.buffer))
        past_s = self.groups[group].reaped_s if group in self.groups else self.strays_s
        return past_s + sum(
            self.rows[pid].cpu_s for pid, (_, whose) in self.members.items() if whose == group
        ), resident

    def total_s(self) -> float:
        """CPU seconds of all that has lived in this worker."""
        return reaped_s() + sum(row.cpu_s for row in self.rows.values())

    def bound(self) -> None:
        """Look, and end whatever has had more than its limits."""
        self.reap()
        self.look()
        now = time.monotonic()
        for group in list(self.groups.values()):
            _, wall_s, cpu_s, memory, *_ = group.request
            used_s, used = self.used(group.child, memory)
            if used > memory or used_s > cpu_s:
                self.finish(group, MEMORY if used > memory else CPU)
            elif group.channel is not None and now - group.started > wall_s:
                self.finish(group, WALL)
        used_s, used = self.used(STRAYS, self.bounds[1])
        if used_s > self.bounds[0] or used > self.bounds[1]:
            self.kill(STRAYS)
        total_s = self.total_s()
        self.pace_s = TICK_S if total_s - self.cpu_s > 0.005 else min(2 * self.pace_s, SLOWEST_S)
        self.cpu_s = total_s

    def reap(self) -> None:
        """Wait for all that has ended; what they used is their group's."""
        while True:
            try:
                pid, status, usage = os.wait3(os.WNOHANG | ANY_CHILD)
            except ChildProcessError:
                return
            if not pid:
                return
            whose = self.members.get(pid, (0, STRAYS))[1]
            if pid in self.groups:
                whose, self.groups[pid].status = pid, status
            if whose in self.groups:
                self.groups[whose].reaped_s += usage.ru_utime + usage.ru_stime
            else:
                self.strays_s += usage.ru_utime + usage.ru_stime

    # -- ending ------------------------------------------------------------------------------------------------------

    def kill(self, group: int) -> None:
        """Kill a group until nothing of it is left; if it is born faster than it dies, kill everything."""
        until = time.monotonic() + KILL_S
        while True:
            self.look()
            pids = self.of(group)
            if not pids:
                break
            late = time.monotonic() > until
            for pid in [-1] if late else pids:
                try:
                    os.kill(pid, _signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.0005)
            self.reap()
            if late:
                break
        self.reap()

    def finish(self, group: Group, ended: int) -> None:
        """A limit has ended a group, or the host has."""
        if group.ended == EXIT and group.status is None:
            group.ended = ended
        self.kill(group.child)

    def tell(self, group: Group) -> None:
        """Its program has ended: the host is told how. What that left in the background goes on."""
        self.poll.unregister(group.watched)
        os.close(group.watched)
        group.watched = -1
        status = group.status or 0
        ended, status = named(RUN, group.ended, status, group.reaped_s >= group.request[2])
        try:
            group.channel.send(END.pack(ended, os.waitstatus_to_exitcode(status)))
        except OSError:
            pass

    def leave(self, group: Group) -> None:
        """The host has closed a terminal: kill what is left of it, and let go."""
        self.finish(group, STOPPED)
        if group.watched >= 0:
            self.tell(group)
        self.poll.unregister(group.channel)
        group.channel.close()
        del self.groups[group.child]

    # -- what the host asks for --------------------------------------------------------------------------------------

    def serve(self) -> bool:
        """Until the host has had enough; False when it is gone."""
        look = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= look:
                self.bound()
                look = time.monotonic() + self.pace_s
            events = self.poll.poll(int(1000 * max(0.0, look - now)) + 1)
            if events:
                self.reap()
                look = min(look, time.monotonic() + TICK_S)
            for group in list(self.groups.values()):
                if group.status is not None and group.watched >= 0:
                    self.tell(group)
            for file, _ in events:
                for group in list(self.groups.values()):
                    if group.channel.fileno() == file:
                        self.leave(group)
                if file == self.control.fileno():
                    going = self.answer()
                    if going is not None:
                        return going

    def answer(self) -> bool | None:
        """One request. None: there may be more of them."""
        message, files = received(self.control)
        if not message:
            return False
        request = REQUEST.unpack(message)
        if request[0] == OVER:
            exterminate(0, 0)
            for group in self.groups.values():
                if group.watched >= 0:
                    group.status, group.ended = _signal.SIGKILL, STOPPED
                    self.tell(group)
                group.channel.close()
            self.control.send(READY)
            return True
        if request[0] == TERMINAL:
            self.terminal(request, *files)
        else:
            self.run(request, *files)
        return None

    def others(self) -> int:
        """Threads that live here, which count where a program's are counted."""
        self.reap()
        self.look()
        return sum(row.threads for row in self.rows.values())

    def terminal(self, request: tuple[Any, ...], payload: int, channel: int) -> None:
        """Open a terminal: the host gets its side of it, or the payload with what went wrong."""
        files, others = [payload], self.others()
        try:
            master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            files.append(master)
            check(libc.ioctl(master, TIOCSPTLCK, struct.pack("i", 0)), "unlock a terminal")
            slave = libc.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            check(slave, "open a terminal")
        except OSError as error:  # programs have taken all there are
            self.control.sendmsg([REPLY.pack(UNSTARTED, error.errno or 0, False, 0.0)])
            for file in (*files, channel):
                os.close(file)
            return
        child = os.fork()
        if child == 0:
            sit(request, payload, slave, self.home, others)
        os.close(slave)
        group = Group(child, request, _socket.socket(fileno=channel))
        self.groups[child] = group
        if len(self.groups) == 1 and not self.bounds[1]:
            self.bounds = request[2], request[3]
        self.poll.register(group.watched, select.POLLIN)
        self.poll.register(group.channel, select.POLLRDHUP)
        self.pace_s = TICK_S
        self.control.sendmsg(
            [REPLY.pack(EXIT, 0, False, 0.0)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))]
        )
        for file in files:
            os.close(file)

    def run(self, request: tuple[Any, ...], payload: int, stdin: int, door: int | None = None) -> None:
        """A run on the live tree, beside the terminals; over when it and what it started is gone."""
        outputs, others = (Stream(request[-1]), Stream(request[-1])), self.others()
        child = os.fork()
        if child == 0:
            join(request, payload, stdin, (outputs[0].end, outputs[1].end), door, self.home, others)
        for stream in outputs:
            os.close(stream.end)
        group = Group(child, request)
        self.groups[child] = group
        status, held = Watch(self, group, payload, outputs, door).until_over(), os.fstat(payload).st_size
        del self.groups[child]
        os.close(group.watched)
        ended, status = named(request[0], group.ended, status, group.reaped_s >= request[2])
        if held and ended != STOPPED:  # it never began. What kills or stops it in here is the agent's
            ended = UNSTARTED if os.pread(payload, 1, 0) == b"!" or ended == WALL else KILLED
        wall_s, truncated = time.monotonic() - group.started, outputs[0].truncated or outputs[1].truncated
        reply = REPLY.pack(ended, os.waitstatus_to_exitcode(status), truncated, wall_s)
        files = struct.pack("4i", outputs[0].file, outputs[1].file, self.home, payload)
        self.control.sendmsg([reply], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
        doors = [door] if door is not None else []
        for file in (payload, stdin, *doors, *(file for stream in outputs for file in (stream.pipe, stream.file))):
            os.close(file)


class Watch:
    """A run in flight, while terminals are watched too."""

    def __init__(
        self, steward: Steward, group: Group, payload: int, outputs: tuple[Stream, Stream], door: int | None
    ) -> None:
        self.steward, self.group, self.payload, self.outputs, self.door = steward, group, payload, outputs, door
        self.clock, self.waits, self.before_s = Clock(group.request[1]), dict[str, int](), steward.total_s()

    def until_over(self) -> int:
        """Its wait status, once nothing of it lives."""
        steward, group = self.steward, self.group
        poll, streams = select.poll(), {stream.pipe: stream for stream in self.outputs}
        for file in (group.watched, *streams):
            poll.register(file, select.POLLIN)
        channels = [other.channel for other in steward.groups.values() if other.channel is not None]
        for channel in channels:
            poll.register(channel, select.POLLRDHUP)
        if self.door is not None:
            poll.register(self.door, select.POLLRDHUP)
        tick = time.monotonic() + TICK_S
        while True:
            now = time.monotonic()
            if now >= min(tick, self.clock.deadline):
                self.look(now)
                tick = time.monotonic() + TICK_S
            if group.status is not None:
                steward.look()
                if not steward.of(group.child):
                    break
            wait_s = max(0.0, min(self.clock.deadline, tick) - now) if group.status is None else 0.005
            events = poll.poll(int(1000 * wait_s) + 1)
            self.clock.overdue(time.monotonic() - now - wait_s)
            for file, _ in events:
                if file == self.door:
                    steward.finish(group, STOPPED)
                elif file == group.watched:
                    poll.unregister(file)
                elif file in streams:
                    if not streams[file].pump() and streams[file].over:
                        poll.unregister(file)
                else:  # a terminal was closed
                    poll.unregister(file)
                    for other in [one for one in steward.groups.values() if one.channel is not None]:
                        if other.channel.fileno() == file:
                            steward.leave(other)
            steward.reap()
            for other in list(steward.groups.values()):
                if other.channel is not None and other.status is not None and other.watched >= 0:
                    steward.tell(other)
        for stream in self.outputs:  # no more than a pipe holds: who has left the group may be writing still
            for _ in range(PIPE // CHUNK + 1):
                if not stream.pump():
                    break
        return group.status

    def look(self, now: float) -> None:
        """End the run, and whatever else, at its limits."""
        if not self.clock.begun and not os.fstat(self.payload).st_size:
            self.clock.begin(now)
        steward, group = self.steward, self.group
        steward.bound()
        pids = steward.of(group.child)
        if not self.clock.begun and any(steward.rows[pid].state in b"Tt" for pid in pids):
            steward.finish(group, KILLED)  # somebody in here has stopped it
            return
        waited = 0
        for pid in pids:
            for thread, ns in in_line(str(pid), steward.buffer).items():
                waited, self.waits[thread] = max(waited, ns - self.waits.get(thread, 0)), ns
        ended = self.clock.verdict(now, steward.total_s() - self.before_s, waited / 1e9)
        if ended != EXIT:
            steward.finish(group, ended)


# -- the child --------------------------------------------------------------------------------------------------------


def sit(request: tuple[Any, ...], payload: int, slave: int, home: int, others: int) -> NoReturn:
    """Become the program of a terminal."""
    try:
        os.setsid()
        argv, environment, rows, columns = delivered(payload)
        for number in range(3):
            os.dup2(slave, number)
        check(libc.ioctl(0, TIOCSCTTY, 0), "take the terminal")
        check(libc.ioctl(0, TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0)), "size the terminal")
        os.fchdir(home)
        begin(request, payload, SHARED["filters"][RUN], others)
    except BaseException as error:
        refuse(payload, error)
    become(RUN, "", argv, environment)


def join(
    request: tuple[Any, ...],
    payload: int,
    stdin: int,
    outputs: tuple[int, int],
    door: int | None,
    home: int,
    others: int,
) -> NoReturn:
    """Become a program beside the terminals, in their network. A port that they have taken is theirs."""
    try:
        os.setsid()
        source, argv, _, environment, port = delivered(payload)
        for number, file in enumerate((stdin, *outputs)):
            os.dup2(file, number)
        taken = ""
        if door is not None:
            try:
                open_door(door, port)
            except OSError as error:
                taken = f"the sandbox's port {port} cannot be had: {error.strerror}\n"
        os.fchdir(home)
        begin(request, payload, SHARED["filters"][RUN], others)
        if taken:
            os.write(2, taken.encode())
            os._exit(126)
    except BaseException as error:
        refuse(payload, error)
    become(request[0], source, argv, environment)


def opened(payload: int) -> bool:
    """Unpack the first tree, in a child that is gone after that."""
    child = os.fork()
    if child == 0:
        try:
            files = delivered(payload)
            os.chdir(TREE)
            unpack(files)
            os.ftruncate(payload, 0)
            os._exit(0)
        except BaseException as error:
            refuse(payload, error)
    _, status = os.waitpid(child, 0)
    return status == 0


def received(control: Any) -> tuple[bytes, tuple[int, ...]]:
    """A message of the host and its descriptors; nothing where it is gone."""
    message, ancillary, _, _ = control.recvmsg(REQUEST.size, _socket.CMSG_SPACE(12), _socket.MSG_CMSG_CLOEXEC)
    files = ancillary[0][2] if ancillary else b""
    return message, struct.unpack(f"{len(files) // 4}i", files)


def main() -> None:
    """Say that the worker is ready, then serve one sandbox after the other until the host closes the socket."""
    control, size, inodes = prepare()
    settle()
    control.send(READY)
    going = True
    while going:
        home = fresh(size, inodes)
        message, files = received(control)
        if not message:
            return
        own_network()
        libc.umount2(b"/dev/pts", 2)
        options = b"newinstance,ptmxmode=0666,mode=0620,max=%d" % PTYS
        check(libc.mount(b"devpts", b"/dev/pts", b"devpts", MS_NOSUID | MS_NOEXEC, options), "mount terminals")
        done = opened(files[0])
        reply = REPLY.pack(EXIT if done else UNSTARTED, 0, False, 0.0)
        sent = struct.pack("2i", home, files[0])
        control.sendmsg([reply], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sent)])
        os.close(files[0])
        going = Steward(control, home).serve()
        os.close(home)


if __name__ == "__main__":
    main()
