"""Submissions that are code: other code in its place, by which it would be known that code makes the verdict."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from typing import Literal

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Skipped
from askesis.audit.submission import Submission, submissions, tried


def kind_of(text: str) -> Literal["module", "line", ""]:
    """Whether a text is Python with functions in it, one line of a function, or neither."""
    try:
        parsed = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        parsed = None
    if parsed is not None and any(isinstance(one, ast.FunctionDef | ast.ClassDef) for one in parsed.body):
        return "module"
    if "\n" in text.strip() or not text.strip():
        return ""
    try:
        (inner,) = ast.parse("def f():\n " + text.strip()).body[0].body  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
        return ""
    plain = isinstance(inner, ast.Expr) and not isinstance(inner.value, ast.Call)
    return "" if plain else "line"  # a bare word or number is an answer


def with_statements(text: str, statements: str) -> list[str]:
    """The code with statements alone in place of it, and in place of what its functions do."""
    if kind_of(text) == "line":
        indent = text[: len(text) - len(text.lstrip())]
        return [f"{indent}exec({statements!r})"]
    return [statements, hollow(text, statements)]


def hollow(module: str, statements: str) -> str:
    """A module whose functions do nothing but these."""
    tree = ast.parse(module)
    for one in ast.walk(tree):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            one.body = ast.parse("def f():\n" + textwrap.indent(statements, "    ")).body[0].body  # type: ignore[attr-defined]
    return ast.unparse(tree) + "\n"


def with_value(text: str, expression: str) -> str:
    """The code with an expression in place of what it returns."""
    if kind_of(text) == "line":
        return text[: len(text) - len(text.lstrip())] + f"return {expression}"
    return hollow(text, f"return {expression}")


async def programs(ground: Ground) -> list[Submission]:
    """Submissions that are code, and whose code decides: nothing in its place is not paid. Raises as `submissions`."""
    if "programs" not in ground.kept:
        found = [one for one in await submissions(ground) if kind_of(one.text)]
        if not found:
            raise Skipped("nothing that is submitted is Python code")
        idle = await tried(ground, [(one, text) for one in found for text in with_statements(one.text, "pass")])
        paid = {done.one.task.id for done in idle if done.trace.success}
        ground.kept["programs"] = [one for one in found if one.task.id not in paid]
    kept: list[Submission] = ground.kept["programs"]
    if not kept:
        raise Inconclusive("code that does nothing is paid")
    return kept


def spread(found: Sequence[Submission], texts: Sequence[Sequence[str]], each: int) -> list[tuple[Submission, str]]:
    """Each of the ways on some submissions, not all on the same ones. texts: for each way, one for each submission."""
    puts = []
    for place, way in enumerate(texts):
        for number in range(min(each, len(found))):
            at = (place + number * max(1, len(found) // each)) % len(found)
            puts.append((found[at], way[at]))
    return puts
