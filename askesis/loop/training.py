"""The one loop: episodes, samples, gradient, a new version of the weights, the ledger, a checkpoint.

    draws entered -> episodes played and stored -> trainer.step -> engine told -> checkpoint -> step committed

Killed anywhere, a run goes on from the last step whose commit names a checkpoint: what came after is abandoned in the
ledger (and kept in the store), its prompts are drawn again. Reinforcement and supervised learning differ in the source
of episodes and in the loss, nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from askesis.audit import is_canary
from askesis.loop.alarms import Alarms
from askesis.loop.checkpoints import Position, prune, write_checkpoint
from askesis.loop.display import Display, duration
from askesis.loop.evaluation import Exam, Examiner, demand_played, heldout_tasks, lost
from askesis.loop.folder import RunFolder, write_whole
from askesis.loop.gate import Gate
from askesis.loop.learner import Learner
from askesis.loop.prepared import Prepared
from askesis.loop.results import Evaluation, StepRecord, plain_values
from askesis.loop.scalars import Scalars
from askesis.loop.source import Batch, Source, demonstration_source, demonstrators, rollout_source, sink_of
from askesis.loop.stream import Prompt, all_thinkings, limited
from askesis.loop.updating import update
from askesis.loop.watch import LOOKED_BACK, Watch
from askesis.models import fingerprint
from askesis.rollout import Draw, EngineSpeakers, Progress, Roller, Speakers, TraceStore, by_mode, summarise
from askesis.types import Engine, Trace


class Stop:
    """Whether somebody wants the run to end; shuts down the rollers that are told to it."""

    def __init__(self) -> None:
        self.asked = False
        self._rollers: set[Roller] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, roller: Roller) -> None:
        """Shut this one down too, when it comes to that."""
        self._rollers.add(roller)
        if self.asked:
            self._shut(roller)

    def ask(self) -> None:
        """End soon: what is in flight is cancelled and emitted. The second time it is the usual interruption."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        for roller in self._rollers:
            self._shut(roller)

    def _shut(self, roller: Roller) -> None:
        task = asyncio.get_running_loop().create_task(roller.shutdown())
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
    _saved: int = 0  # the step of the newest checkpoint

    def __post_init__(self) -> None:
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
            with self.stop.on_signals():
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

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _train(self, scalars: Scalars | None) -> None:
        source = await self._source()
        if self.prepared.recipe.demonstrations is None:
            self.watch.recall(self._latest())
        every = self.prepared.recipe.eval.every
        self.stopped_by = self._bound()
        while not self.stopped_by:
            step = self.position.step
            if every and step and step % every == 0 and not self.stop.asked:  # also one that a kill cut off
                await self.evaluate(f"step {step}", greedy=False)
            record = await self._step(source)
            if record is None:
                break
            self._tell(record, scalars)
        if self.stop.asked:
            self.stopped_by = "interrupt"
        self._save_last()

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

    async def _step(self, source: Source) -> StepRecord | None:
        """One step, committed; None if there is nothing left to draw, or it was interrupted."""
        ledger, step = self.store.ledger, self.position.step + 1
        prompts = source.draw(ledger.position())
        if not prompts or self.stop.asked:
            self.stopped_by = self.stopped_by or "demonstrations"
            return None
        begun = time.monotonic()
        progress = source.roller.progress
        before = (progress.tool_s, progress.tokens, progress.retried)
        ledger.begin_step(step, [_draw(prompt) for prompt in prompts], version=self.position.version)
        batch = await source.play(prompts, step)
        if batch is None:
            return None
        sampled = time.monotonic()
        began = fingerprint(self.prepared.model)
        figures = (
            self.learner.step(batch.samples, progress=self._progress(), version=self.position.version)
            if batch.samples
            else {}
        )
        version = self.position.version + 1
        made = fingerprint(self.prepared.model)
        if self._engine is not None:
            seconds = self.prepared.recipe.rollout.timeouts.update_s
            await update(self._engine, {}, version, fingerprint=made, seconds=seconds)
        done = time.monotonic()
        tokens = sum(len(sample) for sample in batch.samples)
        self.position = Position(
            step=step,
            version=version,
            seconds=self.position.seconds + done - begun,
            tokens=self.position.tokens + tokens,
        )
        record = step_record(
            batch,
            self.position,
            sample_s=sampled - begun,
            train_s=done - sampled,
            tool_s=progress.tool_s - before[0],
            sampled_tokens=0 if self.prepared.recipe.demonstrations else progress.tokens - before[1],
            retried=progress.retried - before[2],
            trainer=figures,
            fingerprints=(began, made),
            watch=self.watch,
        )
        self.history.append(record)
        with self.folder.metrics.open("a", encoding="utf-8") as file:  # before the commit: no committed step lacks it
            file.write(json.dumps(plain_values(record)) + "\n")
        self.stopped_by = "monitors" if self.watch.stop else self._bound()
        due = self.stopped_by or step - self._saved >= self.prepared.recipe.checkpoint.every_steps
        name = self._write() if due else None
        ledger.commit_step(
            step,
            version,
            trained=batch.trained,
            dropped=batch.dropped,
            checkpoint=name,
            fingerprints=(began, made),
        )
        if name is not None:
            prune(self.folder, self.prepared.recipe.checkpoint.keep)
        return record

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

    def _save_last(self) -> None:
        """Give the last committed step a checkpoint if it has none: an interrupted run loses no training."""
        if self.position.step > self._saved:
            self.store.ledger.mark_checkpoint(self.position.step, self._write())
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
            seconds = self.prepared.recipe.rollout.timeouts.update_s
            meant = fingerprint(self.prepared.model)
            await update(self._engine, {}, self.position.version, fingerprint=meant, seconds=seconds)
        return self._engine

    async def _source(self) -> Source:
        prepared, recipe = self.prepared, self.prepared.recipe
        speakers: Speakers
        if recipe.demonstrations is None:
            speakers = EngineSpeakers(await self.engine())
        else:
            speakers = demonstrators(recipe, prepared.env, prepared.renderer)
        shown = recipe.demonstrations
        of = shown.per_step if shown else recipe.rollout.tasks_per_step * recipe.rollout.group_size
        roller = Roller(
            speakers,
            prepared.renderer,
            prepared.env,
            prepared.agent,
            options=prepared.options(temperature=recipe.rollout.temperature),
            concurrency=recipe.rollout.concurrency,
            retries=recipe.rollout.retries,
            costs=prepared.costs(),
            store=sink_of(recipe, self.store),
            reception=prepared.reception,
            on_progress=lambda progress: self.display.progress("episodes", (progress.finished - 1) % of + 1, of),
        )
        self.stop.watch(roller)
        if shown is None:
            return rollout_source(recipe, roller, prepared.env, self.learner.advantages, self.gate.weights, self.watch)
        return demonstration_source(recipe, roller, prepared.env)

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


def _draw(prompt: Prompt) -> Draw:
    return Draw(position=prompt.position, group=prompt.group, task=prompt.task.id, mode=prompt.thinking.mode)


def step_record(
    batch: Batch,
    position: Position,
    *,
    sample_s: float,
    train_s: float,
    tool_s: float,
    sampled_tokens: int,
    retried: int,
    trainer: Mapping[str, float],
    fingerprints: tuple[str, str],
    watch: Watch,
) -> StepRecord:
    """The figures of a step."""
    traces = [trace for trace in batch.traces if not is_canary(trace.task)]
    overall, modes = summarise(traces), by_mode(traces)
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
        retried=retried,
        infrastructure=overall.infrastructure,
        groups=len(batch.groups),
        trained_groups=len(batch.trained),
        dropped=Counter(batch.dropped.values()),
        outcomes=overall.outcomes,
        sampled_tokens=sampled_tokens,
        trained_tokens=sum(len(sample) for sample in batch.samples),
        tool_s=tool_s,
        trainer=trainer,
        began=fingerprints[0],
        made=fingerprints[1],
        lost=lost(traces),
        findings=watch.counts,
        finding=watch.worst,
    )
