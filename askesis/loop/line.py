"""The way from prompts to whole groups, as one run has it: what draws, plays, keeps and counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from askesis.loop.draws import Draws
from askesis.loop.source import Sink, Source
from askesis.rollout import Progress, Scheduler, Taken
from askesis.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done since the step before. seconds: of the clock; tool_s: in tools; tokens: sampled; retried: attempts
    that were played again."""

    seconds: float
    tool_s: float
    tokens: int
    retried: int


class Tally:
    """Counts a roller's work from step to step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.skip()

    def skip(self) -> None:
        """What was done up to now belongs to no step."""
        progress = self._progress
        self._since, self._before = time.monotonic(), (progress.tool_s, progress.tokens, progress.retried)

    def take(self) -> Done:
        """What was done since the last time."""
        since, (tool_s, tokens, retried), progress = self._since, self._before, self._progress
        self.skip()
        return Done(
            seconds=self._since - since,
            tool_s=progress.tool_s - tool_s,
            tokens=progress.tokens - tokens,
            retried=progress.retried - retried,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Its parts, coupled. sampled: whether a model speaks; ahead: whether it does so while the trainer computes."""

    source: Source
    draws: Draws
    sink: Sink
    scheduler: Scheduler
    tally: Tally
    sampled: bool = True
    ahead: bool = False
    given_up: list[str] = field(default_factory=list)  # since the last step

    async def take(self) -> tuple[Taken, list[Group]] | None:
        """The next step's groups in the order of the stream; None at the end of the data, or after a shutdown."""
        while True:
            taken = await self.scheduler.take()
            if taken is None:
                return None
            groups = self.draws.taken(taken.groups, taken.given_up)
            self.given_up.extend(taken.given_up)
            if groups:
                return taken, groups

    def begin(self, step: int) -> None:
        """From now on what is drawn and emitted is this step's."""
        self.draws.step = self.sink.step = step
        self.given_up.clear()
