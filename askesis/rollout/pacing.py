"""Rollout and training at their own pace, never further apart than a number of versions of the weights.

A group is drawn when there is room for it, played by a `Roller`, and given to the trainer when it is whole. Its age is
counted from the version that sampled its first token. Invariant: no group is trained more than `staleness` versions
later; every group that was drawn is taken, reported as given up, or cancelled by `shutdown`, and is so once.

Why slow groups are trained like all others. Groups that began under version v can be trained in the steps from v to
v + staleness. No more groups are drawn than those steps hold (`per_step` each), the engine serves the oldest group's
turns first, the trainer takes the oldest first, and a step is held back while taking it without a group that is still
on its way would leave more groups than the steps before their deadlines hold. Only where that takes nearly as long as
a step of training does is the group given up, and of all groups no more than the share `spare`. With `staleness=0`
these same rules are synchronous training, and nothing is given up.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from askesis.rollout.record import NO_VERSION
from askesis.rollout.scheduler import Roller
from askesis.rollout.speakers import EpisodeSpec
from askesis.rollout.turns import Desk, EpisodeState, Flight
from askesis.types import ConfigError, Group

_log = logging.getLogger("askesis.rollout")
_PATIENCE = 0.75  # of the time that a step of training takes: so long one waits for a group that is due
_LAST = 2**20  # about this: groups that nothing presses, once the last was drawn


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
    """What a step trains. groups: in the order in which they were drawn. given_up: names of the groups that were given
    up since the last take; they were not and will not be among any step's groups. Where there are any, there are no
    groups: their prompts are to be drawn again before anything else is, so the next step has to be asked for again."""

    groups: Sequence[Group]
    given_up: Sequence[str]
    figures: Pace


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """A group that waits for the trainer. drawn: under which version; oldest: that of its first token, None if no
    policy sampled any."""

    group: Group
    number: int
    drawn: int
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
    there is room, from within the event loop, and again once a take has said that groups were given up. may_spare:
    whether the group of that name may be given up for being slow; by default each may. per_step: groups of a step.
    staleness: most versions between the weights that sampled a group's first token and those that are trained on it.
    version: of the weights in the engine; each step is to make one more. step: the number of the first step, under
    which the traces of what is drawn for it are kept; every `advance` counts on. spare: the share of all groups that
    may be given up for holding the trainer back nearly as long as a step takes; 0 waits for every one. report_s: a
    line is logged when nothing has moved for so long, saying what is awaited and since when.

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
        spare: float = 0.02,
        may_spare: Callable[[str], bool] = lambda name: True,
        report_s: float = 60.0,
    ) -> None:
        if per_step < 1 or staleness < 0 or report_s <= 0 or not 0 <= spare <= 1:
            raise ConfigError(
                f"scheduler: per_step={per_step}, staleness={staleness}, spare={spare:g}, report_s={report_s:g}: "
                "expected at least 1, at least 0, 0 to 1, and more than 0"
            )
        self._roller, self._draw, self._per_step, self._staleness = roller, draw, per_step, staleness
        self._step, self._spare, self._report_s = step, spare if staleness else 0.0, report_s
        self._may_spare = may_spare
        self._desk = Desk(version, self._rank)
        self._ready: dict[str, _Whole] = {}
        self._given_up: list[str] = []  # and not reported yet
        self._taken = 0  # groups of the step that is trained now
        self._drawn = self._spared = 0  # groups so far; those of them that were given up for being slow
        self._dry = False  # the last draw gave less than was asked for
        self._admitting = self._closed = False
        self._failure: BaseException | None = None
        self._moved = asyncio.Event()
        self._held_since: float | None = None
        self._held_s = 0.0
        self._since: float | None = None  # when the step that is awaited now was first asked for
        self._waited: defaultdict[str, float] = defaultdict(float)  # for it, by reason
        self._began = self._train_s = math.inf  # when the step that is trained now began; seconds of the last one
        self._roll = roller.open(self._deliver, label=label, speakers=self._desk.speakers, lost=self._lost)

    @property
    def version(self) -> int:
        """Of the weights in the engine, as far as `advance` has told."""
        return self._desk.version

    async def take(self) -> Taken | None:
        """The groups of the next step; waits for them. None at the end of the data, or after `shutdown`.

        Fewer than `per_step` where the data end; none, with `given_up`, at once where groups were. Raises what `draw`,
        the store or the roller itself failed with.
        """
        clock = asyncio.get_running_loop().time
        if self._since is None:
            self._since = clock()
        while True:
            self._weed()
            self._admit()
            self._raise_failure()
            if self._closed:
                return None
            if self._given_up:
                return self._report()
            chosen = self._next()
            late = [] if chosen is None else self._late(chosen)
            if chosen is not None and not late:
                break
            begun = clock()
            slow = self._spareable(late)
            patience = math.inf if slow is None else self._since + _PATIENCE * self._train_s - begun
            if slow is not None and patience <= 0:
                self._spared += 1
                self._give_up(slow.name, f"it holds the trainer back; {self.awaited()}")
                continue
            await self._movement(patience)
            self._waited["due" if late else "groups"] += clock() - begun
        return self._hand_over(chosen) if chosen else None

    def advance(self, version: int, *, seconds: float | None = None) -> None:
        """The weights of `version` are in the engine: what was taken is trained, and more can be drawn.

        seconds: that training took, where something else was done since the take too; by default all since then.
        """
        if version < self._desk.version:
            raise ConfigError(f"scheduler: advance({version}) after version {self._desk.version}: versions only grow")
        self._train_s = max(0.0, asyncio.get_running_loop().time() - self._began) if seconds is None else seconds
        self._desk.version = version
        self._taken = 0
        self._step += 1
        self._weed()
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
        since = now if self._since is None else self._since
        have = (
            f"step {self._step} is awaited since {now - since:.0f} s, under version {self.version}: "
            f"{len(self._ready)} groups are whole, a step takes {self._per_step}"
        )
        flights = sorted(self._desk.flights.values(), key=lambda flight: flight.number)
        if not flights:
            return f"{have}, and no group is on its way"
        return f"{have}; {_described(flights[0], now)}; {len(self._roll.flying)} episodes in flight"

    # -- what is taken -----------------------------------------------------------------------------------------------

    def _due(self, of: _Whole | Flight) -> float:
        """The last version that may be trained on it."""
        return math.inf if of.oldest is None else of.oldest + self._staleness

    def _next(self) -> list[_Whole] | None:
        """The groups of the next step, as far as they are whole, the most urgent first; None if there are too few."""
        if len(self._ready) < self._per_step and self._desk.flights:
            return None
        return sorted(self._ready.values(), key=self._urgency)[: self._per_step]

    def _urgency(self, whole: _Whole) -> tuple[float, bool, int]:
        """By deadline. What nobody has sampled a token of has none, but fills a place until it is taken: its turn comes
        when it would, had it begun as it was drawn, though after what is due for good."""
        if whole.oldest is not None:
            return (self._due(whole), False, whole.number)
        return (max(self.version, whole.drawn + self._staleness), True, whole.number)

    def _late(self, chosen: Sequence[_Whole]) -> list[Flight]:
        """The groups on their way that would be too many for the steps before their deadlines, were these taken.

        Empty also where waiting is of no use: where none of them could take the place of a group that has more time.
        """
        taken = {whole.number for whole in chosen}
        last = max((self._due(whole) for whole in chosen), default=0.0)
        flights = [(self._due(flight), flight) for flight in self._desk.flights.values()]
        rest = (self._due(whole) for whole in self._ready.values() if whole.number not in taken)
        dues = sorted(due for due in (*(due for due, _ in flights), *rest) if due < last)
        for count, due in enumerate(dues, 1):
            if count > self._per_step * (due - self.version):
                late = sorted((d, flight.number, flight) for d, flight in flights if d <= due)
                if late:
                    return [flight for _, _, flight in late]
        return []

    def _spareable(self, late: Sequence[Flight]) -> Flight | None:
        """The most urgent of them that may be given up, where another one may be at all."""
        if self._spared + 1 > self._spare * self._drawn:
            return None
        return next((flight for flight in late if self._may_spare(flight.name)), None)

    def _weed(self) -> None:
        """Give up what is too old to be trained, though nobody waited for it: after versions that were passed over."""
        old = [name for name, whole in self._ready.items() if self._due(whole) < self.version]
        old += [name for name, flight in self._desk.flights.items() if self._due(flight) < self.version]
        for name in old:
            self._give_up(name, f"it began more than {self._staleness} versions before {self.version}")

    def _give_up(self, name: str, why: str) -> None:
        _log.warning("group %s is given up: %s", name, why)
        if self._ready.pop(name, None) is None:
            del self._desk.flights[name]
            self._roll.give_up(name)
        self._given_up.append(name)

    def _report(self) -> Taken:
        """Say what was given up; from now on there is something to draw again."""
        given_up, self._given_up = self._given_up, []
        self._dry = False
        return Taken(groups=(), given_up=given_up, figures=self._pace((), {}, 0.0))

    def _hand_over(self, chosen: Iterable[_Whole]) -> Taken:
        chosen = sorted(chosen, key=lambda whole: whole.number)
        for whole in chosen:
            del self._ready[whole.group.id]
        self._taken = len(chosen)
        self._admit()
        self._began = asyncio.get_running_loop().time()
        self._hold(self._held_since is not None)
        figures = self._pace(chosen, dict(self._waited), self._held_s)
        self._since, self._held_s = None, 0.0
        self._waited.clear()
        return Taken(groups=[whole.group for whole in chosen], given_up=(), figures=figures)

    def _pace(self, chosen: Iterable[_Whole], waited_s: Mapping[str, float], held_s: float) -> Pace:
        return Pace(
            waited_s=waited_s,
            ages=[0 if whole.oldest is None else self.version - whole.oldest for whole in chosen],
            ready=len(self._ready),
            flying=len(self._roll.flying),
            waiting=len(self._roll.waiting),
            held_s=held_s,
        )

    # -- what is played ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Draw groups as long as they would still be young enough when their turn comes to be trained."""
        if self._admitting or self._closed or self._failure is not None or self._given_up:
            return  # nothing new before what was given up, which is drawn again when that was reported
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
        room = self._per_step * (self._staleness + 1) - ahead
        self._hold(room <= 0 and not self._roll.waiting)
        return room

    def _start(self, specs: Sequence[EpisodeSpec]) -> None:
        name = specs[0].group
        if name in self._desk.flights or name in self._ready or any(spec.group != name for spec in specs):
            raise ConfigError(f"scheduler: draw gave group {name!r} twice, or mixed it with another; name each once")
        self._desk.flights[name] = Flight(name=name, number=self._drawn, drawn=self.version, size=len(specs))
        self._drawn += 1
        self._roll.add(specs, step=self._step)

    def _rank(self, flight: Flight, state: EpisodeState) -> int:
        """The priority of a turn: the oldest group first. At the end of the data, where only a few groups still have a
        deadline, the others go by how many turns they are expected to take: the short ones first while episodes wait
        for a place, to make room for them, and then the long ones, which would else be the last to end, all alone."""
        if not self._dry or self._pressed(flight):
            return flight.number
        expected = flight.expected_turns(self._desk.usual_turns)
        left = min(1e4, 16 * max(expected - state.turns, state.turns / 2, 1.0))
        return _LAST + int(left if self._roll.waiting else -left)

    def _pressed(self, flight: Flight) -> bool:
        """Whether a group could miss its deadline: one before the last step, and not far from now."""
        due, left = self._due(flight), len(self._desk.flights) + len(self._ready)
        last = self.version + (self._taken > 0) + math.ceil(left / self._per_step) - 1
        return due < last and due - self.version <= self._staleness / 2

    def _deliver(self, group: Group | None) -> None:
        if group is None:
            self._closed = True
        elif (flight := self._desk.flights.pop(group.id, None)) is not None:
            self._ready[group.id] = _Whole(group, flight.number, flight.drawn, oldest_version(group))
        self._moved.set()

    def _lost(self, name: str) -> None:
        """It will never be whole, though nobody here has given it up."""
        if not self._closed and self._desk.flights.pop(name, None) is not None:
            _log.warning("group %s was cancelled on its way, and is given up", name)
            self._given_up.append(name)
            self._moved.set()

    def _raise_failure(self) -> None:
        self._roll.raise_failure()
        if self._failure is not None:
            raise self._failure

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _hold(self, held: bool) -> None:
        """Count the seconds in which nothing is drawn, though there is nothing left to start."""
        now = asyncio.get_running_loop().time()
        if self._held_since is not None:
            self._held_s += now - self._held_since
        self._held_since = now if held else None

    async def _movement(self, patience: float) -> None:
        """Returns when something has happened that could let the next step begin, or after `patience` seconds."""
        clock = asyncio.get_running_loop().time
        end, turns, moved = clock() + patience, self._desk.turns, self._moved
        moved.clear()
        while not moved.is_set() and (left := end - clock()) > 0:
            try:
                async with asyncio.timeout(min(left, self._report_s)):
                    await moved.wait()
            except TimeoutError:
                if turns == self._desk.turns and clock() < end:
                    _log.warning("%s", self.awaited())
                turns = self._desk.turns


def _described(flight: Flight, now: float) -> str:
    """A group on its way: under which version it began, and what the episode is at that has not moved for longest."""
    began = "not begun" if flight.oldest is None else f"begun under version {flight.oldest}"
    text = f"the first on its way is {flight.name}, {began}"
    states = [state for state in flight.episodes.values() if not state.over]
    if not states:
        return text
    state = min(states, key=lambda state: state.since)
    where = "at the engine" if state.asking else "with its tools, set-up or verifier"
    return f"{text}, of which an episode after {state.turns} turns is {where} since {now - state.since:.0f} s"
