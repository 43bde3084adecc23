"""A tool made of a plain function: what an environment needs that only looks things up."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from askesis.types import ConfigError, Session, Tool, ToolResult, ToolSpec

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}


def tool(function: Callable[..., Any], *, name: str = "", description: str = "") -> Tool:
    """`function` as a tool: with its name, its docstring's first line, and its arguments as they are annotated.

    It returns the text that the agent reads, or a `ToolResult`; it may be `async`, and should be where it takes time.
    Annotations: str, int, float, bool, dict, list, list[...] of these, Literal[...], each also with `| None`. An
    argument with a default need not be given. Raises `ConfigError` for any other argument.
    """
    called = name or function.__name__
    schema = _schema(function, called)
    said = description or (inspect.getdoc(function) or "").partition("\n")[0]
    return _FunctionTool(ToolSpec(name=called, description=said, parameters=schema), function)


@dataclass(frozen=True, slots=True)
class _FunctionTool:
    spec: ToolSpec
    function: Callable[..., Any]

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        known = self.spec.parameters["properties"]
        if unknown := sorted(set(args) - set(known)):  # the schema lets them through; a failure would be nobody's fault
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            return ToolResult(text=f"error: {self.spec.name} has no argument {unknown[0]!r}: {takes}", error=True)
        result = self.function(**args)
        if inspect.isawaitable(result):
            result = await result
        return ToolResult(text=result) if isinstance(result, str) else typing.cast(ToolResult, result)


def _schema(function: Callable[..., Any], name: str) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    properties, required = {}, []
    for argument, parameter in inspect.signature(function).parameters.items():
        found = _described(hints.get(argument))
        if found is None or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(
                f"tool {name!r}: argument {str(parameter)!r}: expected `name: type` with str, int, float, bool, dict, "
                "list, list[...] or Literal[...], so that the model can be told what to give"
            )
        properties[argument] = found
        if parameter.default is parameter.empty:
            required.append(argument)
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _described(hint: Any) -> dict[str, Any] | None:
    """An annotation in JSON Schema, or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is list:
        items = _described(arguments[0])
        return None if items is None else {"type": "array", "items": items}
    if origin in (types.UnionType, typing.Union):
        kinds = [{"type": "null"} if kind is type(None) else _described(kind) for kind in arguments]
        return None if None in kinds else {"anyOf": kinds}
    return None
