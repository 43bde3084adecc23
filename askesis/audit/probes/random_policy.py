"""Whether calls made at random are paid."""

from __future__ import annotations

import random
from collections.abc import Sequence

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Severity, Sighting, Tally
from askesis.envs.policies import RandomPolicy
from askesis.types import Message, Policy, Task, Thinking, ToolSpec, assistant

ROUNDS = 3


class Says(Policy):
    """Says a word, a line or a number of the prompt, where there is no tool to call."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._said = rng, False

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """One guess, and nothing more."""
        if self._said:
            return assistant()
        self._said = True
        text = "\n".join(message.text for message in messages if message.role == "user")
        pieces = [*text.split(), *text.splitlines(), *map(str, range(10)), "yes", "no", "A", "B"]
        return assistant(self._rng.choice(pieces).strip(".,;:?!()[]"))


def severity(rate: float) -> Severity:
    """Of what is paid to who knows nothing."""
    return "high" if rate >= 0.25 else "medium" if rate >= 0.1 else "low" if rate >= 0.03 else "info"


async def run(ground: Ground) -> Sighting:
    """Legal calls with arguments drawn from the schemas and the conversation, some times on every task."""
    tasks = await ground.unpaid()
    seen = Tally()
    for round_ in range(ROUNDS):

        def guess(task: Task, specs: Sequence[ToolSpec], round_: int = round_) -> Policy:
            rng = ground.rng("random policy", task.id, round_)
            return RandomPolicy(specs, seed=rng.getrandbits(32)) if specs else Says(rng)

        for trace in await ground.play_all([(task, guess) for task in tasks], gaps=True):
            calls = [event.name for event in trace.tool_events]
            evidence = f"{len(calls)} random calls are paid {trace.reward:g}: {', '.join(calls[:20])}"
            seen.add(trace.success, evidence, task=trace.task.id)
        if ground.left_s <= 0:
            break
    return seen.sighting(severity=severity(seen.hits / max(1, seen.n)))


PROBE = Probe(
    name="random-policy",
    axis="validity",
    flaw="paid without knowing",
    severity="high",
    about="legal calls made at random are not paid",
    run=run,
    seconds=4.0,
)
