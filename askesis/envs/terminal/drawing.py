"""What a template draws, and the ways in which it can be checked: plain data, all of it JSON."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

FileContent = str | dict[str, Any]
"""Text, or `{"gz": text}`, or `{"tar": {member: text}}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A task before it is one. files: the tree by path. check: of `answer`, `tree` or `service`. solution: commands.

    The last command of a task with an answer prints it.
    """

    prompt: str
    files: Mapping[str, FileContent]
    check: Mapping[str, Any]
    solution: Sequence[str]
    limits: Mapping[str, Any] = field(default_factory=dict)


Template = Callable[[random.Random, int], Drawn]


def answer(*want: object, paths: bool = False) -> dict[str, Any]:
    """These values, in this order, with commas between. paths: they are that, and may begin with `./`."""
    return {"kind": "answer", "want": [str(value) for value in want], "paths": paths}


def tree(
    before: Mapping[str, FileContent],
    after: Mapping[str, str],
    *,
    modes: Mapping[str, int] | None = None,
    links: Mapping[str, str] | None = None,
    archives: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """All of `after` is there with this content, and of `before` nothing else; new files beside them do not matter.

    modes: permissions, of paths of `after`. links: symlinks and where they lead. archives: tar files (packed by gzip or
    not) and the content of every file in them.
    """
    return {
        "kind": "tree",
        "files": {path: digest(text.encode()) for path, text in after.items()},
        "gone": sorted(set(before) - set(after) - set(archives or {})),
        "modes": {path: f"{mode:o}" for path, mode in (modes or {}).items()},
        "links": dict(links or {}),
        "archives": {
            path: {name: digest(text.encode()) for name, text in inside.items()}
            for path, inside in (archives or {}).items()
        },
    }


def service(
    *,
    start: Sequence[str],
    port: int,
    protocol: str,
    exchanges: Sequence[tuple[str, str]],
    replaced: Mapping[str, str],
) -> dict[str, Any]:
    """A program that answers on a port of 127.0.0.1. exchanges: what is asked and what must come back.

    protocol: `line` (a line for a line over TCP) or `http` (a path; back comes the status, a space, and the body as
    JSON with sorted keys). replaced: files that are put into the tree before it is started, which no agent has seen.
    """
    return {
        "kind": "service",
        "start": list(start),
        "port": port,
        "protocol": protocol,
        "queries": [query for query, _ in exchanges],
        "want": [want for _, want in exchanges],
        "replaced": dict(replaced),
    }


def digest(data: bytes) -> str:
    """Of a content; newlines at its end do not matter. The programs that examine a tree do the same."""
    return hashlib.sha256(data.rstrip(b"\n")).hexdigest()


# -- what tasks are made of ------------------------------------------------------------------------------------------

WORDS = (
    "amber basil cedar delta ember fjord grove haven inlet jetty kiosk ledge maple north olive pearl quill ridge "
    "slate thorn umber vault willow yarrow zephyr anchor beacon canyon domain engine fabric garden harbor island"
).split()
NAMES = "anna boris clara david elena felix greta henry irene jonas karla louis maria nadia oscar paula".split()
COMPONENTS = "auth cache cart db mail queue search worker".split()
PATHS = "/ /cart /login /logout /search /items /orders /help /api/users /api/stock".split()
STATUSES = (200, 200, 200, 200, 201, 301, 304, 400, 403, 404, 404, 500, 502, 503)
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE")


def words(rng: random.Random, count: int) -> list[str]:
    """Different words."""
    return rng.sample(WORDS, count)


def sizes(level: int, small: int, medium: int, large: int) -> int:
    """What a level has of something."""
    return (small, medium, large)[level - 1]


def times(rng: random.Random, count: int, *, most_s: int) -> list[datetime]:
    """Rising times of one morning, up to `most_s` seconds apart, no two the same."""
    now = datetime(2026, rng.randint(1, 12), rng.randint(1, 28), rng.randint(5, 9), rng.randint(0, 59), 0)
    found = []
    for _ in range(count):
        now += timedelta(seconds=rng.randint(1, most_s))
        found.append(now)
    return found


def text(lines: Sequence[object]) -> str:
    """Lines as the content of a file."""
    return "".join(f"{line}\n" for line in lines)


def prose(rng: random.Random, lines: int) -> str:
    """Some lines of words."""
    return text([" ".join(words(rng, rng.randint(3, 7))) for _ in range(lines)])


def quoted(value: str) -> str:
    """For a shell; the names drawn here have no quotes in them."""
    return f"'{value}'"
