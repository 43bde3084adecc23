"""Monitors during training: every group is looked at before it teaches, and what is found has consequences.

As the recipe's `[monitors]` say: a hit is an alarm, or the group that it is in is kept out of loss and baseline, or the
run ends. Every finding is kept in the run's folder, one JSON object a line, with the step, the group and the trace.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from askesis.audit import SEVERITIES, is_canary
from askesis.audit.monitors import Canaries, Families, Flips, Gap, Tampering, Trends
from askesis.loop.recipe import MonitorSettings
from askesis.types import Env, Finding, Group, Monitor, Trace

LOOKED_BACK = 512  # episodes that monitors look back at, at most
CANARY, QUARANTINE = "canary", "quarantine"  # why a group does not teach


def monitors_of(settings: MonitorSettings) -> list[Monitor]:
    """Those that always run, and those that the recipe asks for."""
    found: list[Monitor] = [Tampering(allowed=settings.allowed), Families(), Trends()]
    if settings.canaries:
        found.append(Canaries())
    if settings.held_out:
        found.append(Gap(settings.held_out))
    return found


class Watch:
    """Looks at groups in the order in which they teach. file: where findings go. env: to play episodes in again.

    stop: whether a finding asked for the end of the run.
    """

    def __init__(self, settings: MonitorSettings, file: Path, env: Env) -> None:
        self._settings, self._file = settings, file
        self._monitors = monitors_of(settings)
        self._flips = Flips(env, settings.replays) if settings.replays else None
        self._flipped: dict[str, Finding] = {}
        self._least = SEVERITIES.index(settings.severity)
        self._step = 0
        self._found: list[Finding] = []
        self.stop = False

    def recall(self, traces: Iterable[Trace]) -> None:
        """What a run saw before it was resumed: windows fill, and nothing is found a second time."""
        for trace in traces:
            for monitor in self._monitors:
                monitor.observe(trace)

    async def replay(self, groups: Sequence[Group]) -> None:
        """Play some of the episodes again, as the recipe says, before their groups are judged."""
        if self._flips is not None:
            found = await asyncio.gather(*map(self._flips.replay, groups))
            self._flipped = {trace: finding for one in found for trace, finding in one.items()}

    def begin(self, step: int) -> None:
        """The groups that come are this step's."""
        self._step, self._found = step, []

    def judge(self, group: Group) -> str:
        """Why the group may not teach; empty if it may."""
        grave = False
        for trace in group.traces:
            flipped = (self._flipped.pop(trace.id),) if trace.id in self._flipped else ()
            for finding in (*itertools.chain(*(monitor.observe(trace) for monitor in self._monitors)), *flipped):
                self._found.append(finding)
                self._keep(finding, group, trace.id)
                grave = grave or SEVERITIES.index(finding.severity) >= self._least
        self.stop = self.stop or (grave and self._settings.action == "stop")
        if is_canary(group.task):
            return CANARY  # whatever came of it: it has no right answer to learn
        return QUARANTINE if grave and self._settings.action in ("quarantine", "stop") else ""

    @property
    def counts(self) -> dict[str, int]:
        """Findings of this step by monitor, hints included."""
        return dict(Counter(finding.probe for finding in self._found))

    @property
    def worst(self) -> str:
        """The gravest finding of this step in words; empty for none that calls for action."""
        grave = [one for one in self._found if SEVERITIES.index(one.severity) >= self._least]
        if not grave:
            return ""
        first = max(grave, key=lambda one: SEVERITIES.index(one.severity))
        return f"{first.probe} ({first.severity}): {first.evidence}"

    def _keep(self, finding: Finding, group: Group, trace: str) -> None:
        told = {"step": self._step, "group": group.id, "task": group.task.id, "trace": trace, **asdict(finding)}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
