"""Messages: the text side of a conversation. Tokens are the record (`types.tokens`); these are the view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from askesis.types.errors import ConfigError

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
    syntax: how it should have been written.
    """

    kind: Literal["unterminated", "malformed", "shape"]
    detail: str
    raw: str
    syntax: Literal["json", "xml"] = "json"


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

    enabled: thinking mode or not. budget: most tokens of one turn's thinking, episode_budget: of all turns'
    together; None for no bound. effort: a point on 0..1 in place of a budget, which `askesis.chat.resolve` turns into
    one by what was measured of the checkpoint. Raises `ConfigError` for values out of range, and for budget and effort
    at once.
    """

    enabled: bool = True
    budget: int | None = None
    effort: float | None = None
    episode_budget: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget", self.budget), ("episode_budget", self.episode_budget)):
            if value is not None and value < 0:
                raise ConfigError(f"thinking: {name} is {value}, expected 0 or more tokens (None: no bound)")
        if self.effort is None:
            return
        if not 0.0 <= self.effort <= 1.0:
            raise ConfigError(f"thinking: effort is {self.effort}, expected a number from 0 to 1")
        if self.budget is not None:
            raise ConfigError(
                f"thinking: budget {self.budget} and effort {self.effort:g} at once, "
                "but effort stands for a budget: give one of the two"
            )

    @property
    def mode(self) -> str:
        """A short stable name: groups are compared within one of these.

        `no_think`, `think`, `think:8` (a turn's budget), `think:8/40` and `think:/40` (and an episode's), `effort:0.5`.
        """
        if not self.enabled:
            return "no_think"
        whole = "" if self.episode_budget is None else f"/{self.episode_budget}"
        if self.effort is not None:
            return f"effort:{self.effort:g}{whole}"
        if self.budget is None and not whole:
            return "think"
        return f"think:{'' if self.budget is None else self.budget}{whole}"
