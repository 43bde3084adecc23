"""How much of the time a scheduler wastes where tools have long tails: ours beside two restated peers, in virtual time.

The trace and the machine are those of `schedule_machine.py`; episodes, roller and scheduler are the real code. A group
may be trained at most S versions after the one that sampled its first token. Schedulers:
  ours             `askesis.rollout.Scheduler`
  counted          admission by `accepted + running <= (S + step + 1) x batch`, first come first served, what is too old
                   by the time it is whole is dropped (as AReaL and those that follow it)
  one_step_off     batch k + 1 is rolled out whole while batch k is trained
Figures at each S, `NAME_S`: `ratio`, the synchronous wall over its own; `share`, the bound over the wall, where the
bound is what decoding and training take if neither ever waits for the other; `steady`, the same from the end of step 5
to that of step 35, of what was decoded in that time for groups that were trained in the end; `dropped`, the share of
the groups that was not trained; `length`, the mean tokens of the episodes that were trained over those of all that
were drawn; `waited`, seconds in which the trainer had nothing to do. A scheduler that drops trains less, and is the
faster for it.
ratio: ours at S = 8; `share_of_bound`, `share_steady`, `dropped_share`, `trained_length`, `sampled_length`: ours there.
Options: `staleness` (0,1,2,4,8,16: which ones; 0 is always there), `peers` (1; 0 leaves them out).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
HEADLINE = 8
STEADY = (5, 35)  # after which step the window begins, and with which it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One run. ends: when each step was over, by the virtual clock; trained: its groups; waited_s: of the trainer.
    decoded: as `Machine` has it."""

    ends: Sequence[float]
    trained: Sequence[Sequence[str]]
    dropped: Sequence[str]
    waited_s: float
    decoded: Sequence[tuple[float, int, int]]


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
        return None if taken is None else ([group.id for group in taken.groups], taken.given_up)


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
                return Played(ends=ends, trained=trained, dropped=dropped, waited_s=waited, decoded=machine.decoded)
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


def bound_s(tokens: float, steps: float) -> float:
    """Seconds for so much if neither engine nor trainer ever waited for the other."""
    return max(tokens / (SLOTS * RATE), steps * TRAIN_S) + steps * UPDATE_S


def whole_bound_s() -> float:
    """Of the whole trace."""
    return bound_s(sum(count for turns in episodes() for count, _ in turns), GROUPS / PER_STEP)


def figures(one: Played, synchronous_s: float) -> dict[str, float]:
    """What is told of a run."""
    lengths = [sum(count for count, _ in turns) for turns in episodes()]
    steps = [[int(name[1:]) for name in names] for names in one.trained]
    trained = [length for names in steps for group in names for length in lengths[group * SIZE : (group + 1) * SIZE]]
    first, last = STEADY
    found = {
        "ratio": synchronous_s / one.ends[-1],
        "share": whole_bound_s() / one.ends[-1],
        "dropped": len(one.dropped) / GROUPS,
        "length": statistics.fmean(trained) / statistics.fmean(lengths),
        "waited": one.waited_s,
        "wall": one.ends[-1],
    }
    if len(steps) >= last:
        begin, end = one.ends[first - 1], one.ends[last - 1]
        kept = {group for names in steps for group in names}
        tokens = sum(count for at, group, count in one.decoded if begin < at <= end and group in kept)
        found["steady"] = bound_s(tokens, last - first) / (end - begin)
    return {name: round(value, 4) for name, value in found.items()}


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    wanted = sorted({0, *(int(one) for one in options.values.get("staleness", "0,1,2,4,8,16").split(","))})
    synchronous = played(Ours, 0, ranked=True)
    assert not synchronous.dropped
    ours, headline = {}, {}
    for staleness in wanted:
        one = synchronous if staleness == 0 else played(Ours, staleness, ranked=True)
        found = figures(one, synchronous.ends[-1])
        ours |= {f"{name}_{staleness}": value for name, value in found.items()}
        if staleness == HEADLINE or not headline:
            headline = found
    mean = statistics.fmean(sum(count for count, _ in turns) for turns in episodes())
    ours |= {
        "share_of_bound": headline["share"],
        "share_steady": headline.get("steady", 0.0),
        "dropped_share": headline["dropped"],
        "trained_length": round(headline["length"] * mean, 1),
        "sampled_length": round(mean, 1),
    }
    return Result(
        name="schedule",
        command="python -m bench schedule",
        goal=GOAL,
        ours=ours,
        peers=_peers(options, wanted, synchronous.ends[-1]),
        spread={},
        ratio=round(headline["ratio"], 3),
        met=headline["ratio"] >= 5.8 and headline.get("steady", 0) >= 0.95 and headline["dropped"] <= 0.02,
        notes=[
            f"virtual time, the same on every machine; synchronous {synchronous.ends[-1]:,.0f} s, "
            f"bound {whole_bound_s():,.0f} s"
        ],
    )


def _peers(options: Options, wanted: Sequence[int], synchronous_s: float) -> dict[str, dict[str, float]]:
    if not options.number("peers", 1):
        return {}
    counted: dict[str, float] = {}
    for staleness in wanted[1:]:
        found = figures(played(Counted, staleness, ranked=False), synchronous_s)
        counted |= {f"{name}_{staleness}": value for name, value in found.items()}
    one_off = figures(played(OneStepOff, 1, ranked=False), synchronous_s)
    return {"counted": counted, "one_step_off": {f"{name}_1": value for name, value in one_off.items()}}


def table(kept: Mapping[str, Any]) -> str:
    """For docs/scheduling.md."""
    peers = kept["peers"]
    rows = []
    for who, found in (("Askesis", kept["ours"]), ("admission by count", peers["counted"]),
                       ("one step off", peers["one_step_off"])):  # fmt: skip
        for staleness in (int(key.removeprefix("ratio_")) for key in found if key.startswith("ratio_")):
            at = {name: found.get(f"{name}_{staleness}") for name in ("ratio", "share", "steady", "dropped", "length")}
            steady = "" if at["steady"] is None else f"{at['steady']:.0%}"
            rows.append(
                f"| {who} | {staleness} | {at['ratio']:.2f} | {at['share']:.0%} | {steady} | "
                f"{at['dropped']:.1%} | {at['length']:.2f} |"
            )
    return "\n".join(
        [
            "| scheduler | staleness | times synchronous | share of the bound | steady | dropped | length |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"{kept['notes'][0]} ({kept['date']}, `{kept['command']}`).",
        ]
    )


def row(kept: Mapping[str, Any]) -> str:
    """For the README."""
    ours, peer = kept["ours"], kept["peers"]["counted"]
    goal = "met" if kept["met"] else "not met"
    return (
        "- **Rollout ahead of training** (a trace of slow tools in virtual time, staleness 8): "
        f"{ours['ratio_8']:.2f} x synchronous, {ours['steady_8']:.0%} of the bound in steady state, "
        f"{ours['dropped_8']:.1%} of the groups dropped; admission by count {peer['ratio_8']:.2f} x and "
        f"{peer['dropped_8']:.0%} dropped; goals 5.8 x, 95% and 2%: {goal}. `{kept['command']}`"
    )
