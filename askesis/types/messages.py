"""Messages: the text side of a conversation. Tokens are the record (`types.tokens`); these are the view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Plain text of a message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """Text that the model thought before it answered; never parsed for tool calls."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model made. `raw` is the exact text that was sampled between the call's tags."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseFailure:
    """A call that could not be read: what the agent gets to see instead of a result.

    kind: `unterminated` (no closing tag), `malformed` (not JSON), `shape` (JSON, but no name or arguments).
    """

    kind: Literal["unterminated", "malformed", "shape"]
    detail: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `tool_call_id` answers a call (role `tool`); `failures` are calls that did not parse."""

    role: Role
    parts: tuple[Text | Reasoning, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    failures: tuple[ParseFailure, ...] = ()

    @property
    def text(self) -> str:
        """All plain text, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def reasoning(self) -> str:
        """All reasoning, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Reasoning))


def system(text: str) -> Message:
    """A system message."""
    return Message(role="system", parts=(Text(text=text),))


def user(text: str) -> Message:
    """A user message."""
    return Message(role="user", parts=(Text(text=text),))


def assistant(text: str = "", *, reasoning: str = "", tool_calls: tuple[ToolCall, ...] = ()) -> Message:
    """An assistant message; empty parts are left out."""
    parts: list[Text | Reasoning] = []
    if reasoning:
        parts.append(Reasoning(text=reasoning))
    if text:
        parts.append(Text(text=text))
    return Message(role="assistant", parts=tuple(parts), tool_calls=tool_calls)


def tool_result(text: str, *, tool_call_id: str | None = None) -> Message:
    """What a tool returned."""
    return Message(role="tool", parts=(Text(text=text),), tool_call_id=tool_call_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it. `parameters` is a JSON Schema object (the OpenAI function convention)."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The dictionary that chat templates receive: `{"type": "function", "function": {...}}`."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How much the model may think before it acts.

    enabled: thinking mode or not. budget: most tokens of one turn's thinking, None for no bound.
    effort: a point on 0..1, or None.
    """

    enabled: bool = True
    budget: int | None = None
    effort: float | None = None

    @property
    def mode(self) -> str:
        """A short stable name: groups are compared within one of these."""
        if not self.enabled:
            return "no_think"
        return "think" if self.budget is None else f"think:{self.budget}"
