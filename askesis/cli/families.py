"""What `askesis envs list` and `check` print."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from askesis.envs import ADAPTERS, BUILT_IN, load_env
from askesis.types import AskesisError, MissingExtra

if TYPE_CHECKING:
    from askesis.loop.checking import Check, Report

_WIDTH = 80
_INDENT = 16
_HEAD = 24  # columns before what a check says
_STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def families() -> list[dict[str, Any]]:
    """The built-in environments as plain values. missing: what to do before it can be used; empty for nothing."""
    rows = []
    for name, target in BUILT_IN.items():
        missing, options, levels = "", {}, None
        try:
            env = load_env(name)
        except MissingExtra as error:
            missing = str(error)
        except AskesisError as error:  # it wants options that have no default
            missing = f"options: {error}"
        else:
            options = _defaults(type(env))
            levels = options.get("levels")
        rows.append(
            {
                "name": name,
                "about": _about(target),
                "levels": None if levels is None else list(levels),
                "options": sorted(options),
                "missing": missing,
            }
        )
    return rows


def adapters() -> list[dict[str, Any]]:
    """Where other libraries' environments come from. form: of a name; missing: what to install, empty for nothing."""
    rows = []
    for prefix, target in ADAPTERS.items():
        place, _, attribute = target.partition(":")
        module = importlib.import_module(place)
        kind = getattr(module, attribute)
        package = getattr(kind, "package", "")
        form, _, about = _opening(inspect.getdoc(module) or "").partition("`: ")
        there = not package or find_spec(package.partition(".")[0]) is not None
        missing = "" if there else f"the package {package}; pip install 'askesis[{prefix}]'"
        rows.append(
            {
                "prefix": prefix,
                "form": form.strip("`"),
                "about": about,
                "options": sorted(_defaults(kind)),
                "missing": missing,
            }
        )
    return rows


def _opening(text: str) -> str:
    """The first paragraph, in one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _defaults(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _about(target: str) -> str:
    """The first sentences of the family's README."""
    spec = find_spec(target.partition(":")[0])
    places = [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "README.md"]
    for place in (one for one in places if one.is_file()):
        blocks = re.split(r"\n\s*\n", place.read_text(encoding="utf-8"))
        text = next((block for block in blocks if block.strip() and not block.lstrip().startswith("#")), "")
        first = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", " ".join(text.split()))
        said = first[0]
        for sentence in first[1:]:
            if len(said) + len(sentence) > 2 * _WIDTH:
                break
            said += f" {sentence}"
        return said
    return ""


def print_families(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] = ()) -> None:
    """A paragraph each. others: of `adapters`."""
    console = _console()
    _print_rows(console, rows)
    if others:
        console.print(Text("\nof other libraries:\n", style="dim"))
        for row in others:
            console.print(Text(row["form"], style="bold"))
            _print_rows(console, [{"name": "", "levels": None, **row}])
    console.print(Text("\naskesis envs play NAME plays one, askesis envs new NAME makes another.", style="dim"))


def _print_rows(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        text = textwrap.wrap(row["about"] or "–", _WIDTH - _INDENT)
        console.print(Text.assemble((f"{row['name']:<{_INDENT}}", "bold"), text[0]))
        for line in text[1:]:
            console.print(" " * _INDENT + line)
        if row["levels"]:
            console.print(Text(" " * _INDENT + "levels " + ", ".join(map(str, row["levels"])), style="dim"))
        if row["missing"]:
            for line in textwrap.wrap(f"missing: {row['missing']}", _WIDTH - _INDENT):
                console.print(Text(" " * _INDENT + line, style="yellow"))


def check_line(check: Check) -> None:
    """One finding, as soon as it is known."""
    console = _console()
    head = Text.assemble((f"{check.state:<7}", _STYLES[check.state]), f"{check.name:<17}")
    if check.state == "ok":
        first, *rest = textwrap.wrap(check.text, _WIDTH - _HEAD) or [""]
        console.print(head + Text(first))
        for line in rest:
            console.print(" " * _HEAD + line)
        return
    lines = [("where", check.where), ("got", check.got), ("expected", check.expected)]
    for number, (label, text) in enumerate(lines):
        front = head if number == 0 else Text(" " * _HEAD)
        wrapped = textwrap.wrap(text, _WIDTH - _HEAD - 10) or [""]
        console.print(front + Text(f"{label:<10}", style="dim") + Text(wrapped[0]))
        for line in wrapped[1:]:
            console.print(" " * (_HEAD + 10) + line)


def print_policies(report: Report) -> None:
    """The last line."""
    wrong = sum(check.state == "wrong" for check in report.checks)
    notes = sum(check.state == "note" for check in report.checks)
    noted = f", {notes} worth a look" if notes else ""
    said = f"{wrong} of {len(report.checks)} checks failed{noted}" if wrong else f"{len(report.checks)} checks{noted}"
    _console().print(Text(f"\n{report.env}: {said}", style="bold red" if wrong else "bold"))


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
