"""Tool calls as Qwen3.5 and its kin write them:

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

A value is bare text: the tool's schema says what it is, as in the parsers of vLLM and SGLang. Unlike theirs, the text
`null` stays text where the schema asks for a string, and a value may hold closing tags: `</parameter>` only ends it
where another parameter or the end of the whole call follows.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from askesis.chat.calls import CLOSE, dumps, loads, skip_space
from askesis.types import ParseFailure, TemplateError, ToolCall, ToolSpec

_FUNCTION, _END_FUNCTION = "<function=", "</function>"
_PARAMETER, _END_PARAMETER = "<parameter=", "</parameter>"
_NO_VALUE = object()
_KINDS: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


class _Unreadable(Exception):
    """Says what was expected."""


class XmlCalls:
    """json_scalars: whether `true` and `null` are written as JSON has them (Qwen3.6), or as Python does (Qwen3.5)."""

    name: Literal["json", "xml"] = "xml"

    def __init__(self, *, json_scalars: bool) -> None:
        self._json_scalars = json_scalars

    def end(self, text: str) -> int | None:
        """Behind `</function>`."""
        try:
            return _scan(text)[2]
        except _Unreadable:
            return None

    def read(self, raw: str, call_id: str, tools: Sequence[ToolSpec] = ()) -> ToolCall | ParseFailure:
        """Values get the types of the tool's schema. Of a tool that there is not, all are strings."""
        try:
            name, parameters, _ = _scan(raw + CLOSE)
        except _Unreadable as error:
            return ParseFailure(kind="malformed", detail=str(error), raw=raw, syntax="xml")
        keys = [key for key, _ in parameters]
        again = next((key for key in keys if keys.count(key) > 1), None)
        if not name or again is not None:
            detail = f"parameter {again!r} is given twice" if name else "there is no function name"
            return ParseFailure(kind="shape", detail=detail, raw=raw, syntax="xml")
        schemas = next((tool.parameters.get("properties") for tool in tools if tool.name == name), None)
        known = schemas if isinstance(schemas, Mapping) else {}
        arguments = {key: typed(value, known.get(key)) for key, value in parameters}
        return ToolCall(id=call_id, name=name, arguments=arguments, raw=raw)

    def write(self, call: ToolCall) -> str:
        """Arguments given as JSON text are taken for what they say. Raises `TemplateError` where that is no object."""
        arguments: Any = call.arguments
        if isinstance(arguments, str):
            try:
                arguments = loads(arguments)
            except (ValueError, RecursionError):
                arguments = None
        if not isinstance(arguments, Mapping):
            raise TemplateError(f"the arguments of a call to {call.name!r} are no object: got {call.arguments!r}")
        values = "".join(
            f"{_PARAMETER}{key}>\n{self._text(value, call.name)}\n{_END_PARAMETER}\n"
            for key, value in arguments.items()
        )
        return f"\n{_FUNCTION}{call.name}>\n{values}{_END_FUNCTION}\n"

    def unchanged(self, call: ToolCall) -> bool:
        """Whether each value is what its text says, taken for the kind that the value is."""
        try:
            name, parameters, _ = _scan(call.raw + CLOSE)
        except _Unreadable:
            return False
        if name != call.name or [key for key, _ in parameters] != list(call.arguments):
            return False
        for key, text in parameters:
            value = call.arguments[key]
            if text != value and (isinstance(value, str) or typed(text, {"type": _KINDS.get(type(value))}) != value):
                return False
        return True

    def _text(self, value: Any, name: str) -> str:
        if isinstance(value, str):
            return value
        if self._json_scalars or isinstance(value, Mapping | list | tuple):
            return dumps(value, f"an argument of a call to {name!r}")
        return str(value)


def _scan(text: str) -> tuple[str, list[tuple[str, str]], int]:
    """(name, parameters as they stand there, where the `</tool_call>` is). Raises `_Unreadable`."""
    at = skip_space(text, 0)
    name, at = _opening(text, at, _FUNCTION)
    parameters: list[tuple[str, str]] = []
    while True:
        at = skip_space(text, at)
        if text.startswith(_END_FUNCTION, at):
            at = skip_space(text, at + len(_END_FUNCTION))
            if not text.startswith(CLOSE, at):
                raise _Unreadable(f"expected nothing after {_END_FUNCTION}")
            return name, parameters, at
        key, start = _opening(text, at, _PARAMETER)
        end = _value_end(text, start, key)
        value = text[start:end].removeprefix("\n").removesuffix("\n")
        parameters.append((key, value))
        at = end + len(_END_PARAMETER)


def _opening(text: str, at: int, tag: str) -> tuple[str, int]:
    """The name in the tag at `at`, and where the tag ends."""
    end = text.find(">", at)
    if not text.startswith(tag, at) or end < 0 or "\n" in text[at:end]:
        raise _Unreadable(f"expected {tag}NAME> but got {text[at : at + 24].removesuffix(CLOSE)!r}")
    return text[at + len(tag) : end].strip(), end + 1


def _value_end(text: str, start: int, key: str) -> int:
    """The first `</parameter>` after which the call goes on, or ends, as it must."""
    at = start
    while (at := text.find(_END_PARAMETER, at)) >= 0:
        after = skip_space(text, at + len(_END_PARAMETER))
        ends = text.startswith(_END_FUNCTION, after)
        if text.startswith(_PARAMETER, after) or (
            ends and text.startswith(CLOSE, skip_space(text, after + len(_END_FUNCTION)))
        ):
            return at
        at += len(_END_PARAMETER)
    raise _Unreadable(f"parameter {key!r} is never closed with {_END_PARAMETER}, or {_END_FUNCTION} is missing")


def typed(text: str, schema: Any) -> Any:
    """`text` as the kind of value that a JSON schema asks for; as it is where that cannot be, or nothing is asked for.

    Lets through what a jsonschema validator will then complain about: it can say it better.
    """
    kinds = _kinds(schema)
    if kinds <= {"string"}:
        return text
    value = _value(text.strip())
    if value is None and "string" not in kinds:
        return None
    kind = _KINDS.get(type(value), "")
    if kind in kinds or (kind == "integer" and "number" in kinds):
        return value
    if isinstance(value, float) and "integer" in kinds and value.is_integer():
        return int(value)
    return text


def _kinds(schema: Any) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return {kinds}
    if isinstance(kinds, list):
        return {kind for kind in kinds if isinstance(kind, str)}
    if isinstance(values := schema.get("enum"), list):
        return {_KINDS.get(type(value), "") for value in values}
    several = [one for word in ("anyOf", "oneOf", "allOf") for one in schema.get(word, ())]
    return set().union(*map(_kinds, several))


def _value(text: str) -> Any:
    """JSON, or what Python writes for the same; `_NO_VALUE` for neither."""
    plain = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        return loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
        return json.loads(json.dumps(value, allow_nan=False)) if isinstance(value, dict | list | tuple) else _NO_VALUE
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return _NO_VALUE
