"""What the gateway needs of a protocol: reading a request, writing an answer, whole or as server-sent events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic_core import to_json

from askesis.serve.asked import Asked
from askesis.serve.faults import Fault
from askesis.serve.reply import Reply
from askesis.serve.settings import Served


class Writer(Protocol):
    """Writes one answer. `begin`, `more` and `end` give the events of a stream, as bytes that can be joined."""

    def whole(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """The answer as one object."""
        ...

    def begin(self, prompt_tokens: int) -> bytes:
        """Before the first token."""
        ...

    def more(self, reply: Reply) -> bytes:
        """What a choice has new."""
        ...

    def end_choice(self, reply: Reply) -> bytes:
        """A choice is complete."""
        ...

    def end(self, replies: Sequence[Reply]) -> bytes:
        """All are."""
        ...

    def fail(self, fault: Fault) -> bytes:
        """The answer ends here, and why."""
        ...


class Wire(Protocol):
    """One protocol."""

    @property
    def schema(self) -> type[BaseModel]:
        """Of the body."""
        ...

    def read(self, body: bytes, served: Served) -> Asked:
        """The request. Raises `Fault`."""
        ...

    def writer(self, asked: Asked, served: Served) -> Writer:
        """For one answer."""
        ...

    def error(self, fault: Fault) -> dict[str, Any]:
        """The body of a request that gets no answer."""
        ...


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    line = b"data: " + to_json(data) + b"\n\n"
    return line if name is None else b"event: " + name.encode() + b"\n" + line
