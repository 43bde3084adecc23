"""Verdicts that flip: an episode that is played again word for word should be paid as it was."""

from __future__ import annotations

import random
from dataclasses import replace

from askesis.audit.ground import Ground, Recited, said
from askesis.audit.recordings import Seen, difference
from askesis.rollout import token_free, wilson
from askesis.types import Env, Finding, Group, Message, Reasoning, Trace


class Flips:
    """Plays a share of the episodes again, without the model: a finding where success is another than before.

    Only those that the policy ended, in one conversation, without a call that could not be read: others cannot be said
    again to the letter; nor can what is judged by its tokens. Which are chosen hangs on their ids alone. A flip is a
    finding of medium severity: it may be the verdict, and may be what the environment says, that differs from run to
    run.
    """

    name = "verdict-flips"

    def __init__(self, env: Env, share: float) -> None:
        self._ground, self._share = Ground(env=env), share
        self._again, self._flipped = 0, 0

    async def replay(self, group: Group) -> dict[str, Finding]:
        """Findings by the trace's id."""
        found = {}
        for trace in group.learnable:
            if random.Random(f"flips/{trace.id}").random() < self._share and self._can_be_said_again(trace):
                finding = await self._finding(trace)
                if finding is not None:
                    found[trace.id] = finding
        return found

    async def _finding(self, trace: Trace) -> Finding | None:
        words = [_spoken(message) for message in said(trace)]
        other = await self._ground.play(token_free(trace.task), lambda task, specs: Recited(words), seed=trace.seed)
        if not other.outcome.learnable:
            return None
        self._again += 1
        if other.success == trace.success:
            return None
        self._flipped += 1
        differs = difference(Seen.of(trace), Seen.of(other))
        return Finding(
            probe=self.name,
            severity="medium",
            rate=self._flipped / self._again,
            n=self._again,
            interval=wilson(self._flipped, self._again),
            evidence=f"trace {trace.id}: played again, success is {other.success} and was {trace.success}"
            + (f"; {differs.text}" if differs else ""),
            repro=f"trace {trace.id}",
        )

    def _can_be_said_again(self, trace: Trace) -> bool:
        harness = str(getattr(self._ground.env, "harness", None) or "solo").partition("@")[0]
        plain = trace.outcome.by == "policy" and not trace.forks and len(trace.branches()) == 1
        legible = not any(node.message.failures for node in trace.nodes if node.sampled)
        return plain and legible and trace.harness.partition("@")[0] == harness


def _spoken(message: Message) -> Message:
    return replace(message, parts=tuple(part for part in message.parts if not isinstance(part, Reasoning)))
