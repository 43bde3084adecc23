"""Rollout and training at their own pace, never further apart than a number of versions of the weights.

A group is drawn when there is room for it, played by a `Roller`, and given to the trainer when it is whole. Its age is
counted from the version that sampled its first token. Invariant: no group is trained more than `staleness` versions
later; every group that was drawn is taken, reported as given up, or cancelled by `shutdown`, and is so once.

Why nothing grows stale for being slow. Groups that began under version v can be trained in the steps from v to
v + staleness. No more groups are admitted than those steps hold (`per_step` each), the trainer takes the oldest first,
and a step is held back while taking it without a group that is still on its way would leave more groups than the steps
before their deadlines hold. With `staleness=0` these same rules are synchronous training.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from askesis.rollout.record import NO_VERSION
from askesis.rollout.scheduler import Roller
from askesis.rollout.speakers import EpisodeSpec
from askesis.rollout.turns import Desk, Flight
from askesis.types import ConfigError, Group

_log = logging.getLogger("askesis.rollout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How it went since the last take, and how things stand.

    waited_s: seconds in `take`, by reason: `groups` (too few are whole), `due` (enough are, but one that is still on
    its way has its last chance in this step). ages: versions between each group's first token and the weights that are
    trained. ready: groups that are whole and not taken; flying, waiting: episodes that are played, and that are drawn
    and wait for room. held_s: seconds in which nothing more was drawn for the trainer being behind.
    """

    waited_s: Mapping[str, float]
    ages: Sequence[int]
    ready: int
    flying: int
    waiting: int
    held_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a step trains. groups: in the order in which they were drawn. stale: names of the groups that were given up
    since the last take; they were not and will not be among any step's groups."""

    groups: Sequence[Group]
    stale: Sequence[str]
    figures: Pace


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """A group that waits for the trainer. oldest: the version of its first token, None if no policy sampled any."""

    group: Group
    number: int
    oldest: int | None


def oldest_version(group: Group) -> int | None:
    """The version under which a group's first token was sampled; None if no policy sampled any."""
    found = None
    for trace in group.traces:
        for node in trace.nodes:
            if node.sampled and len(sampled := node.policy_versions[node.mask]):
                least = int(np.min(sampled))
                if least != NO_VERSION and (found is None or least < found):
                    found = least
    return found


class Scheduler:
    """Paces the episodes of `roller` and a trainer.

    draw: gives the episodes of up to n further groups, a sequence each; fewer at the end of the data. It is called when
    there is room, from within the event loop. per_step: groups of a step. staleness: most versions between the weights
    that sampled a group's first token and those that are trained on it. version: of the weights in the engine. step:
    the number of the first step, under which the traces of what is drawn for it are kept; the next `advance` counts on.
    report_s: a line is logged when nothing has moved for so long, saying what is awaited and since when.

    One task takes; `advance` is called after every take that a step was made of.
    """

    def __init__(
        self,
        roller: Roller,
        *,
        draw: Callable[[int], Sequence[Sequence[EpisodeSpec]]],
        per_step: int,
        staleness: int,
        version: int = 0,
        step: int = 1,
        label: str = "train",
        report_s: float = 60.0,
    ) -> None:
        if per_step < 1 or staleness < 0 or report_s <= 0:
            raise ConfigError(
                f"scheduler: per_step={per_step}, staleness={staleness}, report_s={report_s:g}: expected at least 1, "
                "at least 0, and more than 0"
            )
        self._roller, self._draw, self._per_step, self._staleness = roller, draw, per_step, staleness
        self._step, self._label, self._report_s = step, label, report_s
        self._desk = Desk(version)
        self._ready: dict[str, _Whole] = {}
        self._stale: list[str] = []
        self._taken = 0  # groups of the step that is trained now
        self._drawn = 0  # groups so far
        self._size = 0  # episodes of the last group that was drawn
        self._dry = False  # the last draw gave less than was asked for
        self._admitting = self._closed = False
        self._failure: BaseException | None = None
        self._moved = asyncio.Event()
        self._held_since: float | None = None
        self._held_s = 0.0
        self._since = 0.0  # when the take that waits now began to
        self._roll = roller.open(self._deliver, label=label, speakers=self._desk.speakers, on_room=self._admit)

    @property
    def version(self) -> int:
        """Of the weights in the engine, as far as `advance` has told."""
        return self._desk.version

    async def take(self) -> Taken | None:
        """The groups of the next step; waits for them. None at the end of the data, or after `shutdown`.

        Fewer than `per_step` where the data end. Raises what `draw`, the store or the roller itself failed with.
        """
        waited: dict[str, float] = defaultdict(float)
        clock = asyncio.get_running_loop().time
        self._since = clock()
        while True:
            self._admit()
            self._raise_failure()
            if self._closed:
                return None
            chosen = self._chosen()
            if chosen is not None:
                break
            reason = "groups" if len(self._ready) < self._per_step else "due"
            begun = clock()
            await self._movement()
            waited[reason] += clock() - begun
        if not chosen and not self._stale:
            return None
        return self._hand_over(chosen, waited)

    def advance(self, version: int) -> None:
        """The weights of `version` are in the engine: what was taken is trained, and admission goes on."""
        if version < self._desk.version:
            raise ConfigError(f"scheduler: advance({version}) after version {self._desk.version}: versions only grow")
        self._desk.version = version
        self._taken = 0
        self._step += 1
        self._admit()
        self._moved.set()

    async def shutdown(self) -> None:
        """Draw nothing more, cancel what is in flight, and wait until all of it is emitted. Idempotent."""
        self._closed = True
        self._moved.set()
        await self._roll.stop()

    def awaited(self) -> str:
        """One line: what has to come before the next step, and who is the slowest on the way to it."""
        now = asyncio.get_running_loop().time()
        lag = f"step {self._step} waits since {now - self._since:.0f} s with version {self.version}"
        have = f"{len(self._ready)} of {self._per_step} groups are whole"
        flights = sorted(self._desk.flights.values(), key=lambda flight: flight.number)
        if not flights:
            return f"{lag}: {have}, and no episode is in flight"
        return f"{lag}: {have}; {_described(flights[0], now)} ({len(self._roll.flying)} episodes in flight)"

    # -- what is taken -----------------------------------------------------------------------------------------------

    def _deadline(self, oldest: int | None) -> int | None:
        """The last version that may be trained on what began under `oldest`."""
        return None if oldest is None else oldest + self._staleness

    def _chosen(self) -> list[_Whole] | None:
        """The groups of the next step, oldest first; None while it has to wait."""
        self._weed()
        flights = self._desk.flights.values()
        ready = sorted(self._ready.values(), key=self._urgency)
        if len(ready) < self._per_step:
            return None if flights else ready
        chosen, rest = ready[: self._per_step], ready[self._per_step :]
        last = max(self._urgency(whole)[0] for whole in chosen)
        unready = [due for flight in flights if (due := self._deadline(flight.oldest)) is not None]
        dues = sorted([*unready, *(due for whole in rest if (due := self._deadline(whole.oldest)) is not None)])
        first = min(unready, default=None)
        for count, due in enumerate(dues, 1):
            overfull = count > self._per_step * (due - self.version)
            # waiting helps only where a group on its way could take the place of one that has more time
            if overfull and first is not None and first <= due < last:
                return None
        return chosen

    def _urgency(self, whole: _Whole) -> tuple[float, int]:
        due = self._deadline(whole.oldest)
        return (float("inf") if due is None else due, whole.number)

    def _weed(self) -> None:
        """Give up what is too old to be trained: after versions that were passed over, say."""
        for name, whole in tuple(self._ready.items()):
            due = self._deadline(whole.oldest)
            if due is not None and due < self.version:
                del self._ready[name]
                self._give_up(name)
        for name, flight in tuple(self._desk.flights.items()):
            due = self._deadline(flight.oldest)
            if due is not None and due < self.version:
                del self._desk.flights[name]
                self._roll.give_up(name)
                self._give_up(name)

    def _give_up(self, name: str) -> None:
        _log.warning("group %s is given up: more than %d versions old", name, self._staleness)
        self._stale.append(name)
        self._dry = False

    def _hand_over(self, chosen: Iterable[_Whole], waited: Mapping[str, float]) -> Taken:
        chosen = sorted(chosen, key=lambda whole: whole.number)
        for whole in chosen:
            del self._ready[whole.group.id]
        self._taken = len(chosen)
        self._admit()
        stale, self._stale = self._stale, []
        held_s, self._held_s = self._held(), 0.0
        return Taken(
            groups=[whole.group for whole in chosen],
            stale=stale,
            figures=Pace(
                waited_s=dict(waited),
                ages=[0 if whole.oldest is None else self.version - whole.oldest for whole in chosen],
                ready=len(self._ready),
                flying=len(self._roll.flying),
                waiting=len(self._roll.waiting),
                held_s=held_s,
            ),
        )

    # -- what is played ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Draw groups while there is room for their episodes, and they would still be young enough when trained."""
        if self._admitting or self._closed or self._failure is not None:
            return
        self._admitting = True
        try:
            while (wanted := self._room()) > 0 and not self._dry:
                groups = self._draw(wanted)
                self._dry = len(groups) < wanted
                for specs in groups:
                    self._start(specs)
        except Exception as error:  # of `draw`: `take` raises it
            self._failure = error
            self._moved.set()
        finally:
            self._admitting = False

    def _room(self) -> int:
        """Groups that may be drawn now."""
        ahead = len(self._desk.flights) + len(self._ready) + self._taken
        groups = self._per_step * (self._staleness + 1) - ahead
        self._hold(groups <= 0)
        if self._staleness == 0:
            return groups  # a step's at once
        episodes = self._roller.concurrency - len(self._roll.flying) - len(self._roll.waiting)
        if episodes <= 0:
            return 0
        return min(groups, -(-episodes // self._size) if self._size else 1)

    def _start(self, specs: Sequence[EpisodeSpec]) -> None:
        name = specs[0].group
        if name in self._desk.flights or name in self._ready or any(spec.group != name for spec in specs):
            raise ConfigError(f"scheduler: draw gave group {name!r} twice, or mixed it with another; name each once")
        self._desk.flights[name] = Flight(name=name, number=self._drawn, size=len(specs))
        self._drawn, self._size = self._drawn + 1, len(specs)
        self._roll.add(specs, step=self._step)

    def _deliver(self, group: Group | None) -> None:
        if group is None:
            self._closed = True
        elif (flight := self._desk.flights.pop(group.id, None)) is not None:
            self._ready[group.id] = _Whole(group, flight.number, oldest_version(group))
            self._admit()
        self._moved.set()

    def _raise_failure(self) -> None:
        self._roll.raise_failure()
        if self._failure is not None:
            raise self._failure

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _hold(self, held: bool) -> None:
        now = asyncio.get_running_loop().time()
        if self._held_since is not None:
            self._held_s += now - self._held_since
        self._held_since = now if held else None

    def _held(self) -> float:
        self._hold(self._held_since is not None)
        return self._held_s

    async def _movement(self) -> None:
        """Returns when something has happened that could let the next step begin."""
        turns = self._desk.turns
        while True:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._report_s):
                    await self._moved.wait()
                return
            except TimeoutError:
                if turns == self._desk.turns:
                    _log.warning("%s", self.awaited())
                turns = self._desk.turns


def _described(flight: Flight, now: float) -> str:
    """A group on its way: how many of its episodes are, and what the longest unmoved one is at."""
    began = "not begun" if flight.oldest is None else f"begun under version {flight.oldest}"
    text = f"the oldest on its way is {flight.name}, {began}"
    if not flight.episodes:
        return text
    state = min(flight.episodes.values(), key=lambda state: state.since)
    where = "at the engine" if state.asking else "with tools, set-up or verifier"
    return f"{text}: an episode in its turn {state.turns + 1} is {where} since {now - state.since:.0f} s"
