"""The table of all recipe keys, written from the schema: `python -m askesis.loop.reference docs/recipes.md`.

It stands in that file between two marks; a test keeps it true.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from askesis.loop.reading import section_of
from askesis.loop.recipe import Recipe

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def reference() -> str:
    """Markdown: a heading and a table for each section."""
    parts = []
    for path, section, about in _sections(Recipe, ()):
        rows = [row for name, field in section.model_fields.items() if (row := _row(name, field)) is not None]
        heading = f"### `[{'.'.join(path)}]`\n\n{about}\n"
        table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([heading, *table]) if rows else heading)
    return "\n\n".join(parts)


def _sections(
    section: type[BaseModel], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], type[BaseModel], str]]:
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is None:
            continue
        if not _is_list(field.annotation):
            yield (*path, name), below, field.description or ""
            yield from _sections(below, (*path, name))


def _row(name: str, field: FieldInfo) -> str | None:
    below = section_of(field.annotation)
    if below is not None and not _is_list(field.annotation):
        return None
    meaning = " ".join((field.description or "").split())  # one line, or the table ends
    if below is not None:
        keys = ", ".join(f"`{key}`" for key in below.model_fields)
        meaning += f" Each entry has {keys}."
    default = "**needed**" if field.is_required() else f"`{_shown(field.get_default())}`"
    default = "" if not field.is_required() and field.get_default() is None else default
    return f"| `{name}` | {_type(field.annotation)} | {default} | {meaning} |"


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


def _shown(value: Any) -> str:
    from askesis.loop.reading import toml_value

    if isinstance(value, tuple):
        value = [item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item for item in value]
    return toml_value(value)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{toml}`" for toml in (f'"{value}"' for value in arguments))
    if origin is tuple:
        return f"list of {_type(arguments[0])}s"
    if origin is dict:
        return "table"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, "table")


def written(text: str) -> str:
    """`text` with the tables between the marks as they should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
