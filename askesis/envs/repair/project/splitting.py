"""Which of the failing tests an agent sees, and which are kept from it.

A repair that only satisfies what can be seen must not pay. Where several test functions fail, half of them are cut out
of the files that the agent gets. Where only one does, the second half of its assertions is. What was cut decides,
together with what was left.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from askesis.envs.repair.project.mutations import Function, Text

Cut = tuple[str, int, int, str]  # path, first character, the one behind the last, what stands there then


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """visible: test ids that the agent is told. hidden: those it is not. cuts: of the files that it gets.

    rest: cuts that leave of the visible tests only what is hidden; where there are some, they must fail too.
    """

    visible: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
    rest: tuple[Cut, ...] = ()


def function_of(test: str) -> str:
    """The id of the test function, without its parameters."""
    return test.partition("[")[0]


def split_functions(failing: Sequence[str], files: Mapping[str, bytes], rng: random.Random) -> Split | None:
    """Half of the failing test functions, each of which can be cut out; None where there are fewer than two."""
    functions = sorted({function_of(test) for test in failing})
    places = {name: place for name in functions if (place := _place(name, files)) is not None}
    hideable = [name for name in functions if name in places]
    if len(functions) < 2 or not hideable:
        return None
    rng.shuffle(hideable)
    hidden = set(hideable[: min(len(hideable), len(functions) // 2)])
    cuts = [_cut(*places[name], [places[name][2]]) for name in hidden]
    return Split(
        visible=tuple(test for test in failing if function_of(test) not in hidden),
        hidden=tuple(test for test in failing if function_of(test) in hidden),
        cuts=tuple(sorted({cut for found in cuts for cut in found})),
    )


def split_assertions(failing: Sequence[str], files: Mapping[str, bytes]) -> Split | None:
    """The first half of the assertions of the one test function that fails; None where it has fewer than two."""
    functions = {function_of(test) for test in failing}
    place = _place(next(iter(functions)), files) if len(functions) == 1 else None
    if place is None:
        return None
    asserting = [statement for statement in place[2].body if _asserts(statement)]
    half = (len(asserting) + 1) // 2
    if len(asserting) < 2:
        return None
    return Split(visible=tuple(failing), cuts=_cut(*place, asserting[half:]), rest=_cut(*place, asserting[:half]))


def apply_cuts(cuts: Sequence[Cut], files: Mapping[str, bytes]) -> dict[str, str]:
    """The texts of the files that are cut."""
    found: dict[str, str] = {}
    for path, start, end, new in sorted(cuts, key=lambda cut: -cut[1]):
        text = found.get(path) or files[path].decode()
        found[path] = text[:start] + new + text[end:]
    return found


def _place(test: str, files: Mapping[str, bytes]) -> tuple[str, Text, Function] | None:
    """Where a test function is written, if that is where its id says."""
    path, *names = test.split("::")
    try:
        source = files[path].decode()
        body: Sequence[ast.stmt] = ast.parse(source).body
    except (KeyError, ValueError, SyntaxError):
        return None
    for number, name in enumerate(names, 1):
        kind = Function if number == len(names) else ast.ClassDef
        found = [node for node in body if isinstance(node, kind) and node.name == name]
        if len(found) != 1:
            return None
        if isinstance(found[0], Function):
            return path, Text(source), found[0]
        body = found[0].body
    return None


def _cut(path: str, text: Text, function: Function, nodes: Sequence[ast.stmt]) -> tuple[Cut, ...]:
    """`pass` in the place of some statements."""
    found = []
    for node in nodes:
        start, end = text.span(node)
        if isinstance(node, Function) and node.decorator_list:
            start = text.source.rindex("@", 0, text.span(node.decorator_list[0])[0])
        found.append((path, start, end, "pass"))
    return tuple(found)


def _asserts(statement: ast.stmt) -> bool:
    """Whether a statement checks something, in the way of pytest or of unittest."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.startswith("assert") or name in ("raises", "fail"):
                return True
    return False
