"""How much of the time a scheduler wastes where tools have long tails: ours beside two restated peers, in virtual time.

The trace and the machine are those of `schedule_machine.py`; episodes, roller and scheduler are the real code. A group
may be trained at most S versions after the one that sampled its first token. Schedulers:
  ours             `askesis.rollout.Scheduler`
  counted          admission by `accepted + running <= (S + step + 1) x batch`, first come first served, what is too old
                   by the time it is whole is dropped (as AReaL and those that follow it)
  one_step_off     batch k + 1 is rolled out whole while batch k is trained
Figures at each S (`..._S`): `ratio`, the synchronous wall over its own; `share`, the bound over the wall, where the
bound is what decoding and training take if neither ever waits; `steady`, the same for steps 6 to 35 alone (the bound's
30 of 40 parts over the time they took); `dropped`, the share of the groups; `waited`, seconds the trainer was idle;
`tokens_trained` over `tokens_sampled`: mean tokens of trained episodes over those of all that were drawn.
ratio: ours at S = 8. Options: `staleness` (0,1,2,4,8,16: which ones), `peers` (1; 0 leaves them out).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.result import Options, Result
from bench.schedule_machine import (
    GROUPS,
    PER_STEP,
    RATE,
    SIZE,
    SLOTS,
    TRAIN_S,
    UPDATE_S,
    Machine,
    Turns,
    episodes,
    in_virtual_time,
    roller,
    specs,
)

GOAL = "at S = 8: 5.8 times synchronous, 95% of the bound in steady state, at most 2% of the groups dropped"
STEADY = (5, 35)  # after which step the window begins, and with which it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One run. ends: when each step was over, by the virtual clock; trained: its groups; waited_s: of the trainer."""

    ends: Sequence[float]
    trained: Sequence[Sequence[str]]
    dropped: Sequence[str]
    waited_s: float


class Scheduling(Protocol):
    """What gives the trainer its groups."""

    async def take(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """Names of the next step's groups and of those dropped since; None at the end."""
        ...

    def advance(self, version: int) -> None:
        """Weights of `version` sample now."""
        ...


class Ours:
    """The real one."""

    def __init__(self, machine: Machine, trace: Sequence[Turns], staleness: int) -> None:
        from askesis.rollout import Scheduler

        left = iter(range(GROUPS))
        self._scheduler = Scheduler(
            roller(machine, trace),
            draw=lambda n: [specs(group) for _, group in zip(range(n), left, strict=False)],
            per_step=PER_STEP,
            staleness=staleness,
            report_s=1e6,
        )
        self.advance = self._scheduler.advance

    async def take(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """See `Scheduling`."""
        taken = await self._scheduler.take()
        return None if taken is None else ([group.id for group in taken.groups], taken.stale)


class Counted:
    """A peer: admission by count, first come, first served."""

    def __init__(self, machine: Machine, trace: Sequence[Turns], staleness: int) -> None:
        self._machine, self._staleness, self._left = machine, staleness, list(range(GROUPS))[::-1]
        self._roll = roller(machine, trace).open(self._whole)
        self._ready: list[Any] = []
        self._step = self._accepted = self._running = 0
        self._dropped: list[str] = []
        self._moved = asyncio.Event()

    def _admit(self) -> None:
        while self._left and self._accepted + self._running < (self._staleness + self._step + 1) * PER_STEP:
            self._running += 1
            self._roll.add(specs(self._left.pop()))

    def _whole(self, group: Any) -> None:
        self._running -= 1
        self._accepted += 1
        self._ready.append(group)
        self._admit()
        self._moved.set()

    async def take(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """See `Scheduling`."""
        from askesis.rollout import oldest_version

        while True:
            fresh = [group for group in self._ready if self._step - (oldest_version(group) or 0) <= self._staleness]
            self._dropped += [group.id for group in self._ready if group not in fresh]
            self._accepted -= len(self._ready) - len(fresh)
            self._ready = fresh
            self._admit()
            if len(fresh) >= PER_STEP or not self._running:
                break
            self._moved.clear()
            await self._moved.wait()
        taken, self._ready = self._ready[:PER_STEP], self._ready[PER_STEP:]
        dropped, self._dropped = self._dropped, []
        return ([group.id for group in taken], dropped) if taken or dropped else None

    def advance(self, version: int) -> None:
        """See `Scheduling`."""
        self._step = version
        self._admit()


class OneStepOff:
    """A peer: the next batch is rolled out whole while this one is trained."""

    def __init__(self, machine: Machine, trace: Sequence[Turns], staleness: int) -> None:
        self._roller, self._left = roller(machine, trace), list(range(GROUPS))[::-1]
        self._next: asyncio.Task[list[str]] | None = None

    async def _batch(self) -> list[str]:
        batch = [spec for _ in range(min(PER_STEP, len(self._left))) for spec in specs(self._left.pop())]
        return [group.id async for group in self._roller.groups(batch)]

    async def take(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """See `Scheduling`."""
        batch = await (self._next or asyncio.create_task(self._batch()))
        self._next = asyncio.create_task(self._batch())
        return (batch, []) if batch else None

    def advance(self, version: int) -> None:
        """See `Scheduling`."""


def played(make: Callable[[Machine, Sequence[Turns], int], Scheduling], staleness: int, *, ranked: bool) -> Played:
    """The whole trace under one scheduler. ranked: whether the engine heeds priorities."""
    trace = episodes()

    async def main() -> Played:
        clock = asyncio.get_running_loop().time
        machine = Machine(by_priority=ranked)
        scheduling = make(machine, trace, staleness)
        ends, trained, dropped, waited = [], [], [], 0.0
        while True:
            begun = clock()
            taken = await scheduling.take()
            waited += clock() - begun
            if taken is None:
                return Played(ends=ends, trained=trained, dropped=dropped, waited_s=waited)
            names, late = taken
            dropped += late
            if not names:
                continue
            await asyncio.sleep(TRAIN_S)
            await machine.update()
            scheduling.advance(machine.version)
            trained.append(names)
            ends.append(clock())

    return in_virtual_time(main)


def bound_s() -> float:
    """Seconds for the whole trace if neither engine nor trainer ever waited for the other."""
    tokens, steps = sum(count for turns in episodes() for count, _ in turns), GROUPS / PER_STEP
    return max(tokens / (SLOTS * RATE), steps * TRAIN_S) + steps * UPDATE_S


def figures(one: Played, synchronous_s: float) -> dict[str, float]:
    """What is told of a run."""
    trace, bound = episodes(), bound_s()
    wall = one.ends[-1]
    first, last = STEADY
    lengths = [sum(count for count, _ in turns) for turns in trace]
    groups = [int(name[1:]) for names in one.trained for name in names]
    trained = [length for group in groups for length in lengths[group * SIZE : (group + 1) * SIZE]]
    found = {
        "wall_s": round(wall, 1),
        "ratio": round(synchronous_s / wall, 3),
        "share": round(bound / wall, 4),
        "dropped": round(len(one.dropped) / GROUPS, 4),
        "waited": round(one.waited_s, 1),
        "tokens_trained": round(statistics.fmean(trained), 1),
        "tokens_sampled": round(statistics.fmean(lengths), 1),
    }
    if len(one.ends) >= last:
        window = one.ends[last - 1] - one.ends[first - 1]
        found["steady"] = round(bound * (last - first) / (GROUPS / PER_STEP) / window, 4)
    return found
