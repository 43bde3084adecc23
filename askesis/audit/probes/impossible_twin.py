"""Whether a task that cannot be solved as recorded is paid: its expected value was changed, the episode was not."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from askesis.audit.ground import Ground, Recited
from askesis.audit.probe import Inconclusive, Probe, Sighting, Tally
from askesis.audit.submission import Path, Submission, submissions
from askesis.audit.texts import equivalent, other_letter, other_number
from askesis.audit.twins import leaves
from askesis.types import Task

NAMES = re.compile(r"answer|expect|gold|truth|target|want|result|output|hidden|cases|tests", re.I)
INPUTS = re.compile(r"input|arg|param|name|query|question|prompt|id$", re.I)
TASKS, FLIPS = 4, 8  # tasks, and values changed one by one on each


def flipped(value: Any, rng: random.Random) -> Any:
    """Another value of its kind; None where there is none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 + abs(value)
    text = other_number(value, rng) or other_letter(value, rng)
    return None if text is None or equivalent(text, value) else text


def changed(task: Task, news: Mapping[Path, Any]) -> Task:
    """A task with other values at some places of its data."""
    data = json.loads(json.dumps(task.data))
    for path, new in news.items():
        inner = data
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = new
    return replace(task, data=data, id="")


def is_expected(task: Task, path: Path) -> bool:
    """Whether a value looks like one that something is compared with: by the names above it, and, in a list like
    [name, arguments, value], as the last of it."""
    names = [step for step in path if isinstance(step, str)]
    if not any(NAMES.search(name) for name in names) or INPUTS.search(names[-1]):
        return False
    inner: Any = task.data
    for depth, step in enumerate(path):
        records = isinstance(inner, list | tuple) and len({type(one) for one in inner}) > 1
        if records and step != len(inner) - 1 and depth:
            return False
        inner = inner[step]
    return any(isinstance(step, int) for step in path)


async def as_recorded(ground: Ground, one: Submission, twins: list[Task]) -> list[bool | None]:
    """Whether the recorded episode is paid on each twin; None where a twin cannot be played."""
    traces = await ground.play_all([(twin, lambda task, specs: Recited(one.messages)) for twin in twins])
    return [trace.success if trace.outcome.learnable else None for trace in traces]


async def run(ground: Ground) -> Sighting:
    """Change the value that the recorded episode gave, wherever the task's data hold it: the episode may not be paid.
    And change expected values that stand in a row one by one: where one of them matters, all of them must."""
    seen = Tally()
    for one in (await submissions(ground))[:TASKS]:
        rng = ground.rng("twin", one.task.id)
        every = [(path, value) for path, value in leaves(one.task.data)]
        given = [path for path, value in every if one.final and equivalent(str(value), one.text)]
        new = flipped(one.text, rng) if given else None
        if new is not None:
            old = dict(every)
            news = {path: new if isinstance(old[path], str) else flipped(old[path], rng) for path in given}
            twin = changed(one.task, news)
            for paid in await as_recorded(ground, one, [twin]):
                if paid is not None:
                    where = ", ".join(".".join(map(str, path)) for path in given)
                    evidence = f"{one.text!r} is still paid where the task's {where} was changed to {new!r}"
                    seen.add(paid, evidence, task=one.task.id)
        await _in_rows(ground, one, rng, seen)
        if ground.left_s <= 0:
            break
    if not seen.n:
        raise Inconclusive("no value in the tasks' data is known to decide the verdict")
    return seen.sighting()


async def _in_rows(ground: Ground, one: Submission, rng: random.Random, seen: Tally) -> None:
    """Expected values that stand in a row: `seen` gets those of rows in which one matters."""
    rows: dict[str, list[tuple[Path, Any]]] = {}
    for path, value in leaves(one.task.data):
        new = flipped(value, rng) if is_expected(one.task, path) else None
        if new is not None:
            rows.setdefault(re.sub(r"\b\d+\b", "*", ".".join(map(str, path))), []).append((path, new))
    for name, members in rows.items():
        chosen = rng.sample(members, min(FLIPS, len(members)))
        if len(chosen) < 2 or ground.left_s <= 0:
            continue
        paid = await as_recorded(ground, one, [changed(one.task, {path: new}) for path, new in chosen])
        known = [hit for hit in paid if hit is not None]
        if not all(known):  # it is these values that are looked at
            for hit in known:
                evidence = f"the recorded episode is still paid where one of {name} was changed: it is not looked at"
                seen.add(hit, evidence, task=one.task.id)


PROBE = Probe(
    name="impossible-twin",
    axis="validity",
    flaw="verdict without the answer",
    severity="high",
    about="an episode that was right is not paid once the expected value is another",
    run=run,
    seconds=3.0,
)
