"""Chromium where it can do no harm: in namespaces of its own, with no network but sockets that we listen on.

Bubblewrap makes the namespaces. A program of ours is the first in there: it opens the listening sockets on the loopback
of that network, hands them out to us, and becomes Chromium. So whatever a page asks for, by whatever way, reaches a
socket of ours or nothing at all; there is no other route, no name service, and no file of the host but the system's.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from askesis.sandbox import bubblewrap
from askesis.types import ConfigError, MissingExtra, ToolError

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright

FIRST_PORT = 7000  # nobody else is in that network
START_S = 60.0
INSTALL = "pip install 'askesis[browser]'"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_PACKAGES = {
    "apt-get": "apt-get install -y chromium",
    "dnf": "dnf install -y chromium",
    "pacman": "pacman -S --noconfirm chromium",
    "zypper": "zypper --non-interactive install chromium",
    "apk": "apk add chromium",
}
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_READ = ("/opt", "/snap", "/etc/fonts", "/etc/ld.so.cache", "/etc/alternatives", "/etc/chromium", "/etc/chromium.d")
_TEXTS = {
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/passwd": "root:x:0:0::/:/bin/sh\nbrowser:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n",
    "/etc/group": "root:x:0:\nbrowser:x:1000:\nnogroup:x:65534:\n",
}
_ARGUMENTS = (
    "--disable-gpu",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--js-flags=--max-old-space-size=256",
    "--disable-features=DnsOverHttps",
    "--no-pings",
)
_ENTRY = "/run/entry"  # the folder of the one socket over which the others are handed out; then nobody listens there
_PLACE = 384 * 2**20  # bytes of Chromium's profile and temporary files, and as many of its shared memory

# Runs as the first program inside. Its arguments: how many sockets, the user to become (0: stay), the program, its own.
GUEST = f"""
import os, socket, subprocess, sys
count, user, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
listeners = []
for number in range(count):
    listeners.append(socket.socket())
    listeners[-1].bind(("127.0.0.1", {FIRST_PORT} + number))
    listeners[-1].listen(256)
with socket.socket(socket.AF_UNIX) as entry:
    entry.connect("{_ENTRY}/socket")
    socket.send_fds(entry, [b"."], [one.fileno() for one in listeners])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
try:  # Chromium has walls of its own between its processes, where the kernel lets it build them in here
    walls = subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL).returncode == 0
except OSError:
    walls = False
os.execv(program[0], program + ([] if walls else ["--no-sandbox"]))
"""


def find(program: str = "") -> str:
    """The path of Chromium, of `program` if that is given. Raises `MissingExtra` that says what to run."""
    if find_spec("playwright") is None:
        raise MissingExtra(f"the browser needs the package playwright, which is not installed: {INSTALL}")
    bubblewrap.find()
    found = next((path for name in ([program] if program else PROGRAMS) if (path := shutil.which(name))), None)
    if found is not None:
        return os.path.realpath(found) if program else found
    known = [command for manager, command in _PACKAGES.items() if shutil.which(manager)]
    how = known[0] if known else "your system's package manager to install the package `chromium`"
    looked = program or ", ".join(PROGRAMS)
    raise MissingExtra(
        f"the browser needs the system's Chromium; looked for {looked} on PATH and found none. "
        f"Run:  {how if os.geteuid() == 0 else f'sudo {how}'}"
    )


class Chromium:
    """One running Chromium and the sockets that it can reach. Made by `start`."""

    def __init__(
        self, browser: Browser, listeners: Sequence[socket.socket], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.browser, self.listeners, self._folder = browser, tuple(listeners), folder

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        return self.browser.is_connected()

    @classmethod
    async def start(cls, playwright: Playwright, *, program: str, sockets: int) -> Chromium:
        """Start one that can reach `sockets` sockets, on ports from `FIRST_PORT` on; the first is its default proxy.

        Raises `ToolError` with its last words if it does not start.
        """
        from playwright.async_api import Error

        folder = tempfile.TemporaryDirectory(prefix="askesis-browser-", ignore_cleanup_errors=True)
        entry = socket.socket(socket.AF_UNIX)
        entry.setblocking(False)
        entry.bind(f"{folder.name}/socket")
        entry.listen(1)
        receiving = asyncio.create_task(_received(entry, sockets), name="askesis-browser-sockets")
        try:
            script = Path(folder.name, "start")
            script.write_text(f'#!/bin/sh\nexec {shlex.join(_command(program, folder.name, sockets))} "$@"\n')
            script.chmod(0o700)
            browser = await playwright.chromium.launch(
                executable_path=str(script),
                args=list(_ARGUMENTS),
                chromium_sandbox=True,
                proxy={"server": f"http://127.0.0.1:{FIRST_PORT}"},
                handle_sigint=False,
                handle_sigterm=False,
                handle_sighup=False,
                timeout=1000 * START_S,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            )
            listeners = await receiving
        except Error as error:
            folder.cleanup()
            raise ToolError(f"the browser did not start: {_told(str(error))}") from error
        except BaseException:
            folder.cleanup()
            raise
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            entry.close()
        return cls(browser, listeners, folder)

    async def stop(self) -> None:
        """End it with all that it started. Idempotent."""
        from playwright.async_api import Error

        try:
            await asyncio.wait_for(self.browser.close(), 10.0)
        except (Error, TimeoutError):
            pass  # it is gone already, or its driver is: what kills that kills it
        finally:
            for listener in self.listeners:
                listener.close()
            self._folder.cleanup()


async def _received(entry: socket.socket, count: int) -> list[socket.socket]:
    """The listening sockets, once the program inside has handed them out."""
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(entry)
    with connection:
        arrived = asyncio.Event()
        loop.add_reader(connection.fileno(), arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(connection.fileno())
        _, files, _, _ = socket.recv_fds(connection, 16, count, socket.MSG_CMSG_CLOEXEC)
    listeners = [socket.socket(fileno=file) for file in files]
    for listener in listeners:
        listener.setblocking(False)
    if len(listeners) != count:
        raise ToolError(f"the browser's network came with {len(listeners)} sockets, expected {count}")
    return listeners


def _command(program: str, entry: str, sockets: int) -> list[str]:
    """What starts Chromium in namespaces of its own; its arguments follow."""
    if sys.platform != "linux":
        raise ConfigError(f"browser: it needs Linux (namespaces, bubblewrap); this is {sys.platform}")
    root = os.geteuid() == 0
    command = [bubblewrap.find(), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "browser"]
    if root:  # then the user is another one, to the kernel too
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", str(bubblewrap.USER), "--gid", str(bubblewrap.USER)]
    command += ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    for source in (*bubblewrap.folders(()), *(path for path in _READ if Path(path).exists())):
        for above in reversed(Path(source).parents[:-1]):
            command += ["--dir", str(above)]
        command += ["--ro-bind", source, source]
    for place, text in _TEXTS.items():
        file = Path(entry, place.rpartition("/")[2])
        file.write_text(text)
        file.chmod(0o644)
        command += ["--ro-bind", str(file), place]
    command += ["--proc", "/proc", "--dev", "/dev", "--dir", "/run"]
    for place in ("/tmp", "/dev/shm"):
        command += ["--perms", "1777", "--size", str(_PLACE), "--tmpfs", place]
    command += ["--bind", entry, _ENTRY, "--chdir", "/tmp", "--clearenv"]
    for name, value in {"HOME": "/tmp", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}.items():
        command += ["--setenv", name, value]
    user = bubblewrap.NOBODY if root else 0
    return [*command, "--", bubblewrap.interpreter(), "-I", "-S", "-c", GUEST, str(sockets), str(user), program]


def _told(said: str) -> str:
    """What is worth reading of the driver's long report."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    worth = [line for line in lines if "bwrap:" in line or "ERROR" in line or "FATAL" in line or "Error" in line]
    return " | ".join((worth or lines)[:4])[:600]
