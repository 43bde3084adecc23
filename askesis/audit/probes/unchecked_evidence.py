"""Whether evidence that is asked for beside the answer is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from askesis.audit.ground import Ground, said, submits
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.audit.submission import Submission, submitted, tried

# an argument is evidence where its name or its description says so; a remark may say anything
_EVIDENCE = re.compile(
    r"quot|cit(e|ation)|sources?\b|reference|evidence|proof|support|document|passage|excerpt|\burls?\b|link|\bpages?\b|"
    r"\blines?\b|says so|borne out",
    re.IGNORECASE,
)
_OTHERS = 2  # tasks whose evidence is put in place of a task's own


async def run(ground: Ground) -> Sighting:
    """The oracle's submission with its answer as it is, and nonsense or other tasks' evidence beside it."""
    asked = []
    for trace in await ground.golden():
        spec = submits(await ground.tools(trace.task))
        named = {*_evidence(spec.parameters)} if spec is not None else set()
        last = [*said(trace)][-1]
        if spec is None or not last.tool_calls or last.tool_calls[-1].name != spec.name:
            continue
        found = submitted(trace)
        if any(one.slot not in named for one in found):  # what would be all evidence has nothing that it is for
            asked.append([one for one in found if one.slot in named])
    if not any(asked):
        raise Skipped("nothing is asked for beside the answer that its name or description calls evidence")
    puts = []
    for place, slots in enumerate(asked):
        others = [*asked[place + 1 :], *asked[:place]]
        puts += [(one, one.nonsense) for one in slots]
        for other in others[:_OTHERS]:
            puts += [(one, theirs.value) for one, theirs in _pairs(slots, other) if theirs.value != one.value]
    seen = Tally()
    for done in await tried(ground, puts, raw=True, everywhere=True):
        name = ".".join(done.one.slot)
        evidence = f"{name} = {done.put!r} is paid, with the right answer, where {done.one.value!r} bears it out"
        seen.add(done.trace.success, evidence, task=done.one.task.id)
    return seen.sighting()


def _pairs(slots: list[Submission], others: list[Submission]) -> Iterator[tuple[Submission, Submission]]:
    for one in slots:
        yield from ((one, other) for other in others if other.slot == one.slot)


def _evidence(schema: Mapping[str, Any], slot: tuple[str, ...] = (), named: bool = False) -> Iterator[tuple[str, ...]]:
    """The slots of a schema that are called evidence, themselves or what they are part of."""
    if slot and not schema.get("properties") and not schema.get("items") and named:
        yield slot
    for name, inner in schema.get("properties", {}).items():
        told = f"{name} {inner.get('description', '')}"
        yield from _evidence(inner, (*slot, name), named or _EVIDENCE.search(told) is not None)
    items = schema.get("items")
    if isinstance(items, Mapping):
        told = str(items.get("description", ""))
        yield from _evidence(items, slot, named or _EVIDENCE.search(told) is not None)


PROBE = Probe(
    name="unchecked-evidence",
    axis="validity",
    flaw="evidence not checked",
    severity="medium",
    about="evidence that is asked for beside the answer is looked at",
    run=run,
)
