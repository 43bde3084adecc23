"""How like each other tasks are, by the words and values in their prompts and data.

A task is the set of its words, of its prompt's pairs of neighbours, of its lines, whatever their order, and of its
values by name. What stands in every task says nothing; what stands in one of many says much: log2(tasks / tasks that
have it) bits, as in information retrieval (Spärck Jones 1972). Two tasks are nearly the same where

- they differ in nothing but one thing each that no other task has (a number of its own), or
- seven tenths of what they say, in bits, are the same, of that alone which few other tasks say; what three tasks or
  more have together, and no other has, counts as one thing: it is the form of their kind,

and where so much is the same that chance would not have done it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from askesis.types import Task

ALIKE = 0.7
_FEW, _KIND = 8, 3  # tasks
_SPARE_BITS = 5.0  # beyond what the best pair of as many tasks shares by chance
_WORD = re.compile(r"\w+")
_ORDER = "> "  # before pairs and lines of prompts
_LINE = 3  # words that are more together than alone
_SHORT = 4  # values of a list that are one value together: a place, a pair


def words(task: Task) -> set[str]:
    """What a task is compared by: words, and in one string, joined by blanks, pairs of words and lines."""
    return {*_prompt(task.prompt), *_leaves("", task.data)}


def _topics(task: Task, *, order: bool) -> set[str]:
    """What it is compared by, without single numbers and all that has one in it. order: also pairs and lines."""
    return {word for word in words(task) if (order or " " not in word) and not _numbered(word)}


def _numbered(word: str) -> bool:
    return any(part.rpartition("=")[2].replace(".", "").replace("-", "").isdigit() for part in word.split(" "))


def _prompt(text: str) -> Iterator[str]:
    found = _WORD.findall(text.casefold())
    yield from found
    for pair in itertools.pairwise(found):
        yield _ORDER + " ".join(pair)
    for line in text.casefold().splitlines():
        if len(line.split()) >= _LINE:
            yield _ORDER + " ".join(line.split())  # with its signs, which may be what it is about


def _lines(text: str) -> Iterator[str]:
    for line in text.casefold().splitlines():
        found = _WORD.findall(line)
        yield from found
        if len(found) >= _LINE:
            yield " ".join(found)


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _lines(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _WORD.findall(str(name).casefold())
            yield from _leaves(str(name), inner)
    elif isinstance(value, list | tuple):
        plain = all(isinstance(inner, int | float) for inner in value)
        if plain and 1 < len(value) <= _SHORT:
            yield f"{key}={','.join(f'{inner:g}' for inner in value)}"
        else:
            for inner in value:
                yield from _leaves(key, inner)
    elif value is not None:
        yield f"{key}={value}"


@dataclass(frozen=True, slots=True)
class Likeness:
    """alike: of each task, the most like one of the others (its place among them, and the share), where it is alike."""

    alike: Mapping[int, tuple[int, float]]
    n: int

    @property
    def share(self) -> float:
        """Of tasks that have one like them."""
        return len(self.alike) / self.n if self.n else 0.0


def alike(tasks: Sequence[Task], others: Sequence[Task] | None = None) -> Likeness:
    """Which of `tasks` have one nearly the same among `others`; without those, among the rest of them."""
    sides = [tasks] if others is None else [tasks, others]
    sets = _telling([[words(task) for task in side] for side in sides])
    known = sorted(set().union(*(one for side in sets for one in side)))
    place = {word: n for n, word in enumerate(known)}
    matrices = [_matrix(side, place) for side in sets]
    counts = [matrix.sum(axis=0) for matrix in matrices]
    total = sum(len(side) for side in sides)
    with np.errstate(divide="ignore"):
        idf = [np.log2(max(len(side), 1) / count) for side, count in zip(sides, counts, strict=True)]
    bits = np.minimum.reduce(idf)  # what all tasks of one side have says nothing
    unique = np.sum(counts, axis=0) == 1
    bits[unique] = np.log2(total)
    mine, theirs = matrices[0], matrices[-1]
    least = 2 * np.log2(max(total, 2)) + _SPARE_BITS
    known_to_few = np.sum(counts, axis=0) <= _FEW
    form = np.array([word.startswith(_ORDER) for word in known])
    of_few = bits * known_to_few / _together(matrices, form)
    shared = (mine * of_few) @ theirs.T
    free = [np.minimum((matrix * unique).sum(axis=1), 1) * np.log2(total) for matrix in (mine, theirs)]
    sums = [(matrix * of_few).sum(axis=1) for matrix in (mine, theirs)]
    union = (sums[0] - free[0])[:, None] + (sums[1] - free[1])[None, :] - shared
    likeness = np.where(shared >= least, shared / np.maximum(union, 1e-9), 0.0)
    likeness[_one_apart(mine, theirs, unique) & ((mine * bits) @ theirs.T >= least)] = 1.0
    if others is None:
        np.fill_diagonal(likeness, 0.0)
    if not likeness.size:
        return Likeness({}, len(tasks))
    best = likeness.argmax(axis=1)
    found = {n: (int(at), float(likeness[n, at])) for n, at in enumerate(best) if likeness[n, at] >= ALIKE}
    return Likeness(found, len(tasks))


def _together(matrices: Sequence[NDArray[np.float32]], form: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each word, how many stand in exactly the tasks that it stands in, where these are three or more; else 1.

    form: which are pairs and lines of prompts; they overlap, so that of them two tasks are enough.
    """
    columns = np.packbits(np.concatenate(matrices).astype(bool), axis=0)
    _, group, sizes = np.unique(columns, axis=1, return_inverse=True, return_counts=True)
    found = sizes[group.reshape(-1)].astype(np.float64)
    tasks = np.sum([matrix.sum(axis=0) for matrix in matrices], axis=0)
    found[tasks < np.where(form, 2, _KIND)] = 1.0
    return found


def _one_apart(mine: NDArray[np.float32], theirs: NDArray[np.float32], unique: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pairs differ in one unique word each at most."""
    rest = [matrix * ~unique for matrix in (mine, theirs)]
    few = [(matrix * unique).sum(axis=1) <= 1 for matrix in (mine, theirs)]
    common = rest[0] @ rest[1].T
    same = (common == rest[0].sum(axis=1)[:, None]) & (common == rest[1].sum(axis=1)[None, :])
    apart: NDArray[np.bool_] = same & few[0][:, None] & few[1][None, :]
    return apart


def _telling(sides: list[list[set[str]]]) -> list[list[set[str]]]:
    """Without pairs and lines that have a word in them which few tasks have: they say no more than that word."""
    counts = Counter(word for side in sides for one in side for word in one)

    def more(word: str) -> bool:
        return " " not in word or all(counts[part] > _FEW for part in _WORD.findall(word))

    return [[{word for word in one if more(word)} for one in side] for side in sides]


def _matrix(sets: Iterable[set[str]], place: Mapping[str, int]) -> NDArray[np.float32]:
    rows = list(sets)
    matrix = np.zeros((len(rows), len(place)), dtype=np.float32)
    for n, one in enumerate(rows):
        matrix[n, [place[word] for word in one]] = 1.0
    return matrix


def vendi(tasks: Sequence[Task]) -> tuple[float, float]:
    """How many different tasks there are in effect, and what share of a task's words is not in nearly every task.

    The Vendi score (Friedman and Dieng 2023) with the cosine of sets as kernel; the geometric mean of that of words,
    and of that of words, pairs and lines. Single numbers do not count.
    """
    plain = [_topics(task, order=False) for task in tasks]
    varying = _varying(plain)
    share = float(np.mean([len(few) / len(all_) if all_ else 0.0 for few, all_ in zip(varying, plain, strict=True)]))
    ordered = _varying([_topics(task, order=True) for task in tasks])
    return float(np.sqrt(_score(varying) * _score(ordered))), share


def _varying(sets: Sequence[set[str]]) -> list[set[str]]:
    """Without what nearly all have."""
    counts = Counter(word for one in sets for word in one)
    return [{word for word in one if counts[word] <= 0.9 * len(sets)} for one in sets]


def _score(sets: Sequence[set[str]]) -> float:
    known = {word: n for n, word in enumerate(sorted(set().union(*sets)))}
    if not known:
        return 1.0
    matrix = _matrix(sets, known)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix = matrix / np.maximum(norms, 1e-9)
    kernel = matrix @ matrix.T
    empty = norms[:, 0] == 0
    kernel[np.ix_(empty, empty)] = 1.0  # who say nothing of their own are all the same
    values = np.linalg.eigvalsh(kernel.astype(np.float64) / len(sets))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def shown(task: Task, most: int = 200) -> str:
    """A task in a line."""
    return f"{task.id} {' '.join(task.prompt.split())[:most]!r}"
