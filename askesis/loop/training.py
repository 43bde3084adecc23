"""The one loop: episodes, samples, gradient, a new version of the weights, the ledger, a checkpoint.

    draws entered -> episodes played and stored -> trainer.step -> engine told -> checkpoint -> step committed

How far the left end may run ahead of the right one is the recipe's `rollout.staleness`; with 0 they take turns. The
trainer computes in a thread of its own: only what touches the ledger, the engine or an episode is done in the event
loop.

Killed anywhere, a run goes on from the last step whose commit names a checkpoint: what came after is abandoned in the
ledger (and kept in the store), its prompts are drawn again, as are those that were on their way. Reinforcement and
supervised learning differ in the source of episodes and in the loss, nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from askesis.audit import is_canary
from askesis.loop.ageing import Age, age, length
from askesis.loop.alarms import Alarms
from askesis.loop.beside import Beside, quick_turns
from askesis.loop.checkpoints import Position, prune, write_checkpoint
from askesis.loop.display import Display, duration
from askesis.loop.draws import Draws
from askesis.loop.evaluation import Exam, Examiner, demand_played, heldout_tasks, lost
from askesis.loop.folder import RunFolder, write_whole
from askesis.loop.gate import Gate
from askesis.loop.learner import Learner
from askesis.loop.line import Line, Tally
from askesis.loop.prepared import Prepared
from askesis.loop.results import Evaluation, StepRecord, plain_values
from askesis.loop.scalars import Scalars
from askesis.loop.source import Batch, demonstration_source, demonstrators, rollout_source, sink_of
from askesis.loop.stream import all_thinkings, limited
from askesis.loop.updating import update
from askesis.loop.watch import LOOKED_BACK, Watch
from askesis.models import fingerprint
from askesis.rollout import (
    GIVEN_UP,
    EngineSpeakers,
    Pace,
    Progress,
    Roller,
    Scheduler,
    Speakers,
    TraceStore,
    by_mode,
    summarise,
)
from askesis.types import Engine, Trace


class Plays(Protocol):
    """What has episodes in flight."""

    async def shutdown(self) -> None: ...


class Stop:
    """Whether somebody wants the run to end; shuts down what plays episodes and is told to it."""

    def __init__(self) -> None:
        self.asked = False
        self._playing: set[Plays] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, plays: Plays) -> None:
        """Shut this one down too, when it comes to that."""
        self._playing.add(plays)
        if self.asked:
            self._shut(plays)

    def ask(self) -> None:
        """End soon: what is in flight is cancelled and emitted. The second time it is the usual interruption."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        for plays in self._playing:
            self._shut(plays)

    def _shut(self, plays: Plays) -> None:
        task = asyncio.get_running_loop().create_task(plays.shutdown())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask; only the main thread gets signals."""
        loop = asyncio.get_running_loop()
        kinds = []
        for kind in (signal.SIGINT, signal.SIGTERM):
            with suppress(RuntimeError, ValueError):
                loop.add_signal_handler(kind, self.ask)
                kinds.append(kind)
        try:
            yield
        finally:
            for kind in kinds:
                loop.remove_signal_handler(kind)


@dataclass(slots=True, kw_only=True)
class Training:
    """A run on its way. position: of the last committed step; gate: what the audit decided; history: its steps;
    evaluations: in order."""

    prepared: Prepared
    learner: Learner
    folder: RunFolder
    store: TraceStore
    display: Display
    position: Position
    gate: Gate
    history: list[StepRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)
    stop: Stop = field(default_factory=Stop)
    stopped_by: str = ""
    watch: Watch = field(init=False)
    _engine: Engine | None = None
    _beside: Beside = field(init=False)
    _saved: int = 0  # the step of the newest checkpoint

    def __post_init__(self) -> None:
        self._beside = Beside(self.prepared.recipe.run.stall_s, self.display.say)
        self.watch = Watch(self.prepared.recipe.monitors, self.folder.findings, self.prepared.env)

    async def run(self) -> None:
        """Evaluate, train until a bound is reached or somebody interrupts, evaluate."""
        self._saved = self.position.step
        scalars = (
            Scalars(self.folder.tensorboard, first=self.position.step + 1)
            if self.prepared.recipe.log.tensorboard
            else None
        )
        try:
            ahead = self.prepared.recipe.rollout.staleness > 0
            with self.stop.on_signals(), self.display.also("askesis.rollout"), quick_turns(ahead):
                if self.prepared.recipe.eval.before:
                    await self.evaluate("before")
                await self._train(scalars)
                if not self.stop.asked:
                    await self.evaluate("after", greedy=self.prepared.recipe.eval.greedy)
        finally:
            if scalars is not None:
                scalars.close()
            if self._engine is not None:
                await self._engine.close()
            self._beside.close()

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _train(self, scalars: Scalars | None) -> None:
        self.stopped_by = self._bound()
        if not self.stopped_by:
            if self.prepared.recipe.demonstrations is None:
                self.watch.recall(self._latest())
            line = await self._line()
            try:
                await self._steps(line, scalars)
            finally:
                await line.scheduler.shutdown()
        if self.stop.asked:
            self.stopped_by = "interrupt"
        await self._save_last()

    async def _steps(self, line: Line, scalars: Scalars | None) -> None:
        every = self.prepared.recipe.eval.every
        self._begin(line)
        while not self.stopped_by:
            step = self.position.step
            if every and step and step % every == 0 and not self.stop.asked:  # also one that a kill cut off
                await self.evaluate(f"step {step}", greedy=False)
                line.tally.skip()
            record = await self._step(line)
            if record is None:
                break
            self._tell(record, scalars)

    def _begin(self, line: Line) -> None:
        """Enter the next step: from now on what is drawn and emitted is its."""
        step = self.position.step + 1
        staleness = self.prepared.recipe.rollout.staleness
        self.store.ledger.begin_step(step, version=self.position.version, staleness=staleness)
        line.begin(step)

    def _latest(self) -> Iterator[Trace]:
        """What the steps before this one played, as many as monitors look back at, in their order."""
        steps: list[int] = []
        episodes = 0
        for record in reversed(self.history):
            if episodes >= LOOKED_BACK:
                break
            steps.append(record.step)
            episodes += record.episodes
        for step in reversed(steps):
            yield from self.store.traces(label="train", step=step, final=True)

    async def _step(self, line: Line) -> StepRecord | None:
        """One step, committed; None if there is nothing left to draw, or it was interrupted."""
        begun = time.monotonic()
        if line.scheduler.version != self.position.version:
            line.scheduler.advance(self.position.version, seconds=self.history[-1].train_s)
        taken = await line.take()
        if taken is None:
            self.stopped_by = self.stopped_by or "demonstrations"
            return None
        batch = await line.source.judge(taken[1], self.position.step + 1)
        sampled = time.monotonic()
        figures, fingerprints = await self._beside.do("a step of the trainer", lambda: self._learn(batch))
        version = self.position.version + 1
        repeated = await self._hand_over(version, fingerprints[1])
        done = time.monotonic()
        ages = age(batch.samples, self.position.version)
        self.position = Position(
            step=self.position.step + 1,
            version=version,
            seconds=self.position.seconds + done - begun,
            tokens=self.position.tokens + sum(len(sample) for sample in batch.samples),
        )
        record = step_record(
            batch,
            self.position,
            line,
            taken[0].figures,
            sample_s=sampled - begun,
            train_s=done - sampled,
            ages=ages,
            repeated=repeated,
            trainer=figures,
            fingerprints=fingerprints,
            watch=self.watch,
        )
        self.history.append(record)
        await self._commit(line, batch, record)
        return record

    def _learn(self, batch: Batch) -> tuple[Mapping[str, float], tuple[str, str]]:
        """In the trainer's thread: what a batch teaches; figures, and the fingerprints before and after."""
        began = fingerprint(self.prepared.model)
        figures: Mapping[str, float] = {}
        if batch.samples:
            figures = self.learner.step(batch.samples, progress=self._progress(), version=self.position.version)
        return figures, (began, fingerprint(self.prepared.model))

    async def _hand_over(self, version: int, made: str) -> int:
        """Give the engine the weights that were made. How often that had to be repeated.

        An engine with a copy of its own (where rollout runs ahead, or on other machines) is sent them.
        """
        if self._engine is None:
            return 0
        seconds = self.prepared.recipe.rollout.timeouts.update_s
        return await update(self._engine, self.prepared.sent(), version, fingerprint=made, seconds=seconds) - 1

    async def _commit(self, line: Line, batch: Batch, record: StepRecord) -> None:
        """Write the step down, with a checkpoint if one is due; then what is drawn and emitted is the next one's."""
        step = record.step
        with self.folder.metrics.open("a", encoding="utf-8") as file:  # before the commit: no committed step lacks it
            file.write(json.dumps(plain_values(record)) + "\n")
        self.stopped_by = "monitors" if self.watch.stop else self._bound()
        due = self.stopped_by or step - self._saved >= self.prepared.recipe.checkpoint.every_steps
        name = await self._beside.do("a checkpoint", self._write) if due else None
        self.store.ledger.commit_step(
            step,
            record.version,
            trained=batch.trained,
            dropped={**batch.dropped, **dict.fromkeys(line.given_up, GIVEN_UP)},
            checkpoint=name,
            fingerprints=(record.began, record.made),
        )
        if not self.stopped_by:
            self._begin(line)
        if name is not None:
            prune(self.folder, self.prepared.recipe.checkpoint.keep)

    def _write(self) -> str:
        name = write_checkpoint(
            self.folder,
            self.position,
            model=self.prepared.model,
            renderer=self.prepared.renderer,
            trainer=self.learner,
        )
        self._saved = self.position.step
        return name

    async def _save_last(self) -> None:
        """Give the last committed step a checkpoint if it has none: an interrupted run loses no training."""
        if self.position.step > self._saved:
            self.store.ledger.mark_checkpoint(self.position.step, await self._beside.do("a checkpoint", self._write))
            prune(self.folder, self.prepared.recipe.checkpoint.keep)

    def _bound(self) -> str:
        """Which bound of the run is reached, or the empty string."""
        run, shown, position = self.prepared.recipe.run, self.prepared.recipe.demonstrations, self.position
        if run.steps is not None and position.step >= run.steps:
            return "steps"
        if run.minutes is not None and position.seconds + self._step_s() / 2 >= run.minutes * 60:
            return "minutes"
        if shown is not None and shown.tokens is not None and position.tokens >= shown.tokens:
            return "demonstrations"
        return ""

    def _step_s(self) -> float:
        recent = self.history[-10:]
        return sum(record.sample_s + record.train_s for record in recent) / max(len(recent), 1)

    def _progress(self) -> float:
        """How much of the run is done, 0 to 1, by the bound that comes first."""
        run, shown, position = self.prepared.recipe.run, self.prepared.recipe.demonstrations, self.position
        shares = [0.0]
        if run.steps is not None:
            shares.append(position.step / run.steps)
        if run.minutes is not None:
            shares.append(position.seconds / (run.minutes * 60))
        if shown is not None and shown.tokens is not None:
            shares.append(position.tokens / shown.tokens)
        if shown is not None and shown.episodes is not None:
            shares.append(position.step * shown.per_step / (shown.episodes * shown.epochs))
        return min(1.0, max(shares))

    def _left(self) -> str:
        done = self._progress()
        if not 0 < done < 1:
            return ""
        return f"{duration(self.position.seconds * (1 - done) / done)} left"

    def _tell(self, record: StepRecord, scalars: Scalars | None) -> None:
        """Show a step's figures."""
        if scalars is not None:
            scalars.step(record)
        self.display.step(record, self._left())
        for alarm in self.alarms.observe(record):
            self.display.alarm(alarm)
        self.folder.write_status(
            "running", step=record.step, seconds=round(record.seconds, 1), reward=plain_values(record.reward)
        )

    # -- what plays --------------------------------------------------------------------------------------------------

    async def engine(self) -> Engine:
        """The engine on the trainer's weights, made when it is first needed."""
        if self._engine is None:
            self._engine = self.prepared.engine()
            if (start := getattr(self._engine, "start", None)) is not None:
                self.display.progress("starting the engine")
                await start()
            seconds = self.prepared.recipe.rollout.timeouts.update_s
            meant = fingerprint(self.prepared.model)
            sent = self.prepared.sent()
            await update(self._engine, sent, self.position.version, fingerprint=meant, seconds=seconds)
        return self._engine

    async def _line(self) -> Line:
        prepared, recipe = self.prepared, self.prepared.recipe
        speakers: Speakers
        if recipe.demonstrations is None:
            speakers = EngineSpeakers(await self.engine())
            source = rollout_source(recipe, prepared.env, self.learner.advantages, self.gate.weights, self.watch)
        else:
            speakers = demonstrators(recipe, prepared.env, prepared.renderer)
            source = demonstration_source(recipe, prepared.env)
        sink = sink_of(recipe, self.store)
        of = source.per_step * (1 if recipe.demonstrations else recipe.rollout.group_size)
        roller = Roller(
            speakers,
            prepared.renderer,
            prepared.env,
            prepared.agent,
            options=prepared.options(temperature=recipe.rollout.temperature),
            concurrency=recipe.rollout.concurrency,
            retries=recipe.rollout.retries,
            costs=prepared.costs(),
            store=sink,
            reception=prepared.reception,
            on_progress=lambda progress: self.display.progress("episodes", (progress.finished - 1) % of + 1, of),
        )
        draws = Draws(source, self.store.ledger)
        scheduler = Scheduler(
            roller,
            draw=draws.draw,
            may_spare=draws.may_spare,
            spare=recipe.rollout.spare,
            per_step=source.per_step,
            staleness=recipe.rollout.staleness,
            version=self.position.version,
            step=self.position.step + 1,
        )
        self.stop.watch(scheduler)
        return Line(
            source=source,
            draws=draws,
            sink=sink,
            scheduler=scheduler,
            tally=Tally(roller.progress),
            sampled=recipe.demonstrations is None,
            ahead=recipe.rollout.staleness > 0,
        )

    # -- evaluation --------------------------------------------------------------------------------------------------

    async def evaluate(self, name: str, *, greedy: bool | None = None) -> None:
        """Sit the exam and keep what came out, unless that was done already or evaluation is off."""
        settings = self.prepared.recipe.eval
        kept = self._evaluation_file(name)
        if not settings.tasks or any(one.name == name for one in self.evaluations):
            return
        recipe, step = self.prepared.recipe, self.position.step
        modes = recipe.demonstrations.modes if recipe.demonstrations else recipe.rollout.modes
        tasks = heldout_tasks(self.prepared.env, settings.tasks, settings.seed)
        greedy = settings.greedy if greedy is None else greedy
        exam = Exam(
            tasks=[limited(task, recipe.rollout.limits) for task in tasks],
            modes=all_thinkings(modes),
            temperatures=(settings.temperature, 0.0) if greedy and settings.temperature else (settings.temperature,),
            seed=settings.seed,
        )
        of, done = len(exam.tasks) * len(exam.modes) * len(exam.temperatures), Counter[int]()

        def on_progress(progress: Progress) -> None:
            done[id(progress)] = progress.finished
            self.display.progress(f"evaluating ({name})", done.total(), of)

        examiner = Examiner(
            renderer=self.prepared.renderer,
            env=self.prepared.env,
            agent=self.prepared.agent,
            costs=self.prepared.costs(),
            concurrency=recipe.rollout.concurrency,
            options=self.prepared.options(temperature=1.0),
            store=self.store,
            on_progress=on_progress,
        )
        evaluation = await examiner.examine(await self.engine(), exam, name=name, step=step, stop=self.stop.watch)
        if self.stop.asked:
            return
        if not step:
            demand_played(evaluation)
        self.evaluations.append(evaluation)
        kept.parent.mkdir(exist_ok=True)
        write_whole(kept, json.dumps(evaluation.to_json(), indent=2) + "\n")
        self.display.evaluation(evaluation, quiet=name == "after")  # the table comes soon

    def _evaluation_file(self, name: str) -> Path:
        return self.folder.evaluations / f"{name.replace(' ', '-')}.json"


def step_record(
    batch: Batch,
    position: Position,
    line: Line,
    pace: Pace,
    *,
    sample_s: float,
    train_s: float,
    ages: Age,
    repeated: int,
    trainer: Mapping[str, float],
    fingerprints: tuple[str, str],
    watch: Watch,
) -> StepRecord:
    """The figures of a step."""
    traces = [trace for trace in batch.traces if not is_canary(trace.task)]
    overall, modes = summarise(traces), by_mode(traces)
    done, lengths = line.tally.take(), line.sink.lengths()
    taken = [length(trace) for group in batch.groups for trace in group.learnable]
    return StepRecord(
        step=position.step,
        version=position.version,
        seconds=position.seconds,
        sample_s=sample_s,
        train_s=train_s,
        reward=overall.reward,
        success=overall.success,
        success_by_mode={mode: modes[mode].success for mode in sorted(modes, reverse=True)},
        thinking_by_mode={mode: modes[mode].thinking_tokens for mode in sorted(modes, reverse=True)},
        triggered={mode: modes[mode].triggered for mode in sorted(modes, reverse=True)},
        closed_by_itself={mode: modes[mode].closed_by_itself for mode in sorted(modes, reverse=True)},
        closed_by_budget={mode: modes[mode].closed_by_budget for mode in sorted(modes, reverse=True)},
        turns=overall.turns,
        truncated=overall.truncated,
        episodes=overall.episodes,
        retried=done.retried,
        infrastructure=overall.infrastructure,
        groups=len(batch.groups),
        trained_groups=len(batch.trained),
        dropped=Counter(batch.dropped.values()),
        outcomes=overall.outcomes,
        sampled_tokens=done.tokens if line.sampled else 0,
        trained_tokens=sum(len(sample) for sample in batch.samples),
        tool_s=done.tool_s,
        trainer=trainer,
        began=fingerprints[0],
        made=fingerprints[1],
        lost=lost(traces),
        findings=watch.counts,
        finding=watch.worst,
        lasted_s=done.seconds,
        staleness=ages.mean,
        staleness_max=ages.most,
        distances=ages.shares,
        given_up=len(line.given_up),
        waited=dict(pace.waited_s),
        held_s=pace.held_s,
        ready=pace.ready,
        flying=pace.flying,
        sampled_length=sum(lengths) / len(lengths) if lengths else math.nan,
        taken_length=sum(taken) / len(taken) if taken else math.nan,
        repeated_updates=repeated,
        ahead=line.ahead,
    )
