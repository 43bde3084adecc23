"""Whether the verifier says the same of the same work."""

from __future__ import annotations

from collections.abc import Sequence

from askesis.audit.ground import Ground, Recited
from askesis.audit.probe import Inconclusive, Probe, Sighting, Skipped, Tally
from askesis.audit.recordings import Seen, difference, recordings
from askesis.audit.submission import submissions
from askesis.audit.texts import NEAR
from askesis.types import Message, Task

_TIMES = 5
_MOST = 40  # works


async def run(ground: Ground) -> Sighting:
    """Do each of many works several times: right ones, nearly right ones, cut ones, random ones."""
    chosen = await works(ground)
    seen = Tally()
    for name, task, messages in chosen:
        if ground.left_s <= 0 and seen.n:
            break
        verdicts: list[Seen] = []
        for _ in range(_TIMES):
            trace = await ground.play(task, lambda task, specs, script=messages: Recited(script))  # type: ignore[misc]
            verdicts.append(Seen.of(trace))
        alike = [one for one in verdicts if one.learnable and one.heard == verdicts[0].heard]
        if len(alike) < 2:
            continue
        found = next((told for one in alike[1:] if (told := difference(alike[0], one)) is not None), None)
        hit = found is not None and found.kind == "reward"
        seen.add(hit, f"{name}, {len(alike)} times: {found.text if found else ''}", task=task.id)
    if not seen.n:
        raise Inconclusive("nothing could be done twice with the same answers; see the probe `replay`")
    return seen.sighting()


async def works(ground: Ground) -> list[tuple[str, Task, Sequence[Message]]]:
    """What is done: a name, on which task, what is said. Mixed, so that a few of each come first."""
    kinds: list[list[tuple[str, Task, Sequence[Message]]]] = [[], [], [], []]
    for one in await recordings(ground):
        right = one.by == "the oracle"
        kinds[0 if right else 1].append((f"what {one.by} did", one.task, one.messages))
        if right and len(one.messages) > 2:
            dropped = ground.rng("rescoring", one.task.id).randrange(len(one.messages) - 1)
            rest = [message for place, message in enumerate(one.messages) if place != dropped]
            kinds[2].append((f"the oracle's work without turn {dropped + 1}", one.task, rest))
    try:
        for submitted in await submissions(ground):
            for change in NEAR:
                text = change(submitted.text, ground.rng("rescoring", change.__name__, submitted.task.id))
                if text is not None and text != submitted.text:
                    kinds[3].append((f"a near miss, {text[:80]!r}", submitted.task, submitted.saying(text)))
    except (Skipped, Inconclusive):
        pass
    longest = max(len(kind) for kind in kinds)
    return [kind[place] for place in range(longest) for kind in kinds if place < len(kind)][:_MOST]


PROBE = Probe(
    name="rescoring",
    axis="stability",
    flaw="verdict flips",
    severity="high",
    about="the same work is always paid the same",
    run=run,
    seconds=6.0,
)
