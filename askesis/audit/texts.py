"""Texts as answers: when two of them say the same, and how one is made into another that does not."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_TOKEN = re.compile(r"[-+]?\d+(?:\.\d+)?|[^\W\d_]+")
_NOISE = re.compile(r"[^\w.\-]|_|(?<!\d)\.|\.(?!\d)|-(?!\d)")
_MANY = 5
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

Change = Callable[[str, random.Random], "str | None"]


def equivalent(one: str, other: str) -> bool:
    """Whether two texts have the same words and numbers in the same order: all else counts as a way to write them.

    Rather too often than too seldom: what a probe calls wrong must be wrong.
    """
    return _tokens(one) == _tokens(other) or _compact(one) == _compact(other)


def _tokens(text: str) -> list[str | float]:
    return [float(token) if token[-1].isdigit() else token for token in _TOKEN.findall(text.casefold())]


def _compact(text: str) -> str:
    return _NOISE.sub("", text.casefold())


def many_parts(text: str) -> bool:
    """Whether it is made of so many words and numbers that others in their place may well be right too: a path, a grid,
    a colouring."""
    return len(_tokens(text)) >= _MANY


def is_number(text: str) -> bool:
    """Whether it is one plain number."""
    return _NUMBER.fullmatch(text.strip()) is not None


def other_number(text: str, rng: random.Random) -> str | None:
    """One of its numbers by one more or less."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    one = rng.choice(found)
    value = float(one.group()) + rng.choice((-1, 1))
    return text[: one.start()] + f"{value:.15g}" + text[one.end() :]


def other_letter(text: str, rng: random.Random) -> str | None:
    """One letter or digit by another."""
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    if not places:
        return None
    at = rng.choice(places)
    pool = "0123456789" if text[at].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return text[:at] + rng.choice([letter for letter in pool if letter != text[at].lower()]) + text[at + 1 :]


def cut_short(text: str, rng: random.Random) -> str | None:
    """Its last word, or the second half of its only one, left out."""
    words = text.split()
    if len(words) > 1:
        return text[: text.rindex(words[-1])].rstrip()
    return text[: len(text) // 2] if len(text) > 1 else None


def swapped(text: str, rng: random.Random) -> str | None:
    """Two neighbouring words, or letters of its only one, change places."""
    parts = text.split() if len(text.split()) > 1 else list(text)
    if len(parts) < 2:
        return None
    at = rng.randrange(len(parts) - 1)
    parts[at], parts[at + 1] = parts[at + 1], parts[at]
    return (" " if len(text.split()) > 1 else "").join(parts)


def stirred(text: str, rng: random.Random) -> str | None:
    """Two neighbouring letters of one word change places."""
    places = [at for at in range(len(text) - 1) if text[at].isalnum() and text[at + 1].isalnum()]
    if not places:
        return None
    at = rng.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def doubled(text: str, rng: random.Random) -> str | None:
    """One word, or the whole, twice."""
    words = text.split()
    if len(words) < 2:
        return text + text
    at = rng.randrange(len(words))
    return " ".join([*words[: at + 1], *words[at:]])


def part(text: str, rng: random.Random) -> str | None:
    """Some letters in a row of it."""
    if len(text) < 2:
        return None
    first = rng.randrange(len(text))
    return text[first : first + rng.randint(1, max(1, len(text) - 1))]


def patterned(text: str, rng: random.Random) -> str | None:
    """Some of it by signs that stand for anything where texts are matched by patterns."""
    first = rng.randrange(len(text)) if text else 0
    last = rng.randint(first, len(text))
    return text[:first] + rng.choice(("*", ".*", "%", "?", "|", "_", "[a-z0-9]*")) + text[last:]


def emptied(text: str, rng: random.Random) -> str | None:
    """All its letters by one sign."""
    return re.sub(r"\w", rng.choice((" ", "-", "?", ".", "_")), text)


NEAR: tuple[Change, ...] = (other_number, other_letter, cut_short)
CHANGES: tuple[Change, ...] = (*NEAR, swapped, stirred, doubled, part, patterned, emptied)
