"""What an episode submits, and the same episode with something else in its place.

The oracle's episode is taken as it was played; the text that decides it is the one that is exchanged: what the
submitting call says, or, where that says nothing or nonsense does as well, the last text that a call before it carried;
in a task without tools the last message itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from askesis.audit.ground import Actor, Ground, Recited, said, submits
from askesis.audit.probe import Inconclusive, Skipped
from askesis.audit.texts import equivalent
from askesis.audit.twins import expected
from askesis.envs.policies import emptiest
from askesis.types import Message, Task, Text, ToolCall, Trace, assistant

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """A successful episode's messages, and where in them the deciding text stands.

    at: index of the message. path: into the arguments of its last call; None for the message's own text. final: whether
    the text is what is submitted itself, and not something that was done before.
    """

    task: Task
    messages: tuple[Message, ...]
    at: int
    path: Path | None
    final: bool

    @property
    def value(self) -> Any:
        """What stands there."""
        message = self.messages[self.at]
        return message.text if self.path is None else _reached(message.tool_calls[-1].arguments, self.path)

    @property
    def text(self) -> str:
        """The same as a text."""
        return str(self.value)

    @property
    def slot(self) -> tuple[str, ...]:
        """Which of the texts of a call it is, whatever its place in a list."""
        return _slot(self.path or ())

    @property
    def nonsense(self) -> Any:
        """What is surely wrong there."""
        return _NONSENSE if isinstance(self.value, str) else _NO_NUMBER

    def saying(self, text: str) -> list[Message]:
        """The same messages with another text there: as a number, where one stood and it is one."""
        return self.putting(text if self.path is None else _alike(self.value, text))

    def putting(self, value: Any, *, everywhere: bool = False) -> list[Message]:
        """The same messages with any value there; in a message's own text, as it would be written.

        everywhere: in all places of its slot, where that is in a list.
        """
        message = self.messages[self.at]
        if self.path is None:
            text = value if isinstance(value, str) else json.dumps(value)
            changed = replace(message, parts=(Text(text=text),))
        else:
            call = message.tool_calls[-1]
            arguments = call.arguments
            for path in _texts(call) if everywhere else [self.path]:
                if path == self.path or _slot(path) == self.slot:
                    arguments = _replaced(arguments, path, value)
            changed = replace(message, tool_calls=(*message.tool_calls[:-1], replace(call, arguments=arguments)))
        return [*self.messages[: self.at], changed, *self.messages[self.at + 1 :]]


_CANDIDATES, _SLOTS = 3, 4  # texts of an episode that are looked at, from its end; of its submission
_NONSENSE, _NO_NUMBER = "zzqx", 987654321


def candidates(trace: Trace) -> list[Submission]:
    """The last texts of a successful episode that may decide it, the last one first."""
    messages = tuple(said(trace))
    last, found = len(messages) - 1, []
    for at in range(last, -1, -1):
        if messages[at].tool_calls:
            paths = _texts(messages[at].tool_calls[-1])
            found += [Submission(trace.task, messages, at, path, at == last) for path in reversed(paths)]
        elif at == last and messages[at].text.strip():
            found.append(Submission(trace.task, messages, at, None, True))
    return found[:_CANDIDATES]


async def _tested(ground: Ground, found: Sequence[Submission]) -> list[tuple[Submission, bool]]:
    """Each with whether nonsense in its place is not paid; what the schema lets nobody change counts. Fewer where the
    time is up."""
    played = await ground.play_all([(one.task, _recited(one.putting(one.nonsense))) for one in found])
    return [(one, refused(trace) or not trace.success) for one, trace in zip(found, played, strict=False)]


async def _held(ground: Ground, found: Sequence[Submission]) -> list[Submission]:
    """Those whose episodes succeed again when they are recited; each episode is recited once an audit."""
    known: dict[str, bool] = ground.kept.setdefault("held", {})
    new = {one.task.id: one for one in found if one.task.id not in known}
    scripts = {task: one.messages for task, one in new.items()}
    for trace in await ground.play_each(reciting(scripts), tasks_of(list(new.values()))):
        known[trace.task.id] = trace.success
    return [one for one in found if known.get(one.task.id)]


def _some(nothing: str, kept: list[Submission], golden: int, with_text: int) -> list[Submission]:
    """Those that there are. Raises `Skipped`, which says `nothing`, and `Inconclusive`."""
    if not with_text:
        raise Skipped(nothing)
    if not kept:
        raise Inconclusive(f"none of {golden} successful episodes succeeds again when it is played as it was")
    return kept


async def _deciding(ground: Ground, golden: Sequence[Trace]) -> list[Submission]:
    """Of each episode the last text in whose place nonsense is not paid."""
    if "deciding" not in ground.kept:
        left = [found for found in map(candidates, golden) if found]
        kept: dict[str, Submission] = {}
        while left:
            kept |= {one.task.id: one for one, firm in await _tested(ground, [found[0] for found in left]) if firm}
            left = [found[1:] for found in left if found[0].task.id not in kept and found[1:]]
        ground.kept["deciding"] = [kept[trace.task.id] for trace in golden if trace.task.id in kept]
    known: list[Submission] = ground.kept["deciding"]
    return known


async def submissions(ground: Ground, *, final: bool = False) -> list[Submission]:
    """Of the oracle's successful episodes, those that succeed again when they are recited.

    final: only where the text is what is submitted. Raises `Skipped`, `Inconclusive`.
    """
    if "submissions" not in ground.kept:
        golden = await ground.golden()
        found = await _deciding(ground, golden)
        ground.kept["submissions"] = await _held(ground, found), len(golden), len(found)
    kept = _some("no text decides an episode: there is nothing to change", *ground.kept["submissions"])
    chosen = [one for one in kept if one.final or not final]
    if not chosen:
        raise Skipped("what is submitted is no text")
    return chosen


async def answers(ground: Ground) -> list[Submission]:
    """Every text of what is submitted that should decide: nonsense in its place is not paid, or the task's data name it
    as what is expected and nothing that was done before decides. Several a task where a call has several, of those in
    one list the first.

    Raises as `submissions`."""
    if "answers" not in ground.kept:
        golden = await ground.golden()
        tested = await _tested(ground, [one for trace in golden for one in submitted(trace)])
        before = {one.task.id for one in await _deciding(ground, golden) if not one.final}
        found = [one for one, firm in tested if firm or (one.task.id not in before and _is_expected(one))]
        ground.kept["answers"] = await _held(ground, found), len(golden), len(found)
    return _some("what is submitted is no text, or decides nothing", *ground.kept["answers"])


def submitted(trace: Trace) -> list[Submission]:
    """The texts of the last message, or of its last call."""
    messages = tuple(said(trace))
    last = len(messages) - 1
    if not messages or not messages[last].tool_calls:
        return [Submission(trace.task, messages, last, None, True)] if messages and messages[last].text.strip() else []
    slots: dict[tuple[str, ...], Submission] = {}
    for path in _texts(messages[last].tool_calls[-1]):
        one = Submission(trace.task, messages, last, path, True)
        slots.setdefault(one.slot, one)
    return list(slots.values())[:_SLOTS]


def _is_expected(one: Submission) -> bool:
    return any(equivalent(str(value), one.text) for value in expected(one.task))


def tasks_of(found: Sequence[Submission]) -> list[Task]:
    """Their tasks."""
    return [one.task for one in found]


def reciting(scripts: Mapping[str, Sequence[Message]]) -> Actor:
    """An actor that says, on each task, the messages given for it."""
    return lambda task, specs: Recited(scripts.get(task.id, ()))


async def played_with(ground: Ground, found: Sequence[Submission], change: Callable[[Submission], str]) -> list[Trace]:
    """Each submission's episode with a changed text."""
    scripts = {one.task.id: one.saying(change(one)) for one in found}
    return await ground.play_each(reciting(scripts), tasks_of(found))


async def openings(ground: Ground, *, final: bool = False) -> list[Submission]:
    """Where a text can be put on each task: the oracle's submissions or, where there is no oracle, a call that submits
    with as little in it as its schema allows, or a message. final, errors: as of `submissions`."""
    if getattr(ground.env, "oracle", None) is not None:
        return await submissions(ground, final=final)
    found = []
    for task in await ground.unpaid():
        tools = await ground.tools(task)
        spec = submits(tools)
        if spec is None and not tools:
            found.append(Submission(task, (assistant("x"),), 0, None, True))
        for name, schema in (spec.parameters.get("properties", {}) if spec else {}).items():
            if spec is not None and "string" in json.dumps(schema):
                call = ToolCall(id="call_0", name=spec.name, arguments=emptiest(spec.parameters) | {name: "x"})
                found.append(Submission(task, (assistant(tool_calls=(call,)),), 0, (name,), True))
                break
    if not found:
        raise Skipped("there is no oracle, and nothing that takes a text as an answer")
    return found


@dataclass(frozen=True, slots=True)
class Tried:
    """What was put in a submission's place, and what came of it."""

    one: Submission
    put: Any
    trace: Trace


async def tried(
    ground: Ground, puts: Sequence[tuple[Submission, Any]], *, raw: bool = False, everywhere: bool = False
) -> list[Tried]:
    """Play each submission's episode with something else put in its place.

    Those that the tool's schema turns down are left out, and where that is all of them, `Skipped` is raised. raw: the
    value as it is, and not as a text that becomes a number where one stood; everywhere: then, see `putting`.
    """
    said_so = [one.putting(put, everywhere=everywhere) if raw else one.saying(put) for one, put in puts]
    pairs = [(one.task, _recited(script)) for (one, _), script in zip(puts, said_so, strict=True)]
    played = [Tried(one, put, trace) for (one, put), trace in zip(puts, await ground.play_all(pairs), strict=False)]
    taken = [done for done in played if not refused(done.trace)]
    if played and not taken:
        raise Skipped("the schema of what submits takes none of what was to be put there")
    return taken


def _recited(messages: Sequence[Message]) -> Actor:
    return lambda task, specs: Recited(messages)


def refused(trace: Trace) -> bool:
    """Whether a call of it did not fit the schema, or was of no tool that there is."""
    return any(event.status in ("bad_arguments", "unknown_tool") for event in trace.tool_events)


def _texts(call: ToolCall) -> list[Path]:
    """Where the arguments hold numbers or texts that are not empty, in their order."""
    found: list[Path] = []

    def look(value: Any, path: Path) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number or (isinstance(value, str) and value.strip()):
            found.append(path)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                look(inner, (*path, key))
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                look(inner, (*path, place))

    look(call.arguments, ())
    return found


def _slot(path: Path) -> tuple[str, ...]:
    return tuple(step for step in path if isinstance(step, str))


def _alike(old: Any, text: str) -> Any:
    """`text` as a number where one stood, as far as it is one."""
    if isinstance(old, int | float) and not isinstance(old, bool):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return text


def _reached(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _replaced(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        return [_replaced(inner, rest, new) if place == step else inner for place, inner in enumerate(value)]
    return {key: _replaced(inner, rest, new) if key == step else inner for key, inner in value.items()}
