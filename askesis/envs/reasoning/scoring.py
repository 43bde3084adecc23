"""Whether an answer to a question of reasoning-gym is right: one answer, judged whole, never evaluated.

reasoning-gym's own scorers are generous: most pay a share for a reply that holds the answer somewhere, some pay in full
for what is no answer at all, and some pass the reply to `eval` or to sympy's parser, which evaluates too. Here only
full pay counts; a scorer that evaluates is only shown what cannot be code; one that pays for more than one answer at
once is only shown one, or is not asked: then the answer has to be the known one.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, cast

from askesis.envs.reasoning.drawing import known
from askesis.types import VerifierError

MOST = 16_000  # characters of an answer
_NUMBER = re.compile(r"[+-]?\d{1,60}(\.\d{1,60})?")
_EVALUATES = frozenset(
    {"eval", "exec", "compile", "parse_expr", "parse_latex", "sympify", "lambdify", "nsimplify", "pickle", "marshal"}
    | {"__import__", "import_module", "run_path", "system", "Popen"}
)

# -- grammars: what a scorer that evaluates may be shown ---------------------------------------------------------------

_POWER = re.compile(r"\*\*\s*(\(\s*-?\d{1,2}(\s*/\s*\d{1,2})?\s*\)|-?\d{1,2})(?!\s*\*\*)(?!\d)")
_WORDS = frozenset("x y z t a b c C X E e pi sin cos tan exp log ln sqrt sinh cosh tanh asin acos atan Abs".split())


def arithmetic(text: str) -> bool:
    """Numbers, + - * / and brackets: no names, no powers, nothing that takes long."""
    return re.fullmatch(r"[\d+\-*/(). ]{1,300}", text) is not None and "**" not in text and "//" not in text


def formula(text: str) -> bool:
    """As sympy writes them: numbers, one-letter variables, known functions, small constant powers."""
    if re.fullmatch(r"[\w+\-*/(). ]{1,400}", text, re.ASCII) is None or "//" in text or "__" in text:
        return False
    words = re.findall(r"[A-Za-z_]\w*", text)
    powers = len(re.findall(r"\*\*", text))
    small = all(len(number) <= 12 for number in re.findall(r"\d+", text))
    attributes = re.search(r"\.\s*[A-Za-z_]|[A-Za-z_)]\s*\.", text)
    return set(words) <= _WORDS and powers == len(_POWER.findall(text)) <= 24 and small and attributes is None


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
    """advanced_geometry calendar_arithmetic complex_arithmetic fraction_simplification game_of_life_halting
    gsm_symbolic knights_knaves letter_jumble number_sorting polynomial_equations propositional_logic puzzle24
    spell_backward time_intervals word_sorting""".split()
)
"""Datasets whose scorer pays in full for what is not the answer, and so is not asked: for the answer with others after
it, for `nan`, for numbers that are up to 1 off, for an expression of other numbers, for a premise said again, or for
anything at all. `tests/envs/test_reasoning.py` looks for more of the kind in every dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """right: whether the answer is. share: what reasoning-gym's scorer gives of 1; 0 where it was not asked. why: how
    it came to be."""

    right: bool
    share: float
    why: str


def judge(dataset: Any, name: str, answer: str, entry: Mapping[str, Any]) -> Verdict:
    """Whether `answer` is right for `entry` of `dataset`, whose name is `name`.

    Raises `VerifierError` where the scorer fails on the known answer too, and so says nothing of any.
    """
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
    try:
        share = float(dataset.score_answer(said, entry))
    except Exception as error:
        _demand(dataset, name, entry)
        return Verdict(right=False, share=0.0, why=f"the scorer could not read it: {type(error).__name__}")
    return Verdict(right=share >= 1.0, share=min(max(share, 0.0), 1.0), why=f"the scorer gave {share:g}")


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
