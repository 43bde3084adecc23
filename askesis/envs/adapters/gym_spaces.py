"""Spaces of the Gymnasium kind: a JSON Schema of their values, JSON into an action, an observation into text.

Spaces are known by their classes' names, so that those of older and other libraries are understood too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_NUMBERS = 64  # of an action, and of an array that is shown whole
_KINDS = ("Discrete", "MultiDiscrete", "MultiBinary", "Box", "Text", "Tuple", "Dict")
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")


class Unfit(ValueError):
    """A space that no tool's schema can say, or a value that is not in its space."""


def kind(space: Any) -> str:
    """Which of the known spaces it is. Raises `Unfit`."""
    for base in type(space).__mro__:
        if base.__name__ in _KINDS:
            return base.__name__
    raise Unfit(f"a space of type {type(space).__name__}: expected one of {', '.join(_KINDS)}")


# -- schemas -----------------------------------------------------------------------------------------------------------


def schema_of(space: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON Schema of an action. names: of the actions of a discrete space, in place of their numbers.

    Without a space (None), an action is a text. Raises `Unfit`.
    """
    if space is None:
        return {"enum": list(names)} if names else {"type": "string"}
    what = kind(space)
    if names:
        if what != "Discrete" or len(names) != int(space.n):
            raise Unfit(f"actions: {len(names)} names for {space}: expected one name for each action of a Discrete")
        return {"enum": list(names)}
    if what == "Discrete":
        start = int(getattr(space, "start", 0))
        return {"type": "integer", "minimum": start, "maximum": start + int(space.n) - 1}
    if what == "Text":
        return {"type": "string", "minLength": int(space.min_length), "maxLength": int(space.max_length)}
    if what == "Tuple":
        parts = [schema_of(one) for one in space.spaces]
        return _array(parts)
    if what == "Dict":
        properties = {str(key): schema_of(one) for key, one in space.spaces.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    return _numbers(what, space)


def _numbers(what: str, space: Any) -> dict[str, Any]:
    """The schema of an array of numbers, or of arrays of them."""
    if what == "MultiDiscrete":
        low = np.broadcast_to(np.asarray(getattr(space, "start", 0)), np.shape(space.nvec))
        high, number = low + np.asarray(space.nvec) - 1, "integer"
    elif what == "MultiBinary":
        low, high, number = np.zeros(space.shape, int), np.ones(space.shape, int), "integer"
    else:
        low, high = np.asarray(space.low), np.asarray(space.high)
        number = "integer" if np.issubdtype(space.dtype, np.integer) else "number"
    if low.size > MOST_NUMBERS:
        raise Unfit(f"an action of {low.size} numbers ({space}): a tool's call has room for {MOST_NUMBERS}")
    return _nested(low, high, number)


def _nested(low: np.ndarray, high: np.ndarray, number: str) -> dict[str, Any]:
    if low.ndim:
        return _array([_nested(low[i], high[i], number) for i in range(low.shape[0])])
    cast = int if number == "integer" else float
    schema: dict[str, Any] = {"type": number}
    if math.isfinite(low):
        schema["minimum"] = cast(low)
    if math.isfinite(high):
        schema["maximum"] = cast(high)
    return schema


def _array(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    bounds = {"type": "array", "minItems": len(parts), "maxItems": len(parts)}
    if parts and all(part == parts[0] for part in parts):
        return bounds | {"items": parts[0]}
    return bounds | {"prefixItems": list(parts), "items": False}


# -- actions -----------------------------------------------------------------------------------------------------------


def action_of(space: Any, given: Any, names: Sequence[str] = ()) -> Any:
    """What the environment is given for a value that fits the schema. Raises `Unfit` where that is not in the space."""
    if names:
        if given not in names:
            raise Unfit(f"no action {given!r}: expected one of {', '.join(names)}")
        given = given if space is None else names.index(given) + int(getattr(space, "start", 0))
    if space is None:
        return given
    try:
        action = _valued(space, given)
        fits = bool(space.contains(action))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise Unfit(f"the action {given!r} is not in {space}: {error}") from error
    if not fits:
        raise Unfit(f"the action {given!r} is not in {space}")
    return action


def _valued(space: Any, given: Any) -> Any:
    what = kind(space)
    if what == "Discrete":
        return type(space.sample())(given)  # as the library has them: an integer of Python's or of numpy's
    if what == "Text":
        return given
    if what == "Tuple":
        return tuple(_valued(one, part) for one, part in zip(space.spaces, given, strict=True))
    if what == "Dict":
        return {key: _valued(one, given[key]) for key, one in space.spaces.items()}
    return np.asarray(given, dtype=space.dtype).reshape(space.shape)


# -- observations ------------------------------------------------------------------------------------------------------


def told(value: Any) -> str:
    """An observation as text: numbers to four digits, large arrays by their shape and range."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {told(one)}" for key, one in value.items())
    if isinstance(value, np.ndarray):
        return _array_told(value)
    if isinstance(value, tuple | list):
        return "(" + ", ".join(told(one) for one in value) + ")"
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def _array_told(value: np.ndarray) -> str:
    if value.ndim == 0:
        return told(value.item())
    if value.size <= MOST_NUMBERS:
        return "[" + ", ".join(told(one if one.ndim else one.item()) for one in map(np.asarray, value)) + "]"
    if not np.issubdtype(value.dtype, np.number):
        return f"[{value.size} values of shape {value.shape}]"
    shape = " x ".join(map(str, value.shape))
    return f"[{shape} numbers from {value.min():.4g} to {value.max():.4g}, {value.mean():.4g} in the mean]"


def uncoloured(drawn: str) -> str:
    """A picture of text whose colours say something, without them.

    What is marked by one kind of colour stands in brackets; where there are several, the picture is left as it is and
    a line below says what is marked and where (rows and columns count from 1).
    """
    marks, plain, row, column, style, at = list[tuple[str, int, int, str]](), "", 1, 1, "", 0
    drawn = _OTHER_ESCAPES.sub("", drawn)
    pieces: list[tuple[str, str]] = []
    for match in _ESCAPE.finditer(drawn):
        pieces.append((style, drawn[at : match.start()]))
        style, at = _style(style, match[1]), match.end()
    pieces.append((style, drawn[at:]))
    for style, text in pieces:
        if style and text:
            marks.append((style, row, column, text))
        plain += text
        lines = text.split("\n")
        row += len(lines) - 1
        column = len(lines[-1]) + (column if len(lines) == 1 else 1)
    if len({style for style, *_ in marks}) <= 1:
        return "".join(f"[{text}]" if style and text else text for style, text in pieces)
    said = ", ".join(f"{style} {text!r} at row {row}, column {column}" for style, row, column, text in marks)
    return plain.rstrip("\n") + f"\nMarked: {said}."


def _style(style: str, codes: str) -> str:
    """The colours after an escape, in words; empty for none."""
    for code in (int(part or 0) for part in codes.split(";")):
        if code == 0:
            style = ""
        elif 30 <= code <= 37:
            style = _COLOURS[code - 30]
        elif 40 <= code <= 47:
            style = f"{_COLOURS[code - 40]} ground"
    return style
