"""Where the first process of a trainer's group comes to who gives orders, and shows that it knows the key."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from askesis.types import AskesisError, ConfigError

_SHAKES_S = 10  # that whoever knocks may be silent before it has shown that it knows the key
_LOOK_S = 0.5  # between looks whether the door is closed
_FAILURES = 20  # of the system, one after the other, after which nobody is waited for


class Door:
    """Listens from the first. address: a path, or HOST:PORT; key: what both ends know.

    Whoever comes is dealt with in a thread of its own, so that one who says nothing keeps nobody out.
    Raises `ConfigError` where it cannot listen there.
    """

    def __init__(self, address: str, key: bytes) -> None:
        where = place(address)
        self._address, self._key = address, key
        self._socket = socket.socket(socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX)
        self._closed, self._some = threading.Event(), threading.Event()
        self._turn = threading.Lock()
        self._taken: Connection[Any, Any] | None = None
        self._failed: Exception | None = None
        self._opened: threading.Thread | None = None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(where)
            self._socket.listen(16)
            self._socket.settimeout(_LOOK_S)
        except (OSError, OverflowError, ValueError) as error:
            self._socket.close()
            raise ConfigError(
                f"a run cannot wait for its trainers at {address!r}: {error}. Expected HOST:PORT with an address of "
                "this machine and a free port from 1 to 65535; see train.address"
            ) from error

    def come(self, within: float) -> Connection[Any, Any] | None:
        """Who has shown that it knows the key, None where there is nobody within so many seconds.

        Raises `AskesisError` where nobody can come any more.
        """
        if self._opened is None:
            self._opened = threading.Thread(target=self._open, name="trainers' door", daemon=True)
            self._opened.start()
        self._some.wait(within)
        with self._turn:
            if self._taken is None and self._failed is not None:
                raise AskesisError(
                    f"nobody can come to {self._address} any more: {type(self._failed).__name__}: {self._failed}"
                ) from self._failed
            return self._taken

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed.set()
        self._socket.close()

    def _open(self) -> None:
        failures = 0
        try:
            while not self._closed.is_set():
                try:
                    found, _ = self._socket.accept()
                except TimeoutError:
                    continue
                except OSError:
                    failures += 1
                    if failures >= _FAILURES:
                        raise
                    self._closed.wait(_LOOK_S)
                    continue
                failures = 0
                threading.Thread(target=self._shake, args=(found,), name="trainers' key", daemon=True).start()
        except Exception as error:
            if not self._closed.is_set():
                self._failed = error
                self._some.set()
        finally:
            self._socket.close()

    def _shake(self, found: socket.socket) -> None:
        """Take who came if it knows the key, and is the first who does."""
        with contextlib.suppress(Exception):  # of somebody who is not meant, whatever it sends
            found.setblocking(True)
            for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                found.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", _SHAKES_S, 0))
            with contextlib.ExitStack() as undone:
                connection: Connection[Any, Any] = undone.enter_context(Connection(found.detach()))
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                with self._turn:
                    if self._taken is None and not self._closed.is_set():
                        undone.pop_all()
                        self._taken = connection
                        self._some.set()
                        self._closed.set()


def place(address: str) -> str | tuple[str, int]:
    """Where to listen or connect to: a path, or HOST:PORT."""
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() and "/" not in address else address
