"""What bubblewrap is told, and what a person is told where it is missing or may not work. There is no fall-back."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from askesis.types import SandboxError

USER = 1000  # inside; outside it is the user who runs us or, where that is root, NOBODY
NOBODY = 65534
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # folders, or links into /usr
_STORES = ("/nix/store", "/gnu/store")
_PACKAGES = frozenset(("site-packages", "dist-packages", "_bundled", "python-wheels"))  # by name, wherever they are
_SOURCES = ("/usr/src", "/usr/local/src")
_CONFIGURATION = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_INSTALL = {
    "apt-get": "apt-get install -y bubblewrap",
    "dnf": "dnf install -y bubblewrap",
    "pacman": "pacman -S --noconfirm bubblewrap",
    "zypper": "zypper --non-interactive install bubblewrap",
    "apk": "apk add bubblewrap",
}
_SWITCHES = {  # sysctls that forbid user namespaces: (the value that does, the cure)
    "kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "kernel.apparmor_restrict_unprivileged_userns=0"),
    "user/max_user_namespaces": ("0", "user.max_user_namespaces=15000"),
}
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/agent",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "USER": "agent",
}

TEXTS = {
    "/etc/passwd": f"agent:x:{USER}:{USER}::/home/agent:/bin/sh\n",
    "/etc/group": f"agent:x:{USER}:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def find() -> str:
    """The path of `bwrap`. Raises `SandboxError` that says what to run."""
    if sys.platform != "linux":
        raise SandboxError(f"sandbox: it needs Linux (namespaces, bubblewrap); this is {sys.platform}")
    release = os.uname().release
    if (found := re.match(r"(\d+)\.(\d+)", release)) and (int(found[1]), int(found[2])) < (5, 14):
        raise SandboxError(
            f"sandbox: it needs Linux 5.14 or newer, got {release}: before that, the kernel counts a user's processes "
            "over all sandboxes, and one fork bomb would hurt the others"
        )
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxError(
            f"sandbox: bubblewrap (bwrap) is not on PATH. Run:  {_as_root(_install())}\n"
            "There is no fall-back: without it no program of an agent is run."
        )
    return path


def _install() -> str:
    known = [command for manager, command in _INSTALL.items() if shutil.which(manager)]
    return known[0] if known else "your system's package manager to install the package `bubblewrap`"


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def refusal(said: str) -> SandboxError:
    """Why bubblewrap could not start, from what it said last, and what to do."""
    said = said.splitlines()[-1] if said else "it said nothing"
    for switch, (bad, cure) in _SWITCHES.items():
        file = Path("/proc/sys") / switch
        if (os.geteuid() != 0 or switch.startswith("user")) and file.exists() and file.read_text().strip() == bad:
            return SandboxError(
                f"sandbox: bubblewrap may not make a user namespace ({said}). Run:  {_as_root(f'sysctl -w {cure}')}\n"
                "There is no fall-back: without it no program of an agent is run."
            )
    return SandboxError(
        f"sandbox: bubblewrap could not start a worker: {said}\nIn a container, start that "
        "with user namespaces and mounts allowed (Docker: --security-opt seccomp=unconfined --security-opt "
        "apparmor=unconfined --security-opt systempaths=unconfined, and --cap-add SYS_ADMIN for root).\n"
        "There is no fall-back: without it no program of an agent is run."
    )


def interpreter() -> str:
    """The CPython that runs in the sandbox: ours, without a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def folders(mounts: Sequence[str]) -> list[str]:
    """What can be read beside the system's own: `mounts`, and what the interpreter needs."""
    bound = [folder for folder in (*_STORES, *mounts) if Path(folder).exists()]
    for prefix in dict.fromkeys((os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix))):
        if not any(Path(prefix).is_relative_to(folder) for folder in ("/usr", *bound)):
            bound.append(prefix)
    return bound


def packages(mounts: Sequence[str]) -> list[str]:
    """Folders of packages, and of sources, that a program could read in the system's folders or beside an interpreter.

    What is in `mounts` is there on purpose, and is none of them. Stores (`/nix/store`) are not looked through.
    """
    bound = [folder for folder in folders(mounts) if folder not in (*_STORES, *mounts)]
    system = [folder for folder in _SYSTEM if not Path(folder).is_symlink()]
    given = [Path(mount) for mount in mounts]
    return [
        one
        for one in _packages(tuple(dict.fromkeys(("/usr", *system, *bound))))
        if not any(mount.is_relative_to(one) or Path(one).is_relative_to(mount) for mount in given)
    ]


@functools.cache
def _packages(roots: tuple[str, ...]) -> tuple[str, ...]:
    found = [folder for folder in _SOURCES if Path(folder).is_dir()]
    for root in roots:
        for folder, below, _ in os.walk(root):
            held = [name for name in below if name in _PACKAGES]
            found += [os.path.join(folder, name) for name in held]  # noqa: PTH118 - a whole system is walked
            inner = [name for name in below if name not in held and os.path.join(folder, name) not in _SOURCES]  # noqa: PTH118
            below[:] = inner
    return tuple(sorted(one for one in found if not Path(one).is_symlink()))


def end_orphans(marks: Collection[str]) -> None:
    """End what hosts have left that were killed while a sandbox was made.

    bubblewrap dies with its host. Where that happens before it has let its child go on, the child waits for ever, in a
    namespace of processes of its own: it is the first in there, and its parent is no bubblewrap any more. marks:
    arguments of which it has one.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        _end(int(entry.name), marks)


def _end(pid: int, marks: Collection[str]) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):  # gone, another user's, or of a kernel that tells less
        process = os.pidfd_open(pid)  # from here on the number is nobody else's
        try:
            if not _is_bubblewrap(pid, marks):
                return
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
            if status["NSpid"][1:] != ["1"] or _is_bubblewrap(int(status["PPid"][0]), ()):
                return
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _is_bubblewrap(pid: int, marks: Collection[str]) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return Path(words[0]).name == "bwrap" and (not marks or not set(marks).isdisjoint(words))


def arguments(
    bwrap: str,
    *,
    info: int,
    gate: int,
    texts: Mapping[str, int],
    mounts: Sequence[str] = (),
    links: Mapping[str, str] = MappingProxyType({}),
    terminals: bool = False,
    covered: Sequence[str] = (),
) -> list[str]:
    """The command line up to the program: namespaces, mounts (all read-only), and no environment of ours.

    All numbers are descriptors. texts: what files hold. info: where bubblewrap tells its first process's pid. gate:
    where that process waits, if root starts it, until its user map is written: `USER` must not be root to the kernel,
    which binds root by no limit on processes. mounts: further folders, under the paths that they have here. links:
    symlinks, by path. terminals: with a place for pseudo-terminals. covered: folders that look empty.
    """
    command = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"]
    command += ["--info-fd", str(info), "--cap-drop", "ALL"]
    capabilities = ["SYS_ADMIN", "NET_ADMIN", "SETPCAP"]
    if os.geteuid() == 0:
        command += ["--userns-block-fd", str(gate)]
        capabilities += ["SETUID", "SETGID"]
    else:
        command += ["--uid", str(USER), "--gid", str(USER)]
    for capability in capabilities:
        command += ["--cap-add", f"CAP_{capability}"]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in map(Path, _SYSTEM):
        if folder.is_symlink():
            command += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.exists():
            command += ["--ro-bind", str(folder), str(folder)]
    for source in (*folders(mounts), *(file for file in _CONFIGURATION if Path(file).exists())):
        for folder in reversed(Path(source).parents[:-1]):
            command += ["--dir", str(folder)]  # else bubblewrap makes it for root's eyes only
        command += ["--ro-bind", source, source]
    for place in covered:
        command += ["--perms", "0555", "--tmpfs", place, "--remount-ro", place]
    for path, file in texts.items():
        command += ["--perms", "0444", "--file", str(file), path]
    command += ["--proc", "/proc", "--dir", "/dev", "--dir", "/home", "--dir", "/var"]
    for name in _DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    if terminals:
        command += ["--dir", "/dev/pts", "--symlink", "pts/ptmx", "/dev/ptmx", "--dev-bind", "/dev/tty", "/dev/tty"]
    own = {"/dev/fd": "/proc/self/fd", "/dev/shm": "/home/tmp", "/tmp": "/home/tmp", "/var/tmp": "/home/tmp"}
    own |= {f"/dev/{name}": f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))}
    for link, target in (own | dict(links)).items():
        for folder in reversed(Path(link).parents[:-1]):
            command += ["--dir", str(folder)]
        command += ["--symlink", target, link]
    command += ["--remount-ro", "/", "--chdir", "/", "--clearenv"]
    environment = ENVIRONMENT | {"PATH": f"{Path(interpreter()).parent}:{ENVIRONMENT['PATH']}"}
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return command
