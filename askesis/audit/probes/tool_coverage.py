"""Which tools and kinds of arguments are used, and whether there are tools that nobody can use."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.audit.recordings import Made, Wanderer, calls, recordings
from askesis.envs.policies import emptiest
from askesis.types import Message, Policy, Thinking, ToolCall, ToolSpec, assistant

_LEAST = 6  # calls, before a tool counts as one that cannot be used
_TASKS = 4  # on which the others are tried
_WORDS = 60  # that are tried as an argument
REFUSES = re.compile(
    r"not (?:yet )?(?:implemented|supported|available|found)|unsupported|unavailable|unknown|invalid|error|exception|"
    r"traceback|no such|fail(?:ed|ure)|cannot|can't|refused|denied|forbidden|disabled|deprecated",
    re.IGNORECASE,
)


async def run(ground: Ground) -> Sighting:
    """Sort all calls of the oracle and of a random policy by tool; try again those tools that were seldom used."""
    made: dict[str, list[Made]] = defaultdict(list)
    for one in await recordings(ground):
        for call in calls(one.trace):
            made[call.name].append(call)
    specs = {spec.name: spec for task in ground.tasks[:_TASKS] for spec in await ground.tools(task)}
    if not specs:
        raise Skipped("it has no tools")
    oracles = {call.name for one in await recordings(ground) if one.by == "the oracle" for call in calls(one.trace)}
    for name, spec in specs.items():
        if all(map(refused, made[name])):
            made[name] += await _tried(ground, spec)
    seen = Tally()
    for name in specs:
        tried = made[name]
        useless = len(tried) >= _LEAST and all(map(refused, tried))
        last = tried[-1].text if tried else ""
        seen.add(useless, f"{name}: each of {len(tried)} calls was refused, for example with {last!r}")
    classes = {f"{name}.{kind}" for name, tried in made.items() for call in tried for kind in _classes(call.arguments)}
    unused = [name for name in specs if name not in oracles]
    note = (
        f"{len(specs)} tools, {len(classes)} kinds of arguments; the oracle never calls {', '.join(unused) or 'none'}"
    )
    return seen.sighting(note=note if oracles else f"{len(specs)} tools, {len(classes)} kinds of arguments")


async def _tried(ground: Ground, spec: ToolSpec) -> list[Made]:
    """Calls of one tool: at first random ones, then, where the oracle stands before its last turn, with what it has
    heard of by then (a place, a document, a name)."""
    found: list[Made] = []
    for task in ground.tasks[:_TASKS]:
        trace = await ground.play(task, lambda task, specs: Wanderer([spec], seed=1, calls=_LEAST))
        found += calls(trace)
    for one in [one for one in await recordings(ground) if one.by == "the oracle"][:2]:
        if not all(map(refused, found)):
            break
        roomy = replace(one.task, limits=replace(one.task.limits, max_turns=len(one.messages) + _WORDS))
        trace = await ground.play(roomy, lambda task, specs, one=one: _Informed(one.messages[:-1], spec))  # type: ignore[misc]
        found += [call for call in calls(trace)[len(one.messages) - 1 :] if call.name == spec.name]
    return found


class _Informed(Policy):
    """Says what the oracle said, and then calls one tool with each word that it has heard as its first argument."""

    def __init__(self, messages: Sequence[Message], spec: ToolSpec) -> None:
        self._before, self._spec = list(messages), spec
        self._words: list[str] | None = None

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message."""
        if self._before:
            return self._before.pop(0)
        if self._words is None:
            heard = [message.text for message in messages if message.role in ("user", "tool")]
            words = [word for text in reversed(heard) for word in re.findall(r"[\w./#:@-]*\w", text)]
            self._words = list(dict.fromkeys(words))[:_WORDS]
        arguments = emptiest(self._spec.parameters)
        texts = [name for name, value in arguments.items() if isinstance(value, str)]
        if not self._words or not texts:
            return assistant()
        arguments[texts[0]] = self._words.pop(0)
        return assistant(tool_calls=(ToolCall(id="call_0", name=self._spec.name, arguments=arguments),))


def refused(call: Made) -> bool:
    """Whether it came to nothing."""
    return call.status != "ok" or call.text is None or bool(REFUSES.search(call.text[:400]))


def _classes(arguments: Mapping[str, Any]) -> set[str]:
    """The kind of each argument: what a tester would have one case of."""
    return {f"{name}:{_class(value)}" for name, value in arguments.items()} or {"no arguments"}


def _class(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return "negative" if value < 0 else "zero" if value == 0 else "small" if value < 100 else "large"
    if isinstance(value, str):
        return "empty" if not value.strip() else "number" if value.isdigit() else "long" if len(value) > 40 else "short"
    return f"{type(value).__name__} of {min(len(value), 2)}"


PROBE = Probe(
    name="tool-coverage",
    axis="coverage",
    flaw="useless tools",
    severity="low",
    about="each tool can be used by somebody",
    run=run,
    seconds=2.5,
)
