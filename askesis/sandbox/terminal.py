"""A terminal as the host sees it: our side of a pseudo-terminal, and a channel on which the steward tells its end.

The output is taken off as it comes, so that a program which nobody reads goes on, at a pace that leaves the event loop
to others; what is kept of it is bounded, its beginning and its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Callable

from askesis.sandbox import steward
from askesis.sandbox.worker import ENDS, GRACE_S
from askesis.types import Ended, SandboxError

MOST_COLUMNS = 1000  # and rows
_CHUNK, _BURST, _PAUSE_S = 4096, 2**16, 0.005  # at most so many bytes every so many seconds: a flood is no load
_SEND_S = 5.0  # in which a program must begin to read what is typed
_AGAIN_S = 0.05  # a terminal that nobody has open may be opened again


class LiveTerminal:
    """See `Terminal`. Made by `Live.terminal`.

    master: our side. channel: to the steward. payload: of its program, where it says why that could not begin. output:
    bytes that are kept between two reads. on_close: told once, when nothing of it lives.
    """

    def __init__(
        self,
        master: int,
        channel: socket.socket,
        payload: int,
        output: int,
        on_close: Callable[[LiveTerminal], Awaitable[None]],
    ) -> None:
        self._master, self._channel, self._payload, self._on_close = master, channel, payload, on_close
        self._head, self._tail, self._keep = bytearray(), bytearray(), max(1, output // 2)
        self._lost, self.dropped = 0, 0  # since the last read, and in all
        self._ended: Ended | None = None
        self._code: int | None = None
        self._error = ""  # of the machinery
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._gone: asyncio.Future[None] = self._loop.create_future()  # the steward has let go
        self._closing: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        os.set_blocking(master, False)
        channel.setblocking(False)
        self._loop.add_reader(master, self._pump)
        self._loop.add_reader(channel.fileno(), self._told)

    @property
    def alive(self) -> bool:
        """See `Terminal.alive`."""
        return self._ended is None and not self._error and self._closing is None

    @property
    def ended(self) -> Ended | None:
        """See `Terminal.ended`."""
        return self._ended

    @property
    def exit_code(self) -> int | None:
        """See `Terminal.exit_code`."""
        return self._code

    async def send(self, data: bytes) -> None:
        """See `Terminal.send`."""
        async with self._sending:
            rest = memoryview(data)
            while rest:
                self._check()
                if not self.alive:
                    raise BrokenPipeError("the terminal's program has ended")
                try:
                    rest = rest[os.write(self._master, rest) :]
                except BlockingIOError:
                    await self._writable()
                except OSError:  # nobody has it open
                    raise BrokenPipeError("the terminal's program has closed it") from None

    async def read(self, *, wait_s: float, quiet_s: float) -> bytes:
        """See `Terminal.read`."""
        self._pump()
        now = self._loop.time()
        until, last = now + wait_s, now
        while self._ended is None and not self._error and self._closing is None:
            left_s = min(until, last + quiet_s) - self._loop.time()
            if left_s <= 0:
                break
            self._news.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._news.wait()
                last = self._loop.time()
            except TimeoutError:
                pass
        self._check()
        return self._taken()

    async def interrupt(self) -> None:
        """See `Terminal.interrupt`."""
        self._check()
        if not self.alive:
            return
        with contextlib.suppress(OSError, termios.error):  # where it has ended meanwhile
            modes, key = termios.tcgetattr(self._master), b"\x03"
            if modes[3] & termios.ISIG:
                key = bytes(modes[6][termios.VINTR])
                if not modes[3] & termios.NOFLSH:  # the kernel's own discarding comes too late: the key would wait too
                    slave = fcntl.ioctl(self._master, steward.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
                    try:
                        termios.tcflush(slave, termios.TCIFLUSH)
                    finally:
                        os.close(slave)
            os.write(self._master, key)

    async def resize(self, rows: int, columns: int) -> None:
        """See `Terminal.resize`. Raises `ValueError` for a window that nobody has."""
        checked_size(rows, columns)
        self._check()
        if self._closing is None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    async def close(self) -> None:
        """See `Terminal.close`."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="askesis-terminal-close")
        await asyncio.shield(self._closing)

    def failed(self, why: str) -> None:
        """The machinery under it is gone."""
        if not self._error and self._ended is None:
            self._error = why
        self._let_go()

    # -- what comes --------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Take what is there, up to a burst."""
        if self._later is not None or self._closing is not None or self._error:
            return
        taken = 0
        while taken < _BURST:
            try:
                data = os.read(self._master, _CHUNK)
            except BlockingIOError:
                break
            except OSError:  # nobody has it open, at the moment or for good
                self._rest(_AGAIN_S)
                break
            taken += len(data)
            self._keep_of(data)
        else:
            self._rest(_PAUSE_S)
        if taken:
            self._news.set()

    def _rest(self, seconds: float) -> None:
        """Look away for a while."""
        self._loop.remove_reader(self._master)

        def again() -> None:
            self._later = None
            if self._closing is None and self._ended is None and not self._error:
                self._loop.add_reader(self._master, self._pump)

        self._later = self._loop.call_later(seconds, again)

    def _keep_of(self, data: bytes) -> None:
        room = self._keep - len(self._head)
        if room > 0 and not self._tail:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._keep:
            self._cut()

    def _cut(self) -> None:
        """Keep the end of what has come."""
        over = len(self._tail) - self._keep
        if over > 0:
            self._lost += over
            self.dropped += over
            del self._tail[:over]

    def _taken(self) -> bytes:
        """What was kept, and forget it."""
        self._cut()
        note = b"\r\n[sandbox: %d bytes of output were not kept]\r\n" % self._lost if self._lost else b""
        data = bytes(self._head) + note + bytes(self._tail)
        self._head, self._tail, self._lost = bytearray(), bytearray(), 0
        return data

    def _told(self) -> None:
        """The steward says how the program ended, or lets go of the terminal."""
        try:
            message = self._channel.recv(steward.END.size)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            if self._ended is None:
                self._error = self._error or "sandbox: the worker of a terminal died"
            self._let_go()
            return
        ended, code = steward.END.unpack(message)
        why = os.pread(self._payload, 2000, 0)
        if why.startswith(b"!"):
            self._error = f"sandbox: a program could not be started: {why[1:].decode('utf-8', 'replace')}"
        self._flush()
        self._ended, self._code = ENDS[ended], code
        self._news.set()

    def _flush(self) -> None:
        """The last of what the program wrote; what it left in the background may write more."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
            self._loop.add_reader(self._master, self._pump)
        self._pump()

    def _let_go(self) -> None:
        self._news.set()
        if not self._gone.done():
            self._gone.set_result(None)
            self._loop.remove_reader(self._channel.fileno())

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._master)
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.shield(self._gone)
        self._let_go()
        self._channel.close()
        for file in (self._master, self._payload):
            os.close(file)
        await self._on_close(self)

    async def _writable(self) -> None:
        """Wait until more can be typed."""
        ready = self._loop.create_future()

        def now() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_writer(self._master, now)
        try:
            async with asyncio.timeout(_SEND_S):
                await ready
        except TimeoutError:
            raise BlockingIOError(
                f"the terminal's program has read nothing of what was typed for {_SEND_S:g} s"
            ) from None
        finally:
            if self._closing is None:
                self._loop.remove_writer(self._master)

    def _check(self) -> None:
        if self._error:
            raise SandboxError(self._error)


def checked_size(rows: int, columns: int) -> None:
    """Raise `ValueError` for a window that nobody has."""
    if not (1 <= rows <= MOST_COLUMNS and 1 <= columns <= MOST_COLUMNS):
        raise ValueError(f"terminal: rows={rows}, columns={columns}: expected 1 to {MOST_COLUMNS} of each")
