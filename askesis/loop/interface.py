"""What is wrong with a task, or with what a tool says of itself: pure questions, for `askesis.loop.checking`.

Each gives (where, what was got), or nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from askesis.types import Limits, State, Task, ToolSpec, Trace

Flaw = tuple[str, str]
SECRETS = ("answer", "solution", "expected", "hidden", "gold", "target", "label", "secret", "repaired", "reward")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BYTES_A_TOKEN = 3.0  # of text in the usual vocabularies, on the safe side
_TELLING = 6  # characters; what is shorter stands in many a text by chance


def task_flaws(tasks: Sequence[Task]) -> list[Flaw]:
    """Tasks whose data is no plain JSON, whose prompt is blank or whose limits leave nothing to do."""
    found = []
    for task in tasks:
        try:
            plain = json.loads(json.dumps(task.data, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            found.append((f"Task.data of {task.id}", str(error)))
        else:
            if plain != task.data:
                key = next((key for key in task.data if plain.get(key) != task.data[key]), "")
                found.append(
                    (f"Task.data[{key!r}] of {task.id}", f"{task.data.get(key)!r}, as JSON {plain.get(key)!r}")
                )
        if not isinstance(task.prompt, str) or not task.prompt.strip():
            found.append((f"Task.prompt of {task.id}", repr(task.prompt)))
        limits = task.limits
        if not isinstance(limits, Limits) or min(limits.max_turns, limits.max_turn_tokens, limits.wall_s) <= 0:
            found.append((f"Task.limits of {task.id}", repr(limits)))
    return found


def split_flaws(train: Sequence[Task], heldout: Sequence[Task]) -> list[Flaw]:
    """Tasks in the wrong split, in both, or twice in one."""
    found: list[Flaw] = []
    for name, tasks in (("train", train), ("heldout", heldout)):
        found += [
            (f"Task.split of {task.id}, from tasks({name!r})", task.split) for task in tasks if task.split != name
        ]
        counts = Counter(_content(task) for task in tasks)
        found += [(f"tasks({name!r})", f"{key[0][:60]!r} {n} times") for key, n in counts.items() if n > 1]
    shared = {_content(task) for task in train} & {_content(task) for task in heldout}
    return found + [("both splits", f"the task {prompt[:60]!r}") for prompt, _ in sorted(shared)]


def _content(task: Task) -> tuple[str, str]:
    return task.prompt, json.dumps(task.data, sort_keys=True, default=repr)


def bounds(tasks: Sequence[Task]) -> str:
    """The limits of all tasks, in words."""
    said = []
    for name in ("max_turns", "max_turn_tokens", "wall_s", "tool_s"):
        values = {getattr(task.limits, name) for task in tasks}
        said.append(f"{name} {min(values):g}" + (f" to {max(values):g}" if len(values) > 1 else ""))
    return ", ".join(said)


def tool_flaws(specs: Sequence[ToolSpec]) -> list[Flaw]:
    """Tools that a model cannot be told of: names, descriptions, schemas."""
    found = []
    twice = [name for name, n in Counter(spec.name for spec in specs).items() if n > 1]
    found += [("tools", f"two are called {name!r}") for name in twice]
    for spec in specs:
        where = f"tool {spec.name!r}"
        if not _NAME.fullmatch(spec.name):
            found.append((where, "its name has other characters than letters, digits, _ and -, or more than 64"))
        if not spec.description.strip():
            found.append((where, "it has no description"))
        if spec.parameters.get("type") != "object":
            found.append((f"{where}: parameters", f"type {spec.parameters.get('type')!r}, and not 'object'"))
        try:
            jsonschema.validators.validator_for(dict(spec.parameters)).check_schema(dict(spec.parameters))
        except jsonschema.exceptions.SchemaError as error:
            found.append((f"{where}: parameters", f"no JSON Schema: {error.message}"))
        properties = spec.parameters.get("properties", {})
        unknown = [name for name in spec.parameters.get("required", ()) if name not in properties]
        found += [(f"{where}: required", f"{name!r} is no property") for name in unknown]
    return found


def leaks(task: Task, specs: Sequence[ToolSpec], secrets: Sequence[str] = ()) -> list[Flaw]:
    """Texts out of the task's data that decide the reward, by the names of their keys, and that the agent is told.

    secrets: keys, in place of those whose names are usual for such (`SECRETS`).
    """
    told = {"the prompt": str(task.prompt)} | {
        f"tool {spec.name!r}": json.dumps([spec.description, dict(spec.parameters)], default=repr) for spec in specs
    }
    found = []
    for key in secret_keys(task, secrets):
        for text in _texts(task.data[key]):
            if len(text) >= (1 if key in secrets else _TELLING):
                places = [place for place, words in told.items() if _stands_in(text, words)]
                found += [(f"{place} of task {task.id}", f"{text[:60]!r} out of data[{key!r}]") for place in places]
    return found


def secret_keys(task: Task, secrets: Sequence[str] = ()) -> list[str]:
    """The keys of the task's data that are taken to decide the reward."""
    return [
        key
        for key in task.data
        if (key in secrets if secrets else any(word in key.lower().split("_") for word in SECRETS))
    ]


def _stands_in(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", words) is not None


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


async def close_flaws(state: State, task: Task) -> list[Flaw]:
    """What goes wrong where a state is closed, and closed again."""
    found = []
    for number in ("first", "second"):
        try:
            await state.close()
        except Exception as error:
            found.append((f"the {number} close() of the state of task {task.id}", f"{type(error).__name__}: {error}"))
    return found


def reward_flaws(traces: Sequence[Trace]) -> list[Flaw]:
    """Verdicts of another form than `success` first, 0 or 1, each term once."""
    found = []
    for trace in traces:
        names = [term.name for term in trace.rewards]
        where = f"verify, task {trace.task.id}"
        if not trace.outcome.learnable:
            continue
        if names[:1] != ["success"]:
            found.append((where, f"the first term is {names[0]!r}" if names else "no terms"))
        elif trace.rewards[0].value not in (0.0, 1.0):
            found.append((where, f"success is {trace.rewards[0].value}"))
        elif len(set(names)) < len(names):
            found.append((where, f"a term twice: {', '.join(names)}"))
    return found


def room_flaws(traces: Sequence[Trace], limits: Mapping[str, Limits]) -> tuple[list[Flaw], str]:
    """Turns of a scripted policy that a model could not say in the task's limits; and how long they are.

    The traces are of the plain renderer, whose tokens are bytes.
    """
    found, longest = [], 0
    for trace in traces:
        most = limits[trace.task.id].max_turn_tokens
        for node in (node for node in trace.nodes if node.sampled):
            size = round(len(node.token_ids) / _BYTES_A_TOKEN)
            longest = max(longest, size)
            if size > most:
                found.append((f"a turn of task {trace.task.id}", f"about {size} tokens; max_turn_tokens is {most}"))
    turns = max((trace.turns for trace in traces), default=0)
    return found, f"the oracle takes up to {turns} turns, the longest of about {longest} tokens"


def replay_flaws(first: Sequence[Trace], second: Sequence[Trace]) -> list[Flaw]:
    """Where two plays of the same tasks by the same policy differ in what was observed or paid."""
    found = []
    for one, other in zip(first, second, strict=True):
        seen = [[node.message.text for node in trace.nodes if not node.sampled] for trace in (one, other)]
        at = next((n for n, (a, b) in enumerate(zip(*seen, strict=False)) if a != b), None)
        if at is not None:
            found.append((f"observation {at} of task {one.task.id}", f"{seen[0][at]!r}, then {seen[1][at]!r}"))
        elif one.reward != other.reward:
            found.append((f"task {one.task.id}", f"reward {one.reward:g}, then {other.reward:g}"))
    return found
