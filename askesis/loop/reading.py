"""Recipes in and out: find the file, apply overrides, check, and say clearly what is wrong. TOML, strict keys."""

from __future__ import annotations

import json
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from askesis.loop.recipe import Recipe
from askesis.types import ConfigError, nearest

RECIPES = Path(__file__).parents[1] / "recipes"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MOST_ERRORS = 8


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with Askesis. Raises `ConfigError`."""
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted(RECIPES.glob("*.toml"))}
    if str(name) in known:
        return known[str(name)]
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise ConfigError(f"no recipe file {path} (looked in {Path.cwd()}){nearest(path.stem, known)}")
    listed = ", ".join(known) or "none"
    raise ConfigError(
        f"no recipe {str(name)!r}{nearest(str(name), known)}: expected a .toml file or one of those that come with "
        f"Askesis ({listed})"
    )


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Read and check a recipe: a name, a path, a mapping as TOML would give it, or a `Recipe` already.

    overrides: `a.b=value` in TOML's syntax (a word that is no TOML is text; nothing after `=` means the default), or a
    mapping from dotted keys to values. Raises `ConfigError`, naming every key that is wrong.
    """
    if isinstance(recipe, Recipe):
        raw, where = to_mapping(recipe), "recipe"
    elif isinstance(recipe, Mapping):
        raw, where = json.loads(json.dumps(recipe)), "recipe"
    else:
        path = find_recipe(recipe)
        raw, where = _read(path), str(path)
        raw.setdefault("run", {})
        if isinstance(raw["run"], dict) and not raw["run"].get("name"):
            raw["run"]["name"] = path.stem
    given = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for key, value in given:
        _put(raw, key, value)
    return check_recipe(raw, where)


def check_recipe(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A `Recipe` from plain values. Raises `ConfigError` with the dotted path of each fault and what was expected."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        details = error.errors()
        within = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
        faults = [_fault(detail) for detail in details if detail["loc"] not in within]  # the innermost say it all
    shown = faults[:_MOST_ERRORS]
    if len(faults) > len(shown):
        shown.append(f"... and {len(faults) - len(shown)} more")
    raise ConfigError("\n  ".join([f"{where} is wrong:", *shown]) if len(shown) > 1 else f"{where}: {shown[0]}")


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=value` as (key, value); None where nothing follows the sign. Raises `ConfigError`."""
    key, sign, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not sign or not all(_BARE.fullmatch(part) for part in key.split(".")):
        raise ConfigError(f"override {text!r}: expected section.key=value, as in run.steps=10")
    if not value:
        return key, None
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        if value[0] in "[{\"'":
            raise ConfigError(f"override {text!r}: {value} is not a TOML value: {error}") from None
        return key, value  # an unquoted word


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, defaults filled in, keys without a value left out."""
    plain: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    return plain


def to_toml(values: Mapping[str, Any], *, comment: str = "") -> str:
    """TOML text of nested plain values; tables inside lists are written inline."""
    head = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*head, *_table(values, ())]).strip() + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    if path and (plain or not values):
        yield f"\n[{'.'.join(map(_key, path))}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {toml_value(value)}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _table(value, (*path, key))


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but for DEL


def toml_value(value: Any) -> str:
    """One value as TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    table = raw
    for at, part in enumerate(path):
        below = table.setdefault(part, {})
        if not isinstance(below, dict):
            place = ".".join(path[: at + 1])
            raise ConfigError(f"override {key!r}: {place} is no table but {below!r}; set it as a whole")
        table = below
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value


# -- messages ------------------------------------------------------------------------------------------------------


_WORDS = {  # pydantic's words, and those of somebody who writes TOML
    "Input should be": "expected",
    "Tuple should have at least 1 item after validation, not 0": "expected at least one entry",
    "a valid dictionary": "a table",
    "a valid boolean": "true or false",
    "a valid integer": "an integer",
    "a valid ": "a ",
}


def _fault(detail: ErrorDetails) -> str:
    path = detail["loc"]
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    kind, got = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        known = _known(path[:-1])
        word = str(path[-1])
        elsewhere = _elsewhere(word)  # where it is a key, it is more likely meant than what is merely like it here
        hint = f"; did you mean {elsewhere[0]!r}?" if elsewhere else nearest(word, known)
        return f"unknown key {dotted!r}{hint} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"{dotted} is missing: it has no default"
    if kind == "value_error":
        return f"{dotted + ': ' if dotted else ''}{detail['ctx']['error']}"
    message = re.sub(r" or (an )?instance of \w+", "", detail["msg"])
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    hint = ""
    if kind == "literal_error" and isinstance(got, str):
        hint = nearest(got, re.findall(r"'([^']*)'", message))
    return f"{dotted} is {_shown(got)}, {message}{hint}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The table that a key's type holds (also optional, or in a list), if it holds one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (section_of(part) for part in typing.get_args(annotation))
    return next((found for found in inner if found is not None), None)


def _known(path: Sequence[int | str]) -> list[str]:
    """The keys of the table at `path`."""
    section: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, str):
            found = section_of(section.model_fields[part].annotation)
            if found is None:
                return []
            section = found
    return list(section.model_fields)


def _elsewhere(word: str) -> list[str]:
    """Where else a key of this name is known: `lr` at the top may have been meant as `train.lr`."""
    found = []
    for name, table in Recipe.model_fields.items():
        section = section_of(table.annotation)
        if section is not None and word in section.model_fields:
            found.append(f"{name}.{word}")
    return found
