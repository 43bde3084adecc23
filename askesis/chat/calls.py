"""Tool calls: what a family writes between its tags, and how that is read back.

A model may write anything, so nothing here raises: what cannot be read becomes a `ParseFailure`. `JsonCalls` is the
Hermes convention (Qwen3 and many others); `xml_calls` has the other one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from askesis.types import ParseFailure, TemplateError, ToolCall, ToolSpec

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_SHAPE = '{"name": <function-name>, "arguments": <args-json-object>}'
_XML_SHAPE = "<function=NAME> <parameter=KEY> VALUE </parameter> ... </function>"


class CallSyntax(Protocol):
    """One way to write calls between `<tool_call>` and `</tool_call>`."""

    @property
    def name(self) -> Literal["json", "xml"]:
        """What it is called in settings and failures."""
        ...

    def end(self, text: str) -> int | None:
        """Where the closing tag stands that ends the well-formed call which `text` begins with; None if none does yet.

        An answer stays right whatever text follows: this is how tags inside an argument are told from real ones.
        """
        ...

    def read(self, raw: str, call_id: str, tools: Sequence[ToolSpec]) -> ToolCall | ParseFailure:
        """What stands between the tags, read. tools: their schemas, for a syntax whose values have no types."""
        ...

    def write(self, call: ToolCall) -> str:
        """What stands between the tags, as the template writes it. Raises `TemplateError` for what it cannot."""
        ...

    def unchanged(self, call: ToolCall) -> bool:
        """Whether `call` is still what its `raw` says, so that this may stand for it."""
        ...


class JsonCalls:
    """`{"name": ..., "arguments": {...}}`."""

    name: Literal["json", "xml"] = "json"

    def end(self, text: str) -> int | None:
        """Behind one whole JSON value."""
        try:
            _, stop = json.JSONDecoder().raw_decode(text, skip_space(text, 0))
        except (ValueError, RecursionError):
            return None
        stop = skip_space(text, stop)
        return stop if text.startswith(CLOSE, stop) else None

    def read(self, raw: str, call_id: str, tools: Sequence[ToolSpec] = ()) -> ToolCall | ParseFailure:
        """Arguments that are a JSON object encoded once more are decoded."""
        try:
            content = loads(raw)
            if not isinstance(content, dict):
                return ParseFailure(kind="shape", detail="this is no JSON object", raw=raw)
            if not isinstance(content.get("name"), str) or not content["name"]:
                return ParseFailure(kind="shape", detail="there is no name", raw=raw)
        except (ValueError, RecursionError) as error:
            return ParseFailure(kind="malformed", detail=str(error), raw=raw)
        arguments = content.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = loads(arguments)
            except (ValueError, RecursionError):
                return ParseFailure(kind="shape", detail="the arguments are a string, not an object", raw=raw)
        if not isinstance(arguments, dict):
            return ParseFailure(kind="shape", detail="the arguments are no object", raw=raw)
        return ToolCall(id=call_id, name=content["name"], arguments=arguments, raw=raw)

    def write(self, call: ToolCall) -> str:
        """A client's string arguments pass through as they are."""
        arguments: Any = call.arguments
        if not isinstance(arguments, str):
            arguments = dumps(dict(arguments), f"the arguments of a call to {call.name!r}")
        return f'\n{{"name": "{call.name}", "arguments": {arguments}}}\n'

    def unchanged(self, call: ToolCall) -> bool:
        """Read again."""
        said = self.read(call.raw, call.id)
        return isinstance(said, ToolCall) and (said.name, said.arguments) == (call.name, call.arguments)


def failure_text(failure: ParseFailure) -> str:
    """What the agent reads in place of a result."""
    shape = _SHAPE if failure.syntax == "json" else _XML_SHAPE
    hint = {
        "unterminated": f"the call was never closed with {CLOSE}",
        "malformed": "the call is not valid JSON" if failure.syntax == "json" else f"a call must be {shape}",
        "shape": f"a call must be {shape}",
    }[failure.kind]
    return f"error: {hint}: {failure.detail}" if failure.detail else f"error: {hint}"


def skip_space(text: str, at: int) -> int:
    """The first place from `at` on that is no white space."""
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def loads(text: str) -> Any:
    """JSON that can also be written again: no NaN, no infinity (1e999), no half of a surrogate pair."""
    value = json.loads(text)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a string holds half of a surrogate pair, which is no text") from error
    return value


def dumps(value: Any, what: str) -> str:
    """JSON as chat templates write it. Raises `TemplateError`, naming `what`, for what is none."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise TemplateError(f"{what} cannot be written as JSON: {error}; got {value!r}") from error
