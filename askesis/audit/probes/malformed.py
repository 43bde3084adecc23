"""Whether an unusual argument ends an episode as nobody's fault, or is paid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from askesis.audit.ground import Ground, Recited, submits
from askesis.audit.probe import Probe, Severity, Sighting, Skipped, Tally
from askesis.audit.submission import openings, tried
from askesis.envs.policies import emptiest, legal
from askesis.types import Outcome, Task, ToolCall, ToolSpec, Trace, assistant

LARGE = 20_000  # characters of the longest text; the tokenizer takes seconds for much longer ones
RESTARTS = 4  # of one tool's calls, after one of them has ended the episode
MOST = 60  # submissions


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


TEXTS: tuple[str, ...] = (
    *("a\0b", "", "../" * 40 + "zzqx/none", "/", "\u202e\U0001f600\u0000", "%s%n{0}{x}", "[" * 4000, "-"),
    *("9" * 5000, "1e999", "nan", "{" * 3000, "\\", "'\"`$(", "(" * 300, "x" * LARGE),
)
VALUES: tuple[Any, ...] = (
    *(-1, 0, 10**30, -(10**30), 1e308, 2**63, True, None),
    *(nested(300), [0] * 5000, [{}], {}, {"": {"": nested(100)}}, [None, 1, "x"]),
)


def odd_calls(spec: ToolSpec) -> Iterator[ToolCall]:
    """Calls that fit the schema, with one odd argument each, the others as empty as can be."""
    base = emptiest(spec.parameters)
    if legal(spec.parameters, base | {"zzqx": 1}):  # an argument that it does not have
        yield ToolCall(id="call_0", name=spec.name, arguments=base | {"zzqx": 1})
    for name in spec.parameters.get("properties", {}):
        for value in (*TEXTS, *VALUES):
            arguments = base | {name: value}
            if legal(spec.parameters, arguments):
                yield ToolCall(id="call_0", name=spec.name, arguments=arguments)


def broke(outcome: Outcome) -> bool:
    """Whether the environment, or what it stands on, failed."""
    return outcome.by in ("environment", "tool", "sandbox", "verifier")


def shown(value: Any) -> str:
    """As evidence."""
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:60]}... ({len(text)} characters)"


async def calls_of(ground: Ground, task: Task, spec: ToolSpec, seen: Tally) -> None:
    """All odd calls of one tool in one episode; after a failure the rest in another."""
    left: Sequence[ToolCall] = list(odd_calls(spec))
    for _ in range(RESTARTS):
        if not left or ground.left_s <= 0:
            return
        batch = assistant(tool_calls=tuple(left))
        (trace,) = await ground.play_all([(task, lambda task, specs, batch=batch: Recited([batch]))])  # type: ignore[misc]
        made = min(len(left), max(1, len(trace.tool_events)))
        for place, call in enumerate(left[:made]):
            hit = place == made - 1 and broke(trace.outcome)
            seen.add(hit, _told(spec.name, call.arguments, trace), task=task.id)
        left = left[made:]


def _told(what: str, arguments: Mapping[str, Any], trace: Trace) -> str:
    outcome = trace.outcome
    ended = f"{outcome.by}, {outcome.reason}: {outcome.detail[:300]}"
    return f"{what}({shown(dict(arguments))}) ended the episode by {ended}; paid {trace.reward:g}"


async def run(ground: Ground) -> Sighting:
    """Long, deep, and odd values in every argument of every tool, as far as its schema takes them, and as an answer: an
    episode may not end by a failure of the machinery, which a policy could then bring about where it fares badly."""
    seen, paid = Tally(), 0
    task = (await ground.unpaid())[0]
    tools = await ground.tools(task)
    submit = submits(tools)
    for spec in tools:
        if spec is not submit:
            await calls_of(ground, task, spec, seen)
    try:
        found = (await openings(ground, final=True))[:8]
        puts = [(one, value) for one in found for value in (*TEXTS, *(VALUES if one.path is not None else ()))]
        order = [puts[place] for place in ground.rng("malformed").sample(range(len(puts)), min(MOST, len(puts)))]
        for done in await tried(ground, order, raw=True):
            paid += done.trace.success
            hit = done.trace.success or broke(done.trace.outcome)
            seen.add(hit, _told("submitting ", {"value": done.put}, done.trace), task=done.one.task.id)
    except Skipped:
        if not seen.n:
            raise
    severity: Severity = "high" if paid else "medium"
    return seen.sighting(severity=severity)


PROBE = Probe(
    name="malformed",
    axis="validity",
    flaw="breaks on odd input",
    severity="medium",
    about="unusual arguments that the schemas allow neither break an episode nor are paid",
    run=run,
    seconds=4.0,
)
