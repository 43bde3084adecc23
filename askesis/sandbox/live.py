"""A live sandbox as the host sees it: the worker that it keeps, its folder, and the terminals that are open in it."""

from __future__ import annotations

import errno
import marshal
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from askesis.sandbox import steward, warden
from askesis.sandbox.folder import Folder
from askesis.sandbox.terminal import LiveTerminal
from askesis.sandbox.worker import GRACE_S, Worker, memory
from askesis.types import RunLimits, SandboxError

ENVIRONMENT = {"TERM": "xterm-256color", "HISTFILE": ""}  # of a terminal; no shell leaves its history in the tree
MOST = 8  # terminals of one sandbox
_OPEN_S = 120.0  # in which the largest tree must be unpacked
_NO_LIMITS = RunLimits()  # of a request that has none


class Live:
    """Made by `Live.begin`. root: the descriptor of its folder, closed by `release`."""

    def __init__(self, worker: Worker, root: int, folder: Folder) -> None:
        self.worker, self.root, self.folder = worker, root, folder
        self.terminals: set[LiveTerminal] = set()

    @classmethod
    async def begin(cls, worker: Worker, rows: int, *, room: int, most: int) -> Live:
        """Put a tree into a worker that waits for one. rows: `Tree.rows`, marshalled. Raises `SandboxError`."""
        message, answered = await worker.exchange(steward.OPEN, _NO_LIMITS, [rows], _OPEN_S)
        root, payload = answered
        ended, *_ = warden.REPLY.unpack(message)
        why = os.pread(payload, 2000, 0)[1:] if ended != warden.EXIT else b""
        os.close(payload)
        if ended != warden.EXIT:
            os.close(root)
            await worker.kill()
            raise SandboxError(f"sandbox: a tree could not be unpacked: {why.decode('utf-8', 'replace')}")
        return cls(worker, root, Folder(root, room=room, most=most))

    async def terminal(
        self,
        argv: Sequence[str],
        rows: int,
        columns: int,
        limits: RunLimits,
        environment: Mapping[str, str],
        on_close: Callable[[LiveTerminal], Awaitable[None]],
    ) -> LiveTerminal:
        """Open one. Raises `OSError` where programs have taken all pseudo-terminals, or `MOST` are open."""
        if len(self.terminals) >= MOST:
            raise OSError(errno.EMFILE, f"a sandbox has at most {MOST} terminals open")
        payload = memory(marshal.dumps((list(argv), ENVIRONMENT | dict(environment), rows, columns)))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = os.dup(payload)
        try:
            message, files = await self.worker.exchange(steward.TERMINAL, limits, [payload, theirs.detach()], GRACE_S)
        except BaseException:
            ours.close()
            os.close(kept)
            raise
        ended, code, *_ = warden.REPLY.unpack(message)
        if ended != warden.EXIT:
            ours.close()
            os.close(kept)
            raise OSError(code, f"no terminal is left in the sandbox: {os.strerror(code)}")
        terminal = LiveTerminal(files[0], ours, kept, limits.output, on_close)
        self.terminals.add(terminal)
        return terminal

    async def over(self) -> None:
        """Kill all that lives; the tree stays as it is then, and the worker is ready for another one."""
        await self.worker.exchange(steward.OVER, _NO_LIMITS, [], GRACE_S)

    def release(self) -> None:
        """Close what is ours."""
        os.close(self.root)
