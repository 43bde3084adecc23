"""Small Python modules with injected faults: the tasks of `repair`, drawn from a seed.

A module has two or more one-line functions. Every line has a *shape* (arithmetic, comparison, constant, call, span);
a shape knows the faults that can befall it and the inputs on which each of them shows. Expected values come from
running our own reference code in the trusted process, once, when the task is made.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

FAULTS = ("name", "operator", "constant", "comparison", "swap", "off_by_one")
OPERATORS = ("+", "-", "*", "//", "%")
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
CALLEES = ("pow", "divmod")
SPANS = ("sum", "len")

FUNCTION_NAMES = tuple(
    "area total gap ratio scale shift score price count rate limit rank cost load speed depth "
    "bonus level fee tax mass grade quota merge".split()
)
PARAMETERS = tuple("width height left right first last size step base unit low high rows cols head tail".split())

Arguments = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function of a module: `def name(params): return reference`, which stands in the file as `written`.

    fault: which kind was injected, or the empty string. visible, hidden: argument tuples for the two test sets.
    """

    name: str
    params: tuple[str, ...]
    shape: str
    reference: str
    written: str
    fault: str
    visible: tuple[Arguments, ...]
    hidden: tuple[Arguments, ...]


def header(name: str, params: Sequence[str]) -> str:
    """The line that opens a function."""
    return f"def {name}({', '.join(params)}):"


def body(expression: str) -> str:
    """The line that ends it."""
    return f"    return {expression}"


def source(functions: Sequence[Function], *, repaired: bool = False) -> str:
    """The module's text, as the agent finds it or as it should be."""
    lines = []
    for function in functions:
        lines += [header(function.name, function.params), body(function.reference if repaired else function.written)]
    return "\n".join(lines) + "\n"


def evaluate(expression: str, params: Sequence[str], arguments: Arguments) -> Any:
    """The value of one of our own expressions; never called on what an agent wrote."""
    return eval(_code(expression), _SCOPE, dict(zip(params, arguments, strict=True)))


_SCOPE: dict[str, Any] = {"__builtins__": {}, "pow": pow, "divmod": divmod, "sum": sum, "len": len, "range": range}


@functools.lru_cache(maxsize=2**14)
def _code(expression: str) -> CodeType:
    """Compiled once: to compile one of these takes longer than to run it for all its cases."""
    return compile(expression, "<reference>", "eval")


def _typo(rng: random.Random, name: str) -> str:
    """A misspelling so near that CPython's own suggestion names the cure."""
    at = rng.randrange(1, len(name))
    return rng.choice((name + name[-1], name[:-1], name[:at] + name[at - 1] + name[at:], name + "s", "_" + name))


def _variants(shape: str, expression: str, params: Sequence[str]) -> list[tuple[str, str]]:
    """Every (fault, wrong expression) that the shape of `expression` allows, misspelt names aside."""
    a, b = params[0], params[-1]
    if shape == "arithmetic":
        now = expression.split(" ")[1]
        return [("operator", f"{a} {op} {b}") for op in OPERATORS if op != now]
    if shape == "comparison":
        now = expression.split(" ")[1]
        return [("comparison", f"{a} {op} {b}") for op in COMPARISONS if op != now]
    if shape == "constant":
        _, op, constant = expression.split(" ")
        return [("constant", f"{a} {op} {c}") for c in range(2, 10) if c != int(constant)]
    callee = expression[: expression.index("(")]
    if shape == "call":
        forward = f"{callee}({a}, {b})"
        return [("swap", f"{callee}({b}, {a})" if expression == forward else forward)]
    closed = f"{callee}(range({a}, {b} + 1))"
    return [("off_by_one", f"{callee}(range({a}, {b}))" if expression == closed else closed)]


def _reference(rng: random.Random, shape: str, params: Sequence[str]) -> str:
    a, b = params[0], params[-1]
    if shape == "arithmetic":
        return f"{a} {rng.choice(OPERATORS)} {b}"
    if shape == "comparison":
        return f"{a} {rng.choice(COMPARISONS)} {b}"
    if shape == "constant":
        return f"{a} {rng.choice('+-*')} {rng.randrange(2, 10)}"
    if shape == "call":
        first, second = rng.choice(((a, b), (b, a)))
        return f"{rng.choice(CALLEES)}({first}, {second})"
    return f"{rng.choice(SPANS)}(range({a}, {b}{rng.choice(('', ' + 1'))}))"


def _pairs(low: int, high: int, keep: Callable[[int, int], bool]) -> list[Arguments]:
    return [(a, b) for a in range(low, high + 1) for b in range(low, high + 1) if keep(a, b)]


def _telling(a: int, b: int) -> bool:
    """Whether all five operators differ on these two numbers, so that one example tells which is meant."""
    return len({a + b, a - b, a * b, a // b, a % b}) == len(OPERATORS)


_INPUTS: dict[str, list[Arguments]] = {
    "arithmetic": _pairs(2, 9, lambda a, b: a > b and _telling(a, b)),
    "constant": [(a,) for a in range(2, 10)],
    "call": _pairs(2, 5, lambda a, b: a != b and max(a**b, b**a) <= 256 and a**b != b**a),
    "span": _pairs(1, 9, lambda a, b: a < b <= a + 4),
}


def _inputs(rng: random.Random, shape: str) -> tuple[tuple[Arguments, ...], tuple[Arguments, ...]]:
    """Visible and hidden argument tuples; the visible ones suffice to tell the cure from every rival of its shape."""
    if shape == "comparison":  # below, equal and above: a truth table that names the operator
        low, high, same = rng.randrange(1, 5), rng.randrange(5, 10), rng.randrange(1, 10)
        other, more = rng.randrange(1, 5), rng.randrange(5, 10)
        hidden = ((other, more), (more, other), (other, other), (more, more), (low, low), (high, low))
        return ((low, high), (same, same), (high, low)), hidden
    drawn = rng.sample(_INPUTS[shape], min(7, len(_INPUTS[shape])))
    return tuple(drawn[:1]), tuple(drawn[1:])


def _function(rng: random.Random, name: str, fault: str) -> Function:
    """A function with one fault of the kind `fault`, or with none if it is empty."""
    shapes = {
        "operator": ("arithmetic",),
        "comparison": ("comparison",),
        "constant": ("constant",),
        "swap": ("call",),
        "off_by_one": ("span",),
    }.get(fault, ("arithmetic", "comparison", "constant", "call", "span"))
    shape = rng.choice(shapes)
    params = tuple(rng.sample(PARAMETERS, 1 if shape == "constant" else 2))
    reference = _reference(rng, shape, params)
    visible, hidden = _inputs(rng, shape)
    written = reference
    if fault == "name":
        right = rng.choice([p for p in params if p in reference])
        wrong = _typo(rng, right)
        while wrong in params:
            wrong = _typo(rng, right)
        written = reference.replace(right, wrong, 1)
    elif fault:
        written = rng.choice([wrong for _, wrong in _variants(shape, reference, params)])
    return Function(
        name=name,
        params=params,
        shape=shape,
        reference=reference,
        written=written,
        fault=fault,
        visible=visible,
        hidden=hidden,
    )


def shows(function: Function) -> bool:
    """Whether the fault of `function` makes a visible test fail (a wrong line that passes would be no fault)."""
    if function.fault == "name":
        return True
    return any(
        evaluate(function.written, function.params, case) != evaluate(function.reference, function.params, case)
        for case in function.visible
    )


def draw(rng: random.Random, *, functions: int, faults: int, kinds: Sequence[str]) -> list[Function]:
    """A module of `functions` functions, `faults` of which are broken, each by a kind out of `kinds`."""
    names = rng.sample(FUNCTION_NAMES, functions)
    broken = set(rng.sample(range(functions), faults))
    module = []
    for index, name in enumerate(names):
        function = _function(rng, name, rng.choice(kinds) if index in broken else "")
        while function.fault and not shows(function):
            function = _function(rng, name, function.fault)
        module.append(function)
    return module


def edits(name: str, params: Sequence[str], expression: str) -> list[str]:
    """Every expression one plausible edit away from `expression`: the space that a blind guesser draws from."""
    found: dict[str, None] = {}
    words = expression.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split()
    for at, word in enumerate(words):
        rivals: Sequence[str] = ()
        if word in OPERATORS:
            rivals = OPERATORS
        elif word in COMPARISONS:
            rivals = COMPARISONS
        elif word.isdigit():
            rivals = [str(c) for c in range(1, 10)]
        elif word in CALLEES or word in SPANS:
            rivals = CALLEES + SPANS
        elif word.isidentifier() and word != "range":
            rivals = params
        for rival in rivals:
            if rival != word:
                found[_join([*words[:at], rival, *words[at + 1 :]])] = None
    if "," in words:
        comma = words.index(",")
        swapped = [*words[: comma - 1], words[comma + 1], ",", words[comma - 1], *words[comma + 2 :]]
        found[_join(swapped)] = None
    if words[-3:] == ["1", ")", ")"]:
        found[expression.replace(" + 1))", "))")] = None
    elif words[-2:] == [")", ")"]:
        found[expression[:-2] + " + 1))"] = None
    return list(found)


def _join(words: Sequence[str]) -> str:
    return " ".join(words).replace(" ( ", "(").replace(" )", ")").replace(" ,", ",")
