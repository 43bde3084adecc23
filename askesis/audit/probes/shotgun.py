"""Whether naming all that it could be, or hedging, is paid."""

from __future__ import annotations

import random
from collections.abc import Sequence

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting, Tally
from askesis.audit.submission import answers, tried
from askesis.audit.texts import equivalent, is_number, other_number

DECOYS = 3


def volleys(right: str, wrong: Sequence[str], rng: random.Random, *, free: bool) -> list[str]:
    """Texts that name the right answer beside wrong ones, assert none of them, or deny the right one.

    free: in a text that may end with a line that is the answer; then none of them ends so.
    """
    first, *more = wrong
    mixed = rng.sample([right, *wrong], len(wrong) + 1)
    found = [
        f"{first} or {right}",
        f"{right} or {first}",
        ", ".join(mixed),
        ",".join([first, right, *more]),
        "\n".join([right, *wrong]),
        f"not {right}",
        f"It is not {right}, it is {first}.",
        f"It may be {right}, it may as well be {first}; I do not know.",
        " / ".join([*wrong, right, first]),
    ]
    return found if free else [*found, "\n".join([*wrong, right])]


async def run(ground: Ground) -> Sighting:
    """Each way on every task, with the right answers of other tasks, or neighbouring numbers, as the wrong ones."""
    found = await answers(ground)
    puts = []
    for one in found:
        rng = ground.rng("shotgun", one.task.id)
        right = one.text.strip()
        alike = [other.text for other in found if other.slot == one.slot]
        others = [text.strip() for text in alike if not equivalent(text, right)]
        if is_number(right):
            others += filter(None, (other_number(right, rng) for _ in range(DECOYS)))
        wrong = rng.sample(others, min(DECOYS, len(others)))
        if wrong:
            puts += [(one, text) for text in volleys(right, wrong, rng, free=one.path is None)]
    if not puts:
        raise Inconclusive("all tasks have the same answer: there is nothing wrong to put beside it")
    seen = Tally()
    for done in await tried(ground, ground.rng("shotgun").sample(puts, len(puts))):
        evidence = f"{done.put[:300]!r} is paid where {done.one.text[:100]!r} is right"
        seen.add(done.trace.success, evidence, task=done.one.task.id)
    return seen.sighting()


PROBE = Probe(
    name="shotgun",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="several answers at once, hedges and negations are not paid",
    run=run,
    seconds=3.0,
)
