"""Many episodes at once: as many as `concurrency` allows, so that the engine is busy while tools run.

Invariant: every attempt that starts is emitted exactly once (to the store and to `on_trace`), as what it became or as
cancelled. Groups come out whole, in the order in which they are finished. `pacing` paces a training run on top of this.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from askesis.rollout.collecting import COLLECTOR
from askesis.rollout.costs import Costs
from askesis.rollout.episode import Stage, run_episode
from askesis.rollout.hosting import Reception
from askesis.rollout.session import EpisodeOptions, Meter
from askesis.rollout.speakers import EngineSpeakers, EpisodeSpec, Speakers
from askesis.types import Agent, ConfigError, Engine, Env, Group, Renderer, Task, Thinking, Trace


@dataclass(slots=True)
class Progress(Meter):
    """What a roller has done so far, for the live line: turns, tokens and seconds as they happen, episodes as they end.

    finished: episodes with their final attempt. retried: attempts that were played again. infrastructure: final
    attempts that say nothing about the policy, cancelled ones not counted.
    """

    started: int = 0
    finished: int = 0
    retried: int = 0
    infrastructure: int = 0
    cancelled: int = 0
    groups: int = 0


class TraceSink(Protocol):
    """Where traces go: `TraceStore`, or anything else that keeps them."""

    def add(self, traces: Sequence[Trace], *, label: str = "", step: int = 0, group: Group | None = None) -> None:
        """Keep `traces`, all or none; `group` if they make it whole."""
        ...


def group_specs(task: Task, thinking: Thinking, *, group: str, size: int, seed: int) -> list[EpisodeSpec]:
    """The episodes of one group; the seed of each is derived from `seed`, `group` and its place."""
    return [
        EpisodeSpec(task=task, thinking=thinking, group=group, seed=_derived(f"{seed}/{group}/{place}"))
        for place in range(size)
    ]


def _derived(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class Roller:
    """Plays episodes of one environment with one agent.

    engine: what speaks, or `PolicySpeakers`. concurrency: most episodes in flight; take several times the engine's
    slots where tools are slow. retries: how often an episode is played again after an infrastructure failure.
    options: sampling and time-outs; `temperature`, where given, takes the place of theirs. store: gets all traces,
    those of a group in one transaction. reception: for an agent whose program asks for its turns. on_trace,
    on_progress: called as each attempt ends; they must not raise.
    """

    def __init__(
        self,
        engine: Engine | Speakers,
        renderer: Renderer,
        env: Env,
        agent: Agent,
        *,
        temperature: float | None = None,
        concurrency: int = 256,
        retries: int = 2,
        costs: Costs | None = None,
        options: EpisodeOptions | None = None,
        store: TraceSink | None = None,
        reception: Reception | None = None,
        on_trace: Callable[[Trace], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        if concurrency < 1 or retries < 0:
            raise ConfigError(f"roller: concurrency={concurrency}, retries={retries}: expected at least 1 and 0")
        options = options or EpisodeOptions()
        self.progress = Progress()
        self._stage = Stage(
            speakers=engine if isinstance(engine, Speakers) else EngineSpeakers(engine),
            renderer=renderer,
            env=env,
            agent=agent,
            options=options if temperature is None else replace(options, temperature=temperature),
            costs=costs or Costs(),
            reception=reception,
            meter=self.progress,
        )
        self._concurrency, self._retries = concurrency, retries
        self._store, self._on_trace, self._on_progress = store, on_trace, on_progress
        self._rolls: set[Roll] = set()

    @property
    def concurrency(self) -> int:
        """Most episodes in flight."""
        return self._concurrency

    async def groups(self, specs: Iterable[EpisodeSpec], *, label: str = "", step: int = 0) -> AsyncIterator[Group]:
        """Play `specs` and yield each group when it is whole; its traces are the final attempts, in order of specs.

        Episodes go on while the caller holds a group. Leaving the iteration early needs `aclosing` or `shutdown`:
        what is in flight is then cancelled and emitted as such; groups that it leaves incomplete are not yielded.
        Raises `ConfigError` if the specs of one group differ in task or thinking, `StoreError` from the store.
        """
        ready: asyncio.Queue[Group | None] = asyncio.Queue()
        roll, _ = self._start(specs, label, step, ready)
        try:
            while (group := await ready.get()) is not None:
                yield group
            roll.raise_failure()
        finally:
            await roll.stop()

    async def run(self, specs: Iterable[EpisodeSpec], *, label: str = "", step: int = 0) -> list[Trace]:
        """Play `specs` and return the final attempt of each that was started, in their order.

        After `shutdown` the cancelled ones are among them. Raises as `groups` does.
        """
        ready: asyncio.Queue[Group | None] = asyncio.Queue()
        roll, places = self._start(specs, label, step, ready)
        try:
            while await ready.get() is not None:
                pass
            roll.raise_failure()
            return [trace for group, place in places if (trace := group.finals[place]) is not None]
        finally:
            await roll.stop()

    async def shutdown(self) -> None:
        """Start nothing more, cancel what is in flight, and wait until all of it is emitted."""
        await asyncio.gather(*(roll.stop() for roll in tuple(self._rolls)))

    def open(
        self,
        deliver: Callable[[Group | None], None],
        *,
        label: str = "",
        speakers: Callable[[Speakers], Speakers] | None = None,
        lost: Callable[[str], None] | None = None,
    ) -> Roll:
        """A roll to which groups are added while it goes on.

        deliver: called with each group as it is whole, and with None when the roll has ended. lost: with the name of
        each that will never be whole, but for those that are left when it ends. speakers: what stands between the
        episodes and who speaks.
        """
        stage = self._stage if speakers is None else replace(self._stage, speakers=speakers(self._stage.speakers))
        roll = Roll(self, stage, label, deliver, lost)
        self._rolls.add(roll)
        return roll

    def _start(
        self, specs: Iterable[EpisodeSpec], label: str, step: int, ready: asyncio.Queue[Group | None]
    ) -> tuple[Roll, list[tuple[_Gathering, int]]]:
        roll = self.open(ready.put_nowait, label=label)
        try:
            places = roll.add(specs, step=step)
        except ConfigError:
            self._rolls.discard(roll)
            raise
        roll.end()
        return roll, places

    def _emit(self, trace: Trace, final: bool) -> None:
        progress = self.progress
        if not final:
            progress.retried += 1
        elif trace.outcome.by == "cancelled":
            progress.cancelled += 1
        else:
            progress.finished += 1
            progress.infrastructure += not trace.outcome.learnable
        if self._on_trace is not None:
            self._on_trace(trace)
        if self._on_progress is not None:
            self._on_progress(progress)


@dataclass(slots=True, eq=False)
class _Gathering:
    """A group on its way: its specs, the final attempts so far, all attempts so far, and the tasks that play."""

    name: str
    step: int
    specs: list[EpisodeSpec] = field(default_factory=list)
    finals: list[Trace | None] = field(default_factory=list)
    missing: int = 0
    attempts: list[Trace] = field(default_factory=list)
    playing: set[asyncio.Task[None]] = field(default_factory=set)
    given_up: bool = False


class Roll:
    """Groups of episodes in flight for one caller; `Roller.open` makes it.

    flying, waiting: episodes that are played, and that wait until others have ended.
    """

    def __init__(
        self,
        roller: Roller,
        stage: Stage,
        label: str,
        deliver: Callable[[Group | None], None],
        lost: Callable[[str], None] | None = None,
    ) -> None:
        self._roller, self._stage, self._label, self._deliver, self._lost = roller, stage, label, deliver, lost
        self.waiting: deque[tuple[_Gathering, int]] = deque()
        self.flying: set[asyncio.Task[None]] = set()
        self._groups: dict[str, _Gathering] = {}
        self._failure: BaseException | None = None
        self._ended = self._over = self._stopped = self._holding = False

    def add(self, specs: Iterable[EpisodeSpec], *, step: int = 0) -> list[tuple[_Gathering, int]]:
        """Play these too, after those that wait. step: under which their traces are kept.

        Raises `ConfigError` if the specs of one group differ in task or thinking, or its name is in flight already.
        """
        if self._ended or self._stopped:
            raise ConfigError("roll.add: it has ended; open another one")
        groups: dict[str, _Gathering] = {}
        places = []
        for spec in specs:
            group = groups.setdefault(spec.group, _Gathering(spec.group, step))
            _fits(spec, group.specs[0] if group.specs else spec)
            places.append((group, len(group.specs)))
            group.specs.append(spec)
        for name, group in groups.items():
            if name in self._groups:
                raise ConfigError(f"group {name!r} is in flight already; every group needs a name of its own")
            group.finals, group.missing = [None] * len(group.specs), len(group.specs)
        self._groups |= groups
        if self._failure is None:
            self.waiting.extend(places)
        self._fill()
        return places

    def give_up(self, name: str) -> None:
        """Cancel what is in flight of a group. Its attempts are emitted, and it is never delivered."""
        group = self._groups.get(name)
        if group is None:
            return
        group.given_up = True
        unstarted = [entry for entry in self.waiting if entry[0] is group]
        for entry in unstarted:
            self.waiting.remove(entry)
        group.missing -= len(unstarted)
        for task in group.playing:
            task.cancel()
        if not group.missing:
            self._complete(group)

    def end(self) -> None:
        """Nothing more will be added."""
        self._ended = True
        self._fill()

    async def stop(self) -> None:
        """Cancel what is in flight; all of it has been emitted when this returns."""
        self._stopped = self._ended = True
        self.waiting.clear()
        flying = tuple(self.flying)
        for task in flying:
            task.cancel()
        if flying:
            await asyncio.wait(flying)
        self._fill()
        self._roller._rolls.discard(self)

    def raise_failure(self) -> None:
        """Raise what went wrong in the roller itself, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _fill(self) -> None:
        """Start episodes while there is room; say so when there is nothing left to wait for."""
        while self.waiting and len(self.flying) < self._roller.concurrency:
            group, place = self.waiting.popleft()
            if not self._holding:
                self._holding = True
                COLLECTOR.hold()
            task = asyncio.create_task(self._play(group, place))
            self.flying.add(task)
            group.playing.add(task)
            task.add_done_callback(partial(self._landed, group))
        if self.flying:
            return
        if self._holding:
            self._holding = False
            COLLECTOR.let_go()
        if self._over:
            return
        if self._ended or self._failure is not None:
            self._over = True
            try:
                for group in tuple(self._groups.values()):
                    self._keep(group)
            except Exception as error:
                self._failure = self._failure or error
            self._deliver(None)

    def _landed(self, group: _Gathering, task: asyncio.Task[None]) -> None:
        self.flying.discard(task)
        group.playing.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():  # before it had begun: else an episode gives a trace
            group.missing -= 1
            if not group.missing:
                try:
                    self._complete(group)
                except Exception as failure:
                    error = failure
        if error is not None:
            self._failure = self._failure or error
            self.waiting.clear()
        self._fill()

    async def _play(self, group: _Gathering, place: int) -> None:
        """One episode, with its retries. Emits as it goes, so that no later cancellation can lose a trace."""
        roller, spec = self._roller, group.specs[place]
        roller.progress.started += 1
        while True:
            trace = await run_episode(spec, self._stage)
            final = trace.outcome.learnable or trace.outcome.by == "cancelled" or spec.attempt >= roller._retries
            group.attempts.append(trace)
            roller._emit(trace, final)
            if final:
                break
            spec = replace(spec, attempt=spec.attempt + 1)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                task.cancel()  # it came while the last attempt was closing, which nothing may interrupt
        group.finals[place] = trace
        group.missing -= 1
        if not group.missing:
            self._complete(group)

    def _complete(self, group: _Gathering) -> None:
        del self._groups[group.name]
        finals = tuple(trace for trace in group.finals if trace is not None and trace.outcome.by != "cancelled")
        whole = None
        if not group.given_up and len(finals) == len(group.specs):
            whole = Group(id=group.name, task=finals[0].task, thinking=finals[0].thinking, traces=finals)
        self._keep(group, whole)
        if whole is not None:
            self._roller.progress.groups += 1
            self._deliver(whole)
        elif self._lost is not None:
            self._lost(group.name)

    def _keep(self, group: _Gathering, whole: Group | None = None) -> None:
        if self._roller._store is not None and group.attempts:
            self._roller._store.add(group.attempts, label=self._label, step=group.step, group=whole)


def _fits(spec: EpisodeSpec, first: EpisodeSpec) -> None:
    """Raises `ConfigError` where an episode cannot be played, or not in one group with `first`."""
    if spec.thinking.effort is not None:
        raise ConfigError(
            f"an episode of task {spec.task.id} is asked for with effort {spec.thinking.effort:g}, which was "
            "never turned into a budget; use `askesis.chat.resolve` with the checkpoint's table of effort"
        )
    if (first.task.id, first.thinking) != (spec.task.id, spec.thinking):
        raise ConfigError(
            f"group {spec.group!r} mixes task {first.task.id} ({first.thinking.mode}) with "
            f"{spec.task.id} ({spec.thinking.mode}); a group is one task in one thinking mode"
        )
