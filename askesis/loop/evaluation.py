"""Held-out tasks: who succeeds how often, in which mode, at which cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from askesis.loop.reception import reception_of
from askesis.loop.results import Evaluation, Row
from askesis.loop.stream import derived_seed, tasks_of
from askesis.rollout import (
    Costs,
    EpisodeOptions,
    EpisodeSpec,
    Progress,
    Roller,
    Speakers,
    TraceSink,
    by_mode,
    hybrid,
    metric,
)
from askesis.types import Agent, Engine, Env, EnvError, Renderer, Task, Thinking, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What is asked: each task in each mode at each temperature (0: greedy). The same for all who sit it."""

    tasks: Sequence[Task]
    modes: Sequence[Thinking]
    temperatures: Sequence[float]
    seed: int

    def specs(self) -> list[EpisodeSpec]:
        """The episodes at one temperature."""
        return [
            EpisodeSpec(
                task=task,
                thinking=mode,
                group=f"{mode.mode}/{place}",
                seed=derived_seed(self.seed, mode.mode, place),
            )
            for mode in self.modes
            for place, task in enumerate(self.tasks)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """With what episodes are played. options: time-outs.

    store: keeps their traces, under `eval:<name>` (`eval:<name>:greedy`).
    """

    renderer: Renderer
    env: Env
    agent: Agent
    costs: Costs
    concurrency: int = 256
    options: EpisodeOptions | None = None
    store: TraceSink | None = None
    on_progress: Callable[[Progress], None] | None = None

    async def examine(
        self,
        speakers: Engine | Speakers,
        exam: Exam,
        *,
        name: str,
        step: int = 0,
        stop: Callable[[Roller], None] | None = None,
    ) -> Evaluation:
        """Play it all. stop: is given each roller, so that it can shut it down; what is missing then is left out."""
        begun = time.monotonic()
        played = await asyncio.gather(
            *(self._play(speakers, exam, temperature, name, step, stop) for temperature in exam.temperatures)
        )
        rows = [
            row
            for temperature, traces in zip(exam.temperatures, played, strict=True)
            for row in rows_of(traces, temperature)
        ]
        return Evaluation(
            name=name,
            env=self.env.name,
            tasks=len(exam.tasks),
            rows=tuple(rows),
            agent=self.agent.name,
            step=step,
            seconds=time.monotonic() - begun,
            lost=lost(trace for traces in played for trace in traces),
            hybrid=hybrid(
                [trace for trace in played[0] if trace.thinking == Thinking()],
                [trace for trace in played[0] if not trace.thinking.enabled],
            ),
        )

    async def _play(
        self,
        speakers: Engine | Speakers,
        exam: Exam,
        temperature: float,
        name: str,
        step: int,
        stop: Callable[[Roller], None] | None,
    ) -> list[Trace]:
        roller = Roller(
            speakers,
            self.renderer,
            self.env,
            self.agent,
            temperature=temperature,
            concurrency=self.concurrency,
            options=self.options,
            costs=self.costs,
            store=self.store,
            reception=reception_of(self.agent, self.renderer),
            on_progress=self.on_progress,
        )
        if stop is not None:
            stop(roller)
        label = f"eval:{name}" + ("" if temperature else ":greedy")
        traces = await roller.run(exam.specs(), label=label, step=step)
        return [trace for trace in traces if trace.outcome.by != "cancelled"]


def rows_of(traces: Sequence[Trace], temperature: float) -> list[Row]:
    """A row for each mode."""
    rows = []
    for mode, summary in by_mode(traces).items():
        own = [trace for trace in traces if trace.thinking.mode == mode]
        names = dict.fromkeys(term.name for trace in own for term in trace.rewards if term.weight == 0)
        rows.append(
            Row(
                mode=mode,
                temperature=temperature,
                summary=summary,
                metrics={name: metric(own, name) for name in names},
                thinking=own[0].thinking,
            )
        )
    return rows


def lost(traces: Iterable[Trace]) -> str:
    """What ended the first episode that the machinery, not the policy, ended; empty if there is none."""
    ends = (trace.outcome for trace in traces if not trace.outcome.learnable)
    return next((f"{end.by}, {end.reason}: {end.detail}" for end in ends), "")


def demand_played(evaluation: Evaluation) -> None:
    """Raise `EnvError` if the machinery ended every single episode: there is nothing to read off."""
    if not any(row.summary.learnable for row in evaluation.rows):
        raise EnvError(
            f"environment {evaluation.env!r}: not one of {sum(row.summary.episodes for row in evaluation.rows)} "
            f"episodes came to an end that says something about the policy; the first ended by {evaluation.lost}"
        )


def heldout_tasks(env: Env, count: int, seed: int) -> Sequence[Task]:
    """At most `count` tasks that training never sees. Raises `EnvError` if there are none."""
    return tasks_of(env, "heldout", seed=seed, limit=count)
