"""The system-call filter: what a program in the sandbox may not ask of the kernel, as a classic BPF program.

It is the second wall. The first is that a run has no capability and its own namespaces; the filter takes away the calls
by which it could seek new ones, those whose objects outlive a process or escape the memory limit (System V IPC, message
queues, memfd), and those that a sandboxed program has no business with. A call newer than this file does not exist.
A Python call has no sockets but `socketpair`; a program that is `run` has those of its own machine's inside.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from askesis.types import SandboxError

# Numbers of (x86-64, the generic table that aarch64 and riscv64 use); None where the machine has no such call.
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_mempolicy": (239, 236),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setattr": (314, 274),  # a program that makes way for all others seems to be kept waiting by the machine
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "settimeofday": (164, 170),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
}
# As if the kernel did not have them: programs know how to do without.
_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),  # its flags lie in memory, where a filter cannot look; C libraries fall back to clone
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "pidfd_getfd": (438, 438),
    "userfaultfd": (323, 282),
}
# Allowed for the caller itself (pid 0): whoever has the same user, and the warden has, may be meant by them.
_OWN: dict[str, tuple[int, int]] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
}
_NEWEST = 441  # epoll_pwait2: from about here on, numbers are the same on every machine
# Of a terminal: to type into it, to select on its console, to load a line discipline into the kernel.
_TERMINALS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_IOCTL = (16, 29)
_CLONE, _SOCKET, _SERVER = (56, 220), (41, 198), ((49, 200), (42, 203), (50, 201))  # bind, connect, listen
_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that `clone` knows
_NEW_NETWORK = 0x40000000
_FAMILIES = (1, 2, 10, 16)  # of sockets: UNIX, INET, INET6, NETLINK; no VSOCK, which knows no namespaces
_WARDENS = ("mount", "umount2", "unshare")  # which it needs between two runs, and for the network of one
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}

_LOAD, _EQUAL, _ABOVE, _SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PASS, _REFUSE = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)


@dataclass(frozen=True, slots=True)
class Filters:
    """BPF programs (struct sock_filter[]): `every` binds the warden and all that it starts, the others one run each."""

    every: bytes
    python: bytes
    run: bytes


def filters() -> Filters:
    """Those of this machine. Raises `SandboxError` for one whose system calls this file does not know."""
    known = _MACHINES.get(platform.machine())
    if known is None:
        raise SandboxError(
            f"sandbox: no system-call filter for a {platform.machine()} machine (known: {', '.join(_MACHINES)}); "
            "there is no fall-back to running without one"
        )
    architecture, column = known
    rules = [(number, "forbid") for name, row in _FORBIDDEN.items() if name not in _WARDENS and (number := row[column])]
    rules += [(number, "absent") for row in _ABSENT.values() if (number := row[column])]
    rules += [(row[column], "own") for row in _OWN.values()]
    rules += [(_FORBIDDEN["unshare"][column] or 0, "unshare"), (_CLONE[column], "clone"), (_SOCKET[column], "socket")]
    rules += [(_IOCTL[column], "ioctl")]
    last = [(number, "forbid") for name in _WARDENS if (number := _FORBIDDEN[name][column])]
    server = [(call[column], "forbid") for call in _SERVER] + [(_SOCKET[column], "family")]
    return Filters(
        _assemble(architecture, rules, newest=_NEWEST),
        _assemble(architecture, server + last),
        _assemble(architecture, last),
    )


def _assemble(architecture: int, rules: list[tuple[int, str]], *, newest: int | None = None) -> bytes:
    """A filter that looks a call up in `rules` (number, verdict) and lets the rest pass, if not newer than `newest`."""
    program: list[tuple[int, str | int, str | int, int]] = [  # (code, where to if true, where to if false, value)
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 0, "kill", architecture),
        (_LOAD, 0, 0, 0),  # .nr
        *((_EQUAL, verdict, 0, number) for number, verdict in rules),
    ]
    if newest is not None:  # x32 calls too have larger numbers
        program.append((_ABOVE, "absent", 0, newest))
    argument = (_LOAD, 0, 0, 16)  # .args[0], the lower half
    verdicts: dict[str, list[tuple[int, str | int, str | int, int]]] = {
        "allow": [(_RETURN, 0, 0, _ALLOW)],
        "forbid": [(_RETURN, 0, 0, _ERRNO | errno.EPERM)],
        "absent": [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)],
        "kill": [(_RETURN, 0, 0, _KILL)],
        "clone": [argument, (_SET, "forbidden", "allowed", _NAMESPACES)],
        "unshare": [argument, (_EQUAL, "allowed", "forbidden", _NEW_NETWORK)],
        "socket": [argument, *((_EQUAL, "allowed", 0, family) for family in _FAMILIES), _REFUSE],
        "ioctl": [(_LOAD, 0, 0, 24), *((_EQUAL, "forbidden", 0, request) for request in _TERMINALS), _PASS],
        "own": [argument, (_EQUAL, "allowed", "forbidden", 0)],
        "family": [(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT)],
        "allowed": [(_RETURN, 0, 0, _ALLOW)],
        "forbidden": [(_RETURN, 0, 0, _ERRNO | errno.EPERM)],
    }
    labels = {}
    for name, lines in verdicts.items():
        labels[name] = len(program)
        program += lines

    def offset(at: int, where: str | int) -> int:
        return labels[where] - at - 1 if isinstance(where, str) else where

    return b"".join(
        struct.pack("=HBBI", code, offset(at, then), offset(at, otherwise), value)
        for at, (code, then, otherwise, value) in enumerate(program)
    )
