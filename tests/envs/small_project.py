"""A project of a few functions with tests of its own, for `repair_project`; and tasks that were made of it.

`small_project.jsonl` beside this file is what `make_tasks` made of `write_project`, with `MAKING`; one of the tests
makes it again.
"""

from pathlib import Path

from askesis.envs.repair.project import Making

TASKS = Path(__file__).parent / "small_project.jsonl"
MAKING = Making(tasks=30, heldout=0.4, per_function=5, seed=3)
FILES = {
    "setup.py": "raise SystemExit('never run')\n",
    "build/lib/basket/counts.py": "# a copy of the sources, which nobody is to see\n",
    "basket/__init__.py": '"""What is in a basket."""\n\nfrom basket.counts import mean, most_common, runs\n',
    "basket/counts.py": '''"""Counting."""

import os
from collections import Counter


def mean(values, start=0):
    """The mean of some numbers, or None."""
    total, count = start, 0
    for value in values:
        total += value
        count += 1
    if count == 0:
        return None
    return total / count


def runs(text):
    """Neighbours that are the same, as pairs of what and how often."""
    found = []
    for letter in text:
        if found and found[-1][0] == letter:
            found[-1] = (letter, found[-1][1] + 1)
        else:
            found.append((letter, 1))
    return found


def most_common(words, least=2):
    """The words that come `least` times or more, the most frequent first."""
    counts = Counter(word.lower() for word in words)
    return [word for word, count in counts.most_common() if count >= least]


def windows(values, size):
    """Neighbours, `size` at a time."""
    if size < 1:
        raise ValueError("expected a size of 1 at least")
    for start in range(len(values) - size + 1):
        yield tuple(values[start : start + size])


def folded(function, values, start):
    """Put a function between the values."""
    for value in values:
        start = function(start, value)
    return start


def attribute(value, name):
    """An attribute, by a name that is computed."""
    return getattr(value, name.strip())


def home():
    return os.path.basename("home")
''',
    "basket/shelf.py": '''"""Things in order."""


class Shelf:
    """Holds things, the newest last."""

    def __init__(self, room=3):
        self.room = room
        self.things = []

    def put(self, thing):
        """Put a thing there; the oldest leaves where there is no room."""
        self.things.append(thing)
        if len(self.things) > self.room:
            return self.things.pop(0)
        return None

    def find(self, thing):
        for place, found in enumerate(self.things):
            if found == thing:
                return place
        return -1


def clamp(value, low, high):
    """The nearest number from low to high."""
    if low > high:
        low, high = high, low
    if value < low:
        return low
    return high if value > high else value
''',
    "tests/test_counts.py": """import random

import pytest

from basket import mean, most_common, runs
from basket.counts import attribute, folded, home, windows


def test_mean():
    assert mean([1, 2, 3]) == 2
    assert mean([]) is None
    assert mean([4, 6]) == 5
    assert mean([1.5]) == 1.5


def test_mean_of_many():
    assert mean(range(10)) == 4.5


def test_runs():
    assert runs("aab") == [("a", 2), ("b", 1)]
    assert runs("") == []


def test_long_runs():
    assert runs("aaaabbbccd") == [("a", 4), ("b", 3), ("c", 2), ("d", 1)]


@pytest.mark.parametrize("least, want", [(1, ["b", "a"]), (2, ["b"]), (9, [])])
def test_most_common(least, want):
    assert most_common(["a", "B", "b"], least) == want


def test_windows():
    assert list(windows([1, 2, 3], 2)) == [(1, 2), (2, 3)]
    with pytest.raises(ValueError):
        list(windows([1], 0))


def test_folded():
    assert folded(lambda a, b: a + b, [1, 2, 3], 10) == 16
    assert folded(lambda a, b: a - b, [1, 2], 0) == -3
    assert folded(lambda a, b: a * b, [2, 5], 1) == 10


def test_attribute():
    assert attribute(3, " real ") == 3
    assert attribute(3, "imag") == 0


def test_home():
    assert home() == "home"


def test_that_flickers():
    assert random.random() < 0.05 and mean([1]) == 1


def test_that_fails():
    assert mean([1]) == 2
""",
    "tests/test_shelf.py": """import unittest

from basket.shelf import Shelf, clamp


class ShelfTests(unittest.TestCase):
    def test_put(self):
        shelf = Shelf(room=2)
        self.assertIsNone(shelf.put("a"))
        self.assertIsNone(shelf.put("b"))
        self.assertEqual(shelf.put("c"), "a")
        self.assertEqual(shelf.things, ["b", "c"])

    def test_find(self):
        shelf = Shelf()
        shelf.put("a")
        shelf.put("b")
        self.assertEqual(shelf.find("b"), 1)
        self.assertEqual(shelf.find("z"), -1)

    def test_one_place(self):
        shelf = Shelf(room=1)
        shelf.put("x")
        self.assertEqual(shelf.put("y"), "x")


def test_clamp():
    assert clamp(5, 1, 3) == 3
    assert clamp(0, 1, 3) == 1
    assert clamp(2, 1, 3) == 2


def test_clamp_reversed():
    assert clamp(5, 3, 1) == 3
    assert clamp(0, 3, 1) == 1
""",
}


def write_project(folder: Path) -> Path:
    """The project, in a folder that is made."""
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder
