"""Procedural faults in real functions: every candidate is one edit of the text, so the file keeps its formatting.

A candidate is only that. Whether a test notices it is found out by running the tests (`making`).
"""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = (
    "name",
    "variable",
    "operator",
    "comparison",
    "boolean",
    "negation",
    "constant",
    "off_by_one",
    "swap",
    "removed",
    "attribute",
    "exception",
)
Function = ast.FunctionDef | ast.AsyncFunctionDef

_OPERATORS: dict[type[ast.operator], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("+", "//")),
    ast.Div: ("/", ("*", "//")),
    ast.FloorDiv: ("//", ("%", "/")),
    ast.Mod: ("%", ("//", "+")),
    ast.Pow: ("**", ("*",)),
    ast.LShift: ("<<", (">>",)),
    ast.RShift: (">>", ("<<",)),
    ast.BitAnd: ("&", ("|",)),
    ast.BitOr: ("|", ("&",)),
    ast.BitXor: ("^", ("|",)),
}
_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
_ATTRIBUTES = (
    "append extend|lower upper|startswith endswith|lstrip rstrip|strip lstrip|keys values|items keys|add discard|"
    "find rfind|index rindex|split rsplit|partition rpartition|popleft pop|appendleft append|union intersection|"
    "isupper islower|isdigit isalpha|title capitalize|ljust rjust|days seconds|start end|real imag|get pop"
)
_EXCEPTIONS = (
    "ValueError TypeError|KeyError IndexError|AttributeError KeyError|StopIteration IndexError|"
    "NotImplementedError RuntimeError|ZeroDivisionError ValueError|OverflowError ValueError|LookupError TypeError"
)


def _pairs(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in text.split("|"):
        one, other = pair.split()
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


_OTHER_ATTRIBUTES, _OTHER_EXCEPTIONS = _pairs(_ATTRIBUTES), _pairs(_EXCEPTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One fault: `old` at the characters [start, end) of the file becomes `new`.

    function: the outermost one that it lies in, as `name` or `Class.name`. line: where it begins, from 1.
    """

    kind: str
    path: str
    function: str
    line: int
    start: int
    end: int
    old: str
    new: str

    def applied(self, source: str) -> str:
        """The broken text."""
        if source[self.start : self.end] != self.old:
            raise ValueError(f"{self.path} has {source[self.start : self.end]!r} where {self.old!r} was expected")
        return source[: self.start] + self.new + source[self.end :]

    @property
    def key(self) -> str:
        """What tells it from all others of its project."""
        return f"{self.path}:{self.start}:{self.end}:{self.kind}:{self.new}"


class Text:
    """A source with what is needed to find the place of a node in it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lines = source.splitlines(keepends=True) if "\f" not in source else re.split(r"(?<=\n)", source)
        self._starts, at = [], 0
        for line in self._lines:
            self._starts.append(at)
            at += len(line)

    def offset(self, line: int, column: int) -> int:
        """Characters before a place that `ast` names: lines from 1, columns in bytes of UTF-8."""
        text = self._lines[line - 1]
        return self._starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: ast.expr | ast.stmt | ast.ExceptHandler) -> tuple[int, int]:
        """First character of a node, and the one behind its last."""
        return (
            self.offset(node.lineno, node.col_offset),
            self.offset(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset),
        )

    def of(self, node: ast.expr | ast.stmt) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.source[start:end]


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """The outermost functions of a module, those of its classes included, with their qualified names."""
    todo: list[tuple[str, ast.stmt]] = [("", node) for node in reversed(tree.body)]
    while todo:
        prefix, node = todo.pop()
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            todo += [(f"{prefix}{node.name}.", below) for below in reversed(node.body)]
        elif isinstance(node, ast.If | ast.Try | ast.With):
            blocks = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
            todo += [(prefix, below) for block in reversed(blocks) for below in reversed(block)]


def candidates(
    source: str, path: str, *, kinds: Sequence[str] = KINDS, most: int = 12, seed: int = 0
) -> dict[str, list[Mutation]]:
    """Faults that can be put into each function of a file, by the function's name, the kinds taking turns.

    most: of a function. A file that does not parse, or does not end its lines with line feeds alone, has none.
    """
    try:
        tree = _parsed(source)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    if "\r" in source:
        return {}
    text, found = Text(source), {}
    known = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | set(dir(builtins))
    names = Counter(name for name, _ in functions(tree))
    for name, node in functions(tree):
        if names[name] > 1:  # an overload, a property and its setter: the name does not say which
            continue
        rng = random.Random(f"{seed}/{path}/{name}")
        mutations = list(itertools.islice(_drawn(text, known, node, path, name, kinds, rng), most))
        if mutations:
            found[name] = mutations
    return found


def _drawn(
    text: Text, known: set[str], node: Function, path: str, name: str, kinds: Sequence[str], rng: random.Random
) -> Iterator[Mutation]:
    """The faults of one function in random order, a kind after the other."""
    by_kind: dict[str, list[tuple[int, int, str]]] = {}
    for kind, start, end, new in _Finder(text, known, node, rng).edits():
        if kind in kinds and text.source[start:end] != new:
            by_kind.setdefault(kind, []).append((start, end, new))
    for edits in by_kind.values():
        rng.shuffle(edits)
    order = rng.sample(sorted(by_kind), len(by_kind))
    for kind, edit in (
        (kind, by_kind[kind][turn])
        for turn in range(max(map(len, by_kind.values()), default=0))
        for kind in order
        if turn < len(by_kind[kind])
    ):
        start, end, new = edit
        old, line = text.source[start:end], text.source.count("\n", 0, start) + 1
        one = Mutation(kind=kind, path=path, function=name, line=line, start=start, end=end, old=old, new=new)
        if _real(text, node, one):
            yield one


def _real(text: Text, function: Function, mutation: Mutation) -> bool:
    """Whether the function is Python with the fault in it, and another function."""
    start, end = text.offset(function.lineno, 0), text.span(function)[1]
    before = text.source[start:end]
    after = before[: mutation.start - start] + mutation.new + before[mutation.end - start :]
    shell = "class _:\n" if before[:1] in " \t" else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(shell + after, "<mutant>", "exec", dont_inherit=True)
            return ast.dump(ast.parse(shell + after)) != ast.dump(ast.parse(shell + before))
    except (SyntaxError, ValueError, RecursionError):
        return False


def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


Edit = tuple[str, int, int, str]  # kind, start, end, new


class _Finder:
    """Looks for the places of one function at which a fault can be put."""

    def __init__(self, text: Text, known: set[str], function: Function, rng: random.Random) -> None:
        self.text, self.function, self.rng = text, function, rng
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        self.locals = [one.arg for one in named] + [
            node.id for node in self._nodes() if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        self.taken = known | set(self.locals)
        self.others = sorted(set(self.locals) - {"self", "cls"})

    def _nodes(self) -> Iterator[ast.AST]:
        """What runs when the function does, without docstrings, annotations and the inside of f-strings."""
        todo: list[ast.AST] = list(reversed(_without_docstring(self.function.body)))
        while todo:
            node = todo.pop()
            yield node
            below = list(ast.iter_child_nodes(node))
            if isinstance(node, ast.JoinedStr):
                continue
            if isinstance(node, Function):
                below = [*node.args.defaults, *_without_docstring(node.body)]
            elif isinstance(node, ast.AnnAssign):
                below = [one for one in (node.value,) if one is not None]
            todo += reversed(below)

    def edits(self) -> Iterator[Edit]:
        """Every edit of every kind."""
        for node in self._nodes():
            for look in (
                *(_name, _operator, _comparison, _boolean, _negation, _constant),
                *(_off_by_one, _swap, _removed, _attribute, _exception),
            ):
                yield from look(self, node)

    def between(self, left: ast.expr, right: ast.expr, pattern: str) -> tuple[int, int] | None:
        """Where an operator stands between two nodes: comments do not count."""
        start, end = self.text.span(left)[1], self.text.span(right)[0]
        gap = re.sub(r"#[^\n]*", lambda found: " " * len(found[0]), self.text.source[start:end])
        found = re.search(pattern, gap)
        return None if found is None else (start + found.start(), start + found.end())


def _without_docstring(body: Sequence[ast.stmt]) -> Sequence[ast.stmt]:
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def _name(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return
    start, end = at.text.span(node)
    name = node.id
    typos = [name[:-1], name + name[-1], name + "s", "_" + name, name[:1] + name[2:]]
    fits = [typo for typo in typos if typo.isidentifier() and typo not in at.taken and not keyword.iskeyword(typo)]
    if len(name) > 1 and fits:
        yield "name", start, end, at.rng.choice(fits)
    others = [other for other in at.others if other != name]
    if others and name in at.locals:
        yield "variable", start, end, at.rng.choice(others)


def _operator(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.BinOp):
        sign, rivals = _OPERATORS.get(type(node.op), ("", ()))
        place = at.between(node.left, node.right, re.escape(sign)) if sign else None
    elif isinstance(node, ast.AugAssign):
        sign, rivals = _OPERATORS.get(type(node.op), ("", ()))
        place = at.between(node.target, node.value, re.escape(sign)) if sign else None
    else:
        return
    if place is not None:
        for rival in rivals:
            yield "operator", *place, rival


def _comparison(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, ast.Compare):
        return
    left = node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        sign, rivals = _COMPARISONS[type(operator)]
        pattern = rf"\b{sign}\b" if sign[0].isalpha() else re.escape(sign)
        place = at.between(left, right, pattern)
        if place is not None:
            for rival in rivals:
                yield "comparison", *place, rival
        left = right


def _boolean(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.BoolOp):
        sign, rival = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            place = at.between(left, right, rf"\b{sign}\b")
            if place is not None:
                yield "boolean", *place, rival


def _negation(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, end = at.text.span(node)
        found = re.match(r"not\s*", at.text.source[start:end])
        if found is not None:
            yield "negation", start, start + found.end(), ""
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        test = node.test
        if not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            start, end = at.text.span(test)
            yield "negation", start, end, f"not ({at.text.source[start:end]})"


def _constant(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, ast.Constant):
        return
    start, end = at.text.span(node)
    value = node.value
    if isinstance(value, bool):
        yield "constant", start, end, str(not value)
    elif isinstance(value, int):
        yield "constant", start, end, str(value + 1)
        if value > 0:
            yield "constant", start, end, str(value - 1)
    elif isinstance(value, float) and value == value and abs(value) < 1e15:
        yield "constant", start, end, repr(value + 1)
    elif isinstance(value, str) and 0 < len(value) <= 30 and value.isprintable():
        rivals = [value[:-1], value.swapcase(), value + " "]
        rivals = [rival for rival in rivals if rival != value]
        yield "constant", start, end, repr(at.rng.choice(rivals))


def _off_by_one(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    places: list[ast.expr | None] = []
    if isinstance(node, ast.Subscript):
        inside = node.slice
        places = [inside.lower, inside.upper] if isinstance(inside, ast.Slice) else [inside]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("range", "islice"):
        places = list(node.args)
    for place in places:
        counts = isinstance(place, ast.Constant) and type(place.value) is int
        counts = counts or isinstance(place, ast.Name | ast.Attribute | ast.Call)
        counts = counts or (isinstance(place, ast.BinOp) and isinstance(place.op, ast.Add | ast.Sub))
        if place is not None and counts:
            start, end = at.text.span(place)
            yield "off_by_one", start, end, at.text.source[start:end] + at.rng.choice((" + 1", " - 1"))


def _swap(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Call):
        for one, other in zip(node.args, node.args[1:], strict=False):
            if not isinstance(one, ast.Starred) and not isinstance(other, ast.Starred):
                (start, one_end), (other_start, end) = at.text.span(one), at.text.span(other)
                source = at.text.source
                yield (
                    "swap",
                    start,
                    end,
                    source[other_start:end] + source[one_end:other_start] + source[start:one_end],
                )


def _removed(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Return) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Yield | ast.YieldFrom)
    ):
        yield "removed", *at.text.span(node), "pass"


def _attribute(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        end = at.text.span(node)[1]
        start = end - len(node.attr)
        if at.text.source[start:end] == node.attr:
            for other in _OTHER_ATTRIBUTES.get(node.attr, ()):
                yield "attribute", start, end, other


def _exception(at: _Finder, node: ast.AST) -> Iterator[Edit]:
    named: ast.expr | None = None
    if isinstance(node, ast.Raise):
        named = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    elif isinstance(node, ast.ExceptHandler):
        named = node.type
    if isinstance(named, ast.Name):
        for other in _OTHER_EXCEPTIONS.get(named.id, ()):
            yield "exception", *at.text.span(named), other
