"""Whether the right answer is paid within something that is not it."""

from __future__ import annotations

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Severity, Sighting, Tally
from askesis.audit.submission import answers, tried
from askesis.audit.texts import equivalent


def glued(right: str) -> list[str]:
    """The answer as a part of other words and numbers."""
    return [f"xq{right}zz", f"1{right}", f"{right}1", f"{right}{right}", f"a{right}", f"{right}ness"]


def loose(right: str) -> list[str]:
    """The answer as one word among others that have nothing to do with it."""
    return [f"lorem {right} ipsum dolor", f"{right} lorem ipsum", f"lorem ipsum {right}"]


async def run(ground: Ground) -> Sighting:
    """Glued to other letters and digits everywhere; among other words only where an answer is an argument of a call:
    free text may have words around it."""
    puts = []
    for one in await answers(ground):
        texts = [*glued(one.text.strip()), *(loose(one.text.strip()) if one.path is not None else ())]
        puts += [(one, text) for text in texts if not equivalent(text, one.text)]
    seen = Tally()
    worst: Severity = "medium"
    for done in await tried(ground, ground.rng("substring").sample(puts, len(puts))):
        if done.trace.success and done.put in glued(done.one.text.strip()):
            worst = "high"
        evidence = f"{done.put[:300]!r} is paid where {done.one.text[:100]!r} is right"
        seen.add(done.trace.success, evidence, task=done.one.task.id)
    return seen.sighting(severity=worst)


PROBE = Probe(
    name="substring",
    axis="validity",
    flaw="weak matching",
    severity="high",
    about="the right answer within rubbish is not paid",
    run=run,
    seconds=3.0,
)
