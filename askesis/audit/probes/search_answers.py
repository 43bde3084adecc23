"""A search over wrong answers for one that is paid: where nobody has thought of the hole."""

from __future__ import annotations

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Severity, Sighting, Skipped, Tally
from askesis.audit.probes.near_miss import MAYBE, MOSTLY
from askesis.audit.submission import Submission, answers, tried
from askesis.audit.texts import CHANGES, equivalent, many_parts

TRIALS, BATCH = 192, 16


async def run(ground: Ground) -> Sighting:
    """Change right answers step by step: what is wrong by now and paid is a hit, and is changed further."""
    found = await answers(ground)
    rng = ground.rng("search answers")
    pools = {(one.task.id, one.slot): [one.text] for one in found}
    known: set[tuple[str, tuple[str, ...], str]] = set()
    seen, worst, long = Tally(), Tally(), Tally()
    shortest: tuple[Submission, str] | None = None
    for _ in range(TRIALS // BATCH):
        puts: list[tuple[Submission, str]] = []
        for _ in range(20 * BATCH):
            one = rng.choice(found)
            text: str | None = rng.choice(pools[one.task.id, one.slot])
            for _ in range(rng.choice((1, 1, 2))):
                text = rng.choice(CHANGES)(text, rng) if text else None
            if (
                text
                and (one.task.id, one.slot, text) not in known
                and len(text) < 400
                and not equivalent(text, one.text)
            ):
                known.add((one.task.id, one.slot, text))
                puts.append((one, text))
            if len(puts) == BATCH:
                break
        for done in await tried(ground, puts):
            seen.add(done.trace.success, task=done.one.task.id)
            if many_parts(done.one.text):
                long.add(done.trace.success)
            if done.trace.success:
                pools[done.one.task.id, done.one.slot].append(done.put)
                same_words = sorted(done.put.casefold().split()) == sorted(done.one.text.casefold().split())
                worst.add(not same_words)
                if shortest is None or len(done.put) < len(shortest[1]):
                    shortest = done.one, done.put
        if ground.left_s <= 0 or not puts:
            break
    if not seen.n:
        raise Skipped("no submitted text could be changed into a wrong one")
    if shortest is not None:
        seen.evidence = f"{shortest[1]!r} is paid where {shortest[0].text!r} is right"
    if seen.hits and seen.hits == long.hits < MOSTLY * long.n:
        return seen.sighting(severity="info", note=MAYBE)
    severity: Severity = "low" if not worst.hits else "high" if seen.hits >= 0.05 * seen.n else "medium"
    return seen.sighting(
        severity=severity, note="" if worst.hits or not seen.hits else "the same words, in other order"
    )


PROBE = Probe(
    name="search-answers",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="no wrong answer is paid that a search over changes of right ones comes to",
    run=run,
    seconds=5.0,
)
