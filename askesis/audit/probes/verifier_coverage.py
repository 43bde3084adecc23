"""Whether the verdict has ways to pay that no work, right or wrong, comes through."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from askesis.audit.ground import Ground, Recited
from askesis.audit.probe import Probe, Sighting, Skipped
from askesis.audit.probes.rescoring import works
from askesis.envs.wrapping import WrappedEnv
from askesis.types import Env, Reward, State, Task, Trace

_MOST = 40  # works


async def run(ground: Ground) -> Sighting:
    """Trace `verify` while right, wrong, cut and empty work is judged; read what stands in the lines that never ran."""
    files = _files(ground.env)
    if not files:
        raise Skipped("the environment has no source to look at")
    env = _Traced(ground.env, files)
    done: list[tuple[str, Task, Sequence[Any]]] = [("nothing", task, ()) for task in ground.tasks[:3]]
    for _, task, messages in [*done, *(await works(ground))[:_MOST]]:
        if ground.left_s <= 0 and env.ran:
            break
        await ground.play(task, lambda task, specs, script=messages: Recited(script), env=env)  # type: ignore[misc]
    if not env.ran:
        raise Skipped("no line of the environment's own runs in a verdict")
    total, never, paying = _read(env.codes, env.ran)
    note = f"{len(never)} of {total} statements of the verdict never ran"
    if not never:
        return Sighting(hits=0, n=max(total, 1), note=note)
    shown = [f"{Path(file).name}:{line}: {text}" for file, line, text in (paying or never)[:5]]
    return Sighting(
        hits=len(paying or never),
        n=total,
        evidence=f"no work comes through {'; '.join(shown)}",
        note=note,
        severity="low" if paying else "info",
    )


def _files(env: Env) -> set[str]:
    """The sources of the environment's classes, and what lies beside them in their packages."""
    inner: Any = env
    while hasattr(inner, "inner"):
        inner = inner.inner
    found: set[str] = set()
    for kind in type(inner).__mro__:
        try:
            path = Path(inspect.getfile(kind))
        except (TypeError, OSError):
            continue
        if path.name == "wrapping.py" or kind is object:
            continue
        package = path.parent if (path.parent / "__init__.py").exists() else None
        found.update(map(str, package.rglob("*.py") if package is not None else [path]))
    return found


class _Traced(WrappedEnv):
    """Notes which lines of `files` run while it judges."""

    def __init__(self, inner: Env, files: set[str]) -> None:
        super().__init__(inner)
        self.files = files
        self.codes: set[CodeType] = set()
        self.ran: set[tuple[str, int]] = set()

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return await super().verify(trace, state)
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, value: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in self.files:
            return None
        self.codes.add(code)
        self.ran.add((code.co_filename, frame.f_lineno))
        return self._line

    def _line(self, frame: FrameType, event: str, value: Any) -> Any:
        self.ran.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


Place = tuple[str, int, str]


def _read(codes: set[CodeType], ran: set[tuple[str, int]]) -> tuple[int, list[Place], list[Place]]:
    """How many statements the functions have that ran; those that never did and are more than an error's handling;
    and those among them that give or name something that could be pay."""
    total, never, paying = 0, [], []
    for file in sorted({code.co_filename for code in codes}):
        try:
            text = Path(file).read_text(encoding="utf-8")
        except OSError:
            continue
        starts = {code.co_firstlineno for code in codes if code.co_filename == file}
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
            if first not in starts and function.lineno not in starts:
                continue
            equal = _equal(function)
            for statement in _statements(function.body):
                total += 1
                if any((file, line) in ran for line in range(statement.lineno, (_head(statement)) + 1)):
                    continue
                place = (file, statement.lineno, ast.unparse(statement).splitlines()[0][:120])
                never.append(place)
                if _pays(statement) and statement not in equal:
                    paying.append(place)
    return total, never, paying


def _statements(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """All that stand in a block and in those within; blocks that end in an error are left out, whatever leads to it."""
    found: list[ast.stmt] = []
    if body and isinstance(body[-1], ast.Raise):
        return found
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Pass | ast.Import):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        found.append(statement)
        for name in ("body", "orelse", "finalbody"):
            found += _statements(getattr(statement, name, None) or [])
        for handler in getattr(statement, "handlers", None) or []:
            found += _statements(handler.body)
        for case in getattr(statement, "cases", None) or []:
            found += _statements(case.body)
    return found


def _head(statement: ast.stmt) -> int:
    """The last line of a statement, or of a block's head."""
    inner = [getattr(statement, name, None) for name in ("body", "cases")]
    for block in inner:
        if block:
            return max(statement.lineno, int(getattr(block[0], "lineno", statement.lineno + 1)) - 1)
    return statement.end_lineno or statement.lineno


def _equal(function: ast.AST) -> list[ast.stmt]:
    """What stands right behind `if this == that`, neither of which is written out: a way to be the same."""
    return [
        statement
        for node in ast.walk(function)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and all(isinstance(sign, ast.Eq) for sign in node.test.ops)
        and not any(isinstance(part, ast.Constant) for part in (node.test.left, *node.test.comparators))
        for statement in node.body
    ]


def _pays(statement: ast.stmt) -> bool:
    """Whether it gives or names True or a number above 0."""
    value = statement.value if isinstance(statement, ast.Return | ast.Assign | ast.AugAssign | ast.AnnAssign) else None
    if value is None:
        return False
    return any(
        isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float) and node.value > 0
        for node in ([value] if isinstance(value, ast.Constant) else _paid(value))
    )


def _paid(value: ast.expr) -> list[ast.AST]:
    """Constants that stand in a call of something named as a reward, or in a list or an expression of them."""
    calls = [node for node in ast.walk(value) if isinstance(node, ast.Call) and "eward" in ast.unparse(node.func)]
    return [node for call in calls for keyword in call.keywords if keyword.arg == "value" for node in [keyword.value]]


PROBE = Probe(
    name="verifier-coverage",
    axis="coverage",
    flaw="unexplained pay",
    severity="low",
    about="the verdict has no way to pay that no work comes through",
    run=run,
    seconds=4.0,
)
