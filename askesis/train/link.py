"""What connects who gives orders with the first process of a trainer's group: messages, tensors, signs of life.

Messages are pickles: whoever knows the connection's key may have any code run at its other end. Tensors go as their
bytes, in pieces. An empty message is a sign of life, and nobody gets to see it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PIECE = 2**26  # bytes of a tensor that are sent at a time
_BEAT_S = 5.0  # between signs of life
_LOOK_S = 2.0  # between looks whether waiting has a point


class Silence(Exception):
    """Nothing was heard for longer than it may take."""


class Link:
    """One end. silent_s: seconds after which an end that gives no sign of life, or takes nothing, is given up.

    All that is said raises `OSError`, all that is heard `EOFError` or `OSError` where the other end is gone.
    """

    def __init__(self, connection: Connection[Any, Any], *, silent_s: float) -> None:
        self._connection, self._silent_s = connection, silent_s
        self._turn = threading.Lock()
        self._broken: OSError | None = None
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # in the middle of a message
                same.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", int(silent_s) + 1, 0))
            if same.family != socket.AF_UNIX:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is lost says no goodbye
                same.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)

    def send(self, value: Any) -> None:
        """A message."""
        self._say(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))

    def receive(self, *, within: float | None = None, look: Callable[[], None] | None = None) -> Any:
        """The next message. Raises `Silence` where there is no sign of life within so many seconds (else `silent_s`).

        look: called now and then meanwhile; what it raises ends the waiting.
        """
        return pickle.loads(self._heard(within or self._silent_s, look))

    def send_tensor(self, tensor: Tensor) -> None:
        """Its numbers. It is on a CPU."""
        numbers = _bytes_of(tensor.contiguous())
        for first in range(0, len(numbers), _PIECE):
            self._say(numbers[first : first + _PIECE])

    def receive_tensor(self, into: Tensor, *, look: Callable[[], None] | None = None) -> None:
        """The numbers of one of the same type and shape. `into`: on a CPU, contiguous. look: as of `receive`."""
        numbers, done = _bytes_of(into), 0
        while done < len(numbers):
            piece = np.frombuffer(self._heard(self._silent_s, look), dtype=np.uint8)
            numbers[done : done + len(piece)] = piece
            done += len(piece)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life for as long as this takes. One that fails is the last, and whoever sends next is told."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_S):
                try:
                    self._say(b"")
                except OSError:  # the next message raises it
                    return

        beating = threading.Thread(target=beat, name="trainer's sign of life", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _say(self, data: Any) -> None:
        with self._turn:
            if self._broken is not None:
                raise self._broken
            try:
                self._connection.send_bytes(data)
            except OSError as error:  # perhaps in the middle: what followed would be read as the rest of it
                self._broken = error
                raise

    def _heard(self, within: float, look: Callable[[], None] | None) -> bytes:
        heard = time.monotonic()
        while True:
            if self._connection.poll(min(_LOOK_S, within)):
                if data := self._connection.recv_bytes():
                    return data
                heard = time.monotonic()
            if look is not None:
                look()
            if time.monotonic() - heard > within:
                raise Silence


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """In the same memory."""
    found: np.ndarray = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return found
