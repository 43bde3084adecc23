"""Many episodes at once: as many as `concurrency` allows, so that the engine is busy while tools run.

Invariant: every attempt that starts is emitted exactly once (to the store and to `on_trace`), as what it became or as
cancelled. Groups come out whole, in the order in which they are finished.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

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
        self._rolls: set[_Roll] = set()

    async def groups(self, specs: Iterable[EpisodeSpec], *, label: str = "", step: int = 0) -> AsyncIterator[Group]:
        """Play `specs` and yield each group when it is whole; its traces are the final attempts, in order of specs.

        Episodes go on while the caller holds a group. Leaving the iteration early needs `aclosing` or `shutdown`:
        what is in flight is then cancelled and emitted as such; groups that it leaves incomplete are not yielded.
        Raises `ConfigError` if the specs of one group differ in task or thinking, `StoreError` from the store.
        """
        roll = self._start(specs, label, step)
        try:
            while (group := await roll.ready.get()) is not None:
                yield group
            roll.raise_failure()
        finally:
            await self._stop(roll)

    async def run(self, specs: Iterable[EpisodeSpec], *, label: str = "", step: int = 0) -> list[Trace]:
        """Play `specs` and return the final attempt of each that was started, in their order.

        After `shutdown` the cancelled ones are among them. Raises as `groups` does.
        """
        roll = self._start(specs, label, step)
        try:
            while await roll.ready.get() is not None:
                pass
            roll.raise_failure()
            return [trace for trace in roll.finals if trace is not None]
        finally:
            await self._stop(roll)

    async def shutdown(self) -> None:
        """Start nothing more, cancel what is in flight, and wait until all of it is emitted."""
        await asyncio.gather(*(self._stop(roll) for roll in tuple(self._rolls)))

    def _start(self, specs: Iterable[EpisodeSpec], label: str, step: int) -> _Roll:
        roll = _Roll(tuple(specs), label, step)
        self._rolls.add(roll)
        self._fill(roll)
        return roll

    async def _stop(self, roll: _Roll) -> None:
        """Cancel what is in flight; all of it has been emitted when this returns."""
        roll.waiting.clear()
        flying = tuple(roll.flying)
        for task in flying:
            task.cancel()
        if flying:
            await asyncio.wait(flying)
        self._rolls.discard(roll)

    def _fill(self, roll: _Roll) -> None:
        """Start episodes while there is room; say so when there is nothing left to wait for."""
        while roll.waiting and len(roll.flying) < self._concurrency:
            task = asyncio.create_task(self._play(roll, roll.waiting.popleft()))
            roll.flying.add(task)
            task.add_done_callback(lambda done: self._landed(roll, done))
        if not roll.flying and not roll.over:
            roll.over = True
            try:
                self._keep(roll, [trace for group in roll.groups.values() for trace in group.attempts])
            except Exception as error:
                roll.failure = roll.failure or error
            roll.ready.put_nowait(None)

    def _landed(self, roll: _Roll, task: asyncio.Task[None]) -> None:
        roll.flying.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            roll.failure = roll.failure or error
            roll.waiting.clear()
        self._fill(roll)

    async def _play(self, roll: _Roll, index: int) -> None:
        """One episode, with its retries. Emits as it goes, so that no later cancellation can lose a trace."""
        spec, group = roll.specs[index], roll.groups[roll.specs[index].group]
        self.progress.started += 1
        while True:
            trace = await run_episode(spec, self._stage)
            final = trace.outcome.learnable or trace.outcome.by == "cancelled" or spec.attempt >= self._retries
            group.attempts.append(trace)
            self._emit(trace, final)
            if final:
                break
            spec = replace(spec, attempt=spec.attempt + 1)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                task.cancel()  # it came while the last attempt was closing, which nothing may interrupt
        roll.finals[index] = trace
        group.missing.discard(index)
        if not group.missing:
            self._complete(roll, spec.group)

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

    def _complete(self, roll: _Roll, name: str) -> None:
        gathered = roll.groups.pop(name)
        finals = tuple(trace for index in gathered.indices if (trace := roll.finals[index]) is not None)
        whole = None
        if all(trace.outcome.by != "cancelled" for trace in finals):
            whole = Group(id=name, task=finals[0].task, thinking=finals[0].thinking, traces=finals)
        self._keep(roll, gathered.attempts, whole)
        if whole is not None:
            self.progress.groups += 1
            roll.ready.put_nowait(whole)

    def _keep(self, roll: _Roll, traces: list[Trace], group: Group | None = None) -> None:
        if self._store is not None and traces:
            self._store.add(traces, label=roll.label, step=roll.step, group=group)


@dataclass(slots=True)
class _Gathering:
    """A group on its way: the places of its specs, those still missing, and all attempts so far."""

    indices: list[int] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    attempts: list[Trace] = field(default_factory=list)


class _Roll:
    """One call of `groups` or `run`. `ready` has finished groups, then None."""

    def __init__(self, specs: Sequence[EpisodeSpec], label: str, step: int) -> None:
        self.specs, self.label, self.step = specs, label, step
        self.waiting = deque(range(len(specs)))
        self.flying: set[asyncio.Task[None]] = set()
        self.finals: list[Trace | None] = [None] * len(specs)
        self.groups: dict[str, _Gathering] = {}
        self.ready: asyncio.Queue[Group | None] = asyncio.Queue()
        self.failure: BaseException | None = None
        self.over = False
        for index, spec in enumerate(specs):
            if spec.thinking.effort is not None:
                raise ConfigError(
                    f"an episode of task {spec.task.id} is asked for with effort {spec.thinking.effort:g}, which was "
                    "never turned into a budget; use `askesis.chat.resolve` with the checkpoint's table of effort"
                )
            group = self.groups.setdefault(spec.group, _Gathering())
            first = specs[group.indices[0]] if group.indices else spec
            if (first.task.id, first.thinking) != (spec.task.id, spec.thinking):
                raise ConfigError(
                    f"group {spec.group!r} mixes task {first.task.id} ({first.thinking.mode}) with "
                    f"{spec.task.id} ({spec.thinking.mode}); a group is one task in one thinking mode"
                )
            group.indices.append(index)
            group.missing.add(index)

    def raise_failure(self) -> None:
        """Raise what went wrong in the roller itself, if anything did."""
        if self.failure is not None:
            raise self.failure
