"""Prompts on their way from the stream to the trainer: entered in the ledger before an episode of theirs starts.

Those come first that were drawn before and are neither trained nor dropped: on their way when a run was cut off, or
given up. New ones follow in the order of the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from askesis.loop.source import Source
from askesis.loop.stream import Prompt
from askesis.rollout import Draw, EpisodeSpec, Ledger
from askesis.types import Group


class Draws:
    """step: the one that goes on, in which what is drawn is entered."""

    def __init__(self, source: Source, ledger: Ledger) -> None:
        self._source, self._ledger = source, ledger
        self._next = ledger.position()
        self._again = deque(replace(source.prompt(one.position), draws=one.draws) for one in ledger.open())
        self._flying: dict[str, Prompt] = {}
        self.step = 0

    def draw(self, count: int) -> Sequence[Sequence[EpisodeSpec]]:
        """The episodes of up to `count` groups; fewer at the end of the data."""
        prompts = [self._again.popleft() for _ in range(min(count, len(self._again)))]
        fresh = self._source.prompts(self._next, count - len(prompts))
        self._next += len(fresh)
        prompts += fresh
        if prompts:
            self._ledger.draw(self.step, map(_draw, prompts))
        self._flying |= {prompt.group: prompt for prompt in prompts}
        return [self._source.specs(prompt) for prompt in prompts]

    def may_spare(self, group: str) -> bool:
        """Whether a group may be given up for being slow: one that is drawn again is waited for, else the slowest
        prompts would never be trained."""
        return not self._flying[group].draws

    def taken(self, groups: Sequence[Group], given_up: Iterable[str]) -> list[Group]:
        """What a step was given, in the order of the stream. What was given up is drawn again."""
        for name in given_up:
            prompt = self._flying.pop(name)
            self._again.append(replace(prompt, draws=prompt.draws + 1))
        order = {group.id: self._flying.pop(group.id).position for group in groups}
        return sorted(groups, key=lambda group: order[group.id])


def _draw(prompt: Prompt) -> Draw:
    return Draw(position=prompt.position, group=prompt.group, task=prompt.task.id, mode=prompt.thinking.mode)
