"""Whether an answer to a question of reasoning-gym is right: one answer, judged whole, never evaluated.

reasoning-gym's own scorers are generous: most pay a share for a reply that holds the answer somewhere, some pay in full
for what is no answer at all, and some pass the reply to `eval` or to sympy's parser, which evaluates too. Here only
full pay counts; a scorer that evaluates is only shown what cannot be code; one that pays for more than one answer at
once is only shown one, or is not asked: then the answer has to be the known one.
"""

from __future__ import annotations

import ast
import atexit
import re
import threading
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, cast

from askesis.envs.adapters.workers import Refused, Worker
from askesis.envs.reasoning.asking import WALL_S, packed
from askesis.envs.reasoning.drawing import known
from askesis.types import EnvError, VerifierError

MOST = 16_000  # characters of an answer
ASK_S = WALL_S + 60.0  # until the process that asks a scorer has answered, the start of that included
_NUMBER = re.compile(r"[+-]?\d{1,60}(\.\d{1,60})?")
_EVALUATES = frozenset(
    {"eval", "exec", "compile", "parse_expr", "parse_latex", "sympify", "lambdify", "nsimplify", "pickle", "marshal"}
    | {"__import__", "import_module", "run_path", "system", "Popen"}
)

# -- grammars: what a scorer that evaluates may be shown ---------------------------------------------------------------

_POWER = re.compile(r"\*\*\s*(\(\s*-?\d{1,2}(\s*/\s*\d{1,2})?\s*\)|-?\d{1,2})(?!\s*\*\*)(?!\d)")
_DEGREE = 48  # of a formula, multiplied out
_WORDS = frozenset("x y z t a b c C X E e pi sin cos tan exp log ln sqrt sinh cosh tanh asin acos atan Abs".split())


def arithmetic(text: str) -> bool:
    """Numbers, + - * / and brackets: no names, no powers, nothing that takes long."""
    return re.fullmatch(r"[\d+\-*/(). ]{1,300}", text) is not None and "**" not in text and "//" not in text


def formula(text: str) -> bool:
    """As sympy writes them: numbers, one-letter variables, known functions, small constant powers of what varies."""
    if re.fullmatch(r"[\w+\-*/(). ]{1,400}", text, re.ASCII) is None or "//" in text or "__" in text:
        return False
    words = re.findall(r"[A-Za-z_]\w*", text)
    powers = len(re.findall(r"\*\*", text))
    small = all(len(number) <= 12 for number in re.findall(r"\d+", text))
    attributes = re.search(r"\.\s*[A-Za-z_]|[A-Za-z_)]\s*\.", text)
    fits = set(words) <= _WORDS and powers == len(_POWER.findall(text)) <= 24 and small and attributes is None
    if not fits:
        return False
    try:  # it is read as Python, and only looked at
        return _degree(ast.parse(text.strip(), mode="eval").body) <= _DEGREE
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _degree(node: ast.expr) -> float:
    """How large the powers of a formula come to be, multiplied out. Raises `ValueError` for a power of numbers alone,
    for one within another, and for what is no formula."""
    match node:
        case ast.Name():
            return 1.0
        case ast.Constant(value=int() | float()):
            return 0.0
        case ast.UnaryOp(operand=operand):
            return _degree(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            if not any(isinstance(one, ast.Name) and len(one.id) == 1 and one.id != "E" for one in ast.walk(left)):
                raise ValueError("a power of numbers")
            # a power of a root's or a function's argument is as sympy writes it; a power of a power is not
            if any(isinstance(one, ast.BinOp) and isinstance(one.op, ast.Pow) for one in _factors(left)):
                raise ValueError("a power of a power")
            return _degree(left) * max(1.0, _size(right))
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            return _degree(left) + _degree(right)
        case ast.BinOp(left=left, right=right):
            return max(_degree(left), _degree(right))
        case ast.Call(func=ast.Name(), args=[argument], keywords=[]):
            return max(1.0, _degree(argument))
    raise ValueError("no formula")


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    """An expression and, where it is a product or has a sign, its factors."""
    yield node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        yield from (*_factors(node.left), *_factors(node.right))
    elif isinstance(node, ast.UnaryOp):
        yield from _factors(node.operand)


def _size(exponent: ast.expr) -> float:
    """Of a constant exponent, whose form `_POWER` has seen."""
    match exponent:
        case ast.Constant(value=int() as value):
            return float(value)
        case ast.UnaryOp(operand=operand):
            return _size(operand)
        case ast.BinOp(left=left, op=ast.Div()):
            return _size(left)
    raise ValueError("no constant exponent")


def numbers(text: str) -> bool:
    """Numbers in nested lists, or in lines."""
    return re.fullmatch(r"[\d\[\],\s\-]{1,2000}", text) is not None and "[" * 6 not in text


def moves(text: str) -> bool:
    """Capital letters in a row, or with commas, blanks or arrows between."""
    return re.fullmatch(r"[A-Z](([ ,]|->|→)*[A-Z])*", text) is not None


def letters(text: str) -> bool:
    """Capital letters, underscores and dots in (nested) lists of strings, or in lines."""
    return re.fullmatch(r"[A-Z_.\[\],'\"\s]{1,2000}", text) is not None and "[" * 6 not in text


GRAMMARS: Mapping[str, Callable[[str], bool]] = {
    "binary_matrix": numbers,
    "countdown": arithmetic,
    "intermediate_integration": formula,
    "kakurasu": numbers,
    "n_queens": letters,
    "polynomial_multiplication": formula,
    "quantum_lock": moves,
    "simple_integration": formula,
    "sokoban": moves,
    "spiral_matrix": numbers,
    "string_insertion": letters,
    "survo": numbers,
}
"""What these datasets' scorers are shown, which evaluate an answer, or find one among other words. Another one that
evaluates is not asked."""

EXACT = frozenset(
    """advanced_geometry calendar_arithmetic coin_flip complex_arithmetic decimal_arithmetic fraction_simplification
    game_of_life_halting gsm_symbolic knights_knaves letter_jumble number_sorting polynomial_equations
    propositional_logic puzzle24 spell_backward time_intervals word_sorting""".split()
)
"""Datasets whose scorer pays in full for what is not the answer, and so is not asked: for the answer with others after
it, for `nan`, for 0 in place of a small number, for numbers that are a little off (or by 1), for an expression of other
numbers, for a premise said again, or for anything at all. `tests/envs/test_reasoning.py` looks for more of the kind in
every dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """right: whether the answer is. share: what reasoning-gym's scorer gives of 1; 0 where it was not asked. why: how
    it came to be."""

    right: bool
    share: float
    why: str


def judge(dataset: Any, name: str, answer: str, entry: Mapping[str, Any]) -> Verdict:
    """Whether `answer` is right for `entry` of `dataset`, whose name is `name`.

    A scorer that evaluates is asked in another process, with limits (`asking`); an answer that exceeds them is wrong.
    Raises `VerifierError` where the scorer fails on the known answer too, and so says nothing of any.
    """
    found = _here(dataset, name, answer, entry)
    if found is not None:
        return found
    asked = packed(dataset, entry, answer.strip(), known(entry))
    with _failing(name):
        return _of(name, _asker().ask(asked, ASK_S))


async def judged(dataset: Any, name: str, answer: str, entry: Mapping[str, Any]) -> Verdict:
    """The same, without keeping others waiting."""
    found = _here(dataset, name, answer, entry)
    if found is not None:
        return found
    asked = packed(dataset, entry, answer.strip(), known(entry))
    with _failing(name):
        return _of(name, await _asker().asked(asked, ASK_S))


def _here(dataset: Any, name: str, answer: str, entry: Mapping[str, Any]) -> Verdict | None:
    """The verdict, where it takes no other process."""
    said, right = answer.strip(), known(entry)
    if right is not None and len(said) <= MOST and (_blanks(said) == _blanks(right) or _same_number(said, right)):
        return Verdict(right=True, share=1.0, why="the known answer")
    if not said or len(said) > MOST:
        return Verdict(right=False, share=0.0, why="empty" if not said else f"longer than {MOST} characters")
    if name in EXACT:
        return Verdict(right=False, share=0.0, why="not the known answer")
    grammar, kind = GRAMMARS.get(name), cast(Hashable, type(dataset))
    if not grammar(said) if grammar is not None else evaluating(kind):
        return Verdict(right=False, share=0.0, why="not the known answer, nor of a form that can be looked at safely")
    if grammar is not None:
        return None
    try:
        share = float(dataset.score_answer(said, entry))
    except Exception as error:
        _demand(dataset, name, entry)
        return _unread(type(error).__name__)
    return _scored(share)


def _scored(share: float) -> Verdict:
    return Verdict(right=share >= 1.0, share=min(max(share, 0.0), 1.0), why=f"the scorer gave {share:g}")


def _unread(error: str) -> Verdict:
    return Verdict(right=False, share=0.0, why=f"the scorer could not read it: {error}")


def _of(name: str, found: Mapping[str, Any]) -> Verdict:
    """The verdict of what `asking` answered."""
    if "share" in found:
        return _scored(found["share"])
    if "ended" in found:
        return Verdict(right=False, share=0.0, why=f"the scorer took more than it may: {found['ended']}")
    if "busy" in found:
        raise VerifierError(f"reasoning-gym, {name}: the scorer did not answer: {found['busy']}")
    if "fails_on_right" in found:
        raise VerifierError(f"reasoning-gym, {name}: the scorer fails on the known answer: {found['fails_on_right']}")
    if found.get("of_right", 1.0) < 1.0:
        raise VerifierError(f"reasoning-gym, {name}: the scorer gives the known answer {found['of_right']:g}")
    return _unread(found["failed"])


@contextmanager
def _failing(name: str) -> Iterator[None]:
    try:
        yield
    except (EnvError, TimeoutError, Refused) as error:
        raise VerifierError(f"reasoning-gym, {name}: the process that scores: {error}") from error


_held: list[Worker] = []
_holding = threading.Lock()


def _asker() -> Worker:
    """The process that asks scorers; one for all, which ends with this one."""
    with _holding:
        if not _held or not _held[0].alive:
            while _held:
                _held.pop().close()
            _held.append(Worker("askesis.envs.reasoning.asking", "reasoning"))
            atexit.register(_held[0].close)
        return _held[0]


def release() -> None:
    """End the process that asks scorers, if there is one; the next verdict that needs it starts another."""
    with _holding:
        while _held:
            _held.pop().close()


def _demand(dataset: Any, name: str, entry: Mapping[str, Any]) -> None:
    right = known(entry)
    if right is None:
        return
    try:
        share = float(dataset.score_answer(right, entry))
    except Exception as error:
        raise VerifierError(f"reasoning-gym, {name}: the scorer fails on the known answer: {error!r}") from error
    if share < 1.0:
        raise VerifierError(f"reasoning-gym, {name}: the scorer gives the known answer {share:g}, expected 1")


def _blanks(text: str) -> str:
    """With one blank for every run of them and after every comma, and none around a line."""
    lines = (re.sub(r" ?, ?", ", ", " ".join(line.split())).strip() for line in text.strip().splitlines())
    return "\n".join(lines)


def _same_number(said: str, other: str) -> bool:
    """Whether both are one plain number, and the same one."""
    if _NUMBER.fullmatch(said) is None or _NUMBER.fullmatch(other) is None:
        return False
    return Decimal(said) == Decimal(other)


# -- what a scorer does ------------------------------------------------------------------------------------------------


@cache
def evaluating(kind: Any) -> tuple[str, ...]:
    """The names by which `kind.score_answer`, or anything of its package that it may call, evaluates text."""
    package = kind.__module__.partition(".")[0]
    found: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [kind.score_answer]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for name in _names(function.__code__):
            if name in _EVALUATES:
                found.add(name)
            waiting.extend(_meant(name, kind, function, package))
    return tuple(sorted(found))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _meant(name: str, kind: type, function: Any, package: str) -> list[Any]:
    """The functions of `package` that a name in `function` may mean: a method of `kind`, or something of its module."""
    out = []
    for value in (getattr(kind, name, None), function.__globals__.get(name)):
        value = getattr(value, "__func__", value)
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, type) and value.__module__.partition(".")[0] == package:
            out += [one for one in vars(value).values() if isinstance(one, types.FunctionType)]
        elif isinstance(value, types.FunctionType) and value.__module__.partition(".")[0] == package:
            out.append(value)
    return out
