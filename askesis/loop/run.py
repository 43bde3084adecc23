"""A run from its recipe to its report: new, or resumed after whatever ended it."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from askesis.loop.alarms import GAP_BAND, ROUNDED_BAND, Alarms
from askesis.loop.checkpoints import PACKAGED, Position, load_trainer, prune, read_position, written
from askesis.loop.display import Display, duration
from askesis.loop.faults import FaultPlan
from askesis.loop.faults.keeping import faulty_writes, inject, learner_of
from askesis.loop.folder import RunFolder, find_run, write_whole
from askesis.loop.gate import Gate, open_gate
from askesis.loop.learner import Learner
from askesis.loop.plan import Plan, make_plan
from askesis.loop.prepared import Prepared, close_prepared, prepare, run_async
from askesis.loop.reading import load_recipe, parse_override, to_mapping, to_toml
from askesis.loop.recipe import Recipe
from askesis.loop.report import write_report
from askesis.loop.results import Evaluation, RunResult, StepRecord, from_plain, read_evaluations
from askesis.loop.training import Training
from askesis.loop.watchdog import Watchdog
from askesis.models import fingerprint
from askesis.rollout import Step, TraceStore
from askesis.types import CheckpointError, ConfigError, StoreError

_CHANGEABLE = (
    *("run.minutes", "run.steps", "run.threads", "train.processes", "train.address"),
    *("eval.", "checkpoint.", "log.", "faults."),
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # what a disk says that takes no more
_START = Position(step=0, version=0, seconds=0.0, tokens=0)


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    resume: str | Path | None = None,
    display: bool | Display = True,
) -> RunResult:
    """Train as a recipe says, and evaluate before and after.

    recipe: a name, a path, a mapping or a `Recipe`. overrides: `["run.steps=10"]` or `{"run.steps": 10}`. resume: a
    run's folder, its id, or `latest`, to go on with it instead; of its recipe only how long to train, evaluation,
    checkpoints and logging can be changed then. display: print to stderr what goes on.

    Raises `AskesisError`s for what is wrong before it starts. An interruption (Ctrl-C) ends the run in order: what was
    sampled is stored, what was trained has a checkpoint, and the result says `interrupted`.
    """
    if (recipe is None) == (resume is None):
        raise ConfigError("train: give a recipe, or a run to resume; not both, not neither")
    shown = display if isinstance(display, Display) else Display(quiet=not display)
    with shown:
        if resume is not None:
            folder = find_run(resume)
            settings = load_recipe(folder.recipe, _only_changeable(overrides))
        else:
            assert recipe is not None
            folder, settings = None, load_recipe(recipe, overrides)
        return run_async(lambda: _run(settings, folder, shown))


def dry_run(
    recipe: str | Path | Mapping[str, Any] | Recipe, *, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> tuple[Recipe, Plan]:
    """Resolve everything that a run would: lengths, tools, the first prompt, sizes, memory. Samples nothing."""
    settings = load_recipe(recipe, overrides)

    async def resolve() -> Plan:
        prepared = await prepare(settings)
        try:
            plan = await _plan(prepared, Learner(prepared))
            return replace(plan, audit=(await open_gate(settings, prepared.env, dry=True)).said)
        finally:
            await close_prepared(prepared)

    return settings, run_async(resolve)


def _only_changeable(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The overrides, if a run that goes on may have them. Raises `ConfigError`."""
    given = dict(overrides) if isinstance(overrides, Mapping) else dict(map(parse_override, overrides))
    for key in given:
        if not any(key == known or (known.endswith(".") and key.startswith(known)) for known in _CHANGEABLE):
            raise ConfigError(
                f"override {key!r}: a run that goes on keeps what it learns from; only {', '.join(_CHANGEABLE)} can "
                "change. To change more, start a new run with model.checkpoint set to this run's folder"
            )
    return given


async def _plan(prepared: Prepared, learner: Learner) -> Plan:
    recipe = prepared.recipe
    return await make_plan(
        recipe,
        env=prepared.env,
        agent=prepared.agent,
        renderer=prepared.renderer,
        config=prepared.config,
        model=_called(prepared.source),
        threads=prepared.threads,
        optimiser_floats=learner.optimiser_floats,
        batch_tokens=recipe.train.batch_tokens,
    )


async def _run(recipe: Recipe, folder: RunFolder | None, display: Display) -> RunResult:
    begun = time.monotonic()
    display.progress("preparing")
    resumed = folder is not None
    found = _newest(folder) if folder is not None else None
    faults = FaultPlan.of(recipe.faults)
    prepared = await prepare(recipe, checkpoint=found)
    try:
        learner = learner_of(prepared, faults)
        plan = await _plan(prepared, learner)
        gate = (Gate.read(folder.audit) if folder is not None else None) or await open_gate(recipe, prepared.env)
        if folder is None:
            folder = RunFolder.create(Path(recipe.run.out), recipe.run.name)
            recipe = _pinned(recipe, prepared.source)
        display.log_to(folder.log)
        display.every = recipe.log.every
        write_whole(folder.recipe, to_toml(to_mapping(recipe), comment=_about(plan)))
        write_whole(folder.audit, json.dumps(gate.to_json(), indent=2) + "\n")
        inject(prepared, faults, folder.faults)
        with TraceStore(folder.traces, before_write=faulty_writes(faults)) as store:
            position = _START if found is None else read_position(found)
            if found is not None:
                _check_weights(prepared, store.ledger.steps(), position.step, found)
                load_trainer(found, learner)
            if resumed:
                store.ledger.rewind(position.step)
                prune(folder, recipe.checkpoint.keep, up_to=position.step)
            history = _history(folder, position.step)
            rounded = "bfloat16" in (recipe.rollout.dtype, recipe.train.dtype)
            training = Training(
                prepared=prepared,
                learner=learner,
                folder=folder,
                store=store,
                display=display,
                position=position,
                gate=gate,
                history=history,
                alarms=Alarms(history, band=ROUNDED_BAND if rounded else GAP_BAND),
                evaluations=_evaluations(folder, position.step),
            )
            for line in [*_opening(recipe, plan, folder, position if resumed else None), gate.said]:
                display.say(line)
            try:
                return await _finish(training, begun, resumed=resumed)
            finally:
                learner.close()
                if faults is not None:
                    told = ", ".join(f"{what} {count}" for what, count in faults.counts.items()) or "none was due"
                    display.say(f"faults put in: {told}; each is in {folder.faults}")
    finally:
        await close_prepared(prepared)


async def _finish(training: Training, begun: float, *, resumed: bool) -> RunResult:
    """Train, and say what came of it, also in the folder."""
    folder, display = training.folder, training.display
    folder.write_status("running", step=training.position.step)
    try:
        async with Watchdog(training.prepared.recipe.run.stall_s, display.say):
            await training.run()
    except BaseException as error:
        with suppress(OSError):  # the disk may be what has failed
            folder.write_status("failed", step=training.position.step, error=f"{type(error).__name__}: {error}")
        if isinstance(error, StoreError) or (isinstance(error, OSError) and error.errno in _DISK):
            raise StoreError(
                f"run {folder.path} cannot be written any further: {error}. If the disk is full, make room (or move "
                f"the run's folder), and go on with `askesis train --resume {folder.path}`; no committed step is lost"
            ) from error
        raise
    interrupted = training.stop.asked
    newest = written(folder)
    result = RunResult(
        id=folder.id,
        folder=folder.path,
        state="interrupted" if interrupted else "finished",
        stopped_by=training.stopped_by,
        steps=training.position.step,
        seconds=training.position.seconds,
        wall_s=time.monotonic() - begun,
        checkpoint=newest[-1] if newest else None,
        report=folder.report,
        evaluations=tuple(training.evaluations),
        alarms=tuple(training.alarms.all),
        history=tuple(training.history),
    )
    write_whole(folder.result, json.dumps(result.to_json(), indent=2) + "\n")
    folder.write_status(result.state, step=result.steps, score=_score(result))
    write_report(result, training)  # last: whatever becomes of the page, the result is kept
    if result.evaluations:
        display.table(result.evaluations)
    since = "since it was resumed" if resumed else "in all"
    display.say(f"{result.steps} steps in {duration(result.seconds)} of training ({duration(result.wall_s)} {since})")
    if result.checkpoint is not None:
        display.say(f"checkpoint  {result.checkpoint}")
    display.say(f"report      {result.report}")
    if interrupted:
        display.say(f"interrupted; go on with: askesis train --resume {folder.path}", style="bold")
    return result


def _called(source: Path | None) -> str:
    """What a model is called that came from `source`."""
    packaged = next((name for name, folder in PACKAGED.items() if folder == source), None)
    return packaged or (str(source) if source is not None else "fresh")


def _pinned(recipe: Recipe, source: Path | None) -> Recipe:
    """The recipe with the folder that its checkpoint was found in: by tomorrow the name may lead to another."""
    if source is None or recipe.model.checkpoint in PACKAGED:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"checkpoint": str(source)})})


def _newest(folder: RunFolder) -> Path | None:
    """The checkpoint to go on from: the newest that is whole on disk and whose step is committed with its name.

    One that lacks its commit was cut off by a kill between the two: its step is done again.
    """
    if not folder.traces.is_file():
        return None  # killed before it began
    with TraceStore(folder.traces, readonly=True) as store:
        committed = {step.step: step.checkpoint for step in store.ledger.steps()}
    for path in reversed(written(folder)):
        if committed.get(read_position(path).step) == path.name:
            return path
    if any(committed.values()):
        raise CheckpointError(
            f"run {folder.path} had checkpoints ({', '.join(name for name in committed.values() if name)}), but none "
            f"is left in {folder.checkpoints}; start a new run"
        )
    return None


def _check_weights(prepared: Prepared, steps: Sequence[Step], step: int, checkpoint: Path) -> None:
    """Raise `CheckpointError` if the checkpoint's weights are not those that its step made."""
    made = next((one.made for one in steps if one.step == step), "")
    if made and (found := fingerprint(prepared.model)) != made:
        raise CheckpointError(
            f"{checkpoint} is damaged: its weights have the fingerprint {found}, but step {step} made {made}. Delete "
            "that folder, and --resume goes on from the checkpoint before it"
        )


def _history(folder: RunFolder, step: int) -> list[StepRecord]:
    """The steps up to `step`, each as it was last done."""
    if not folder.metrics.is_file():
        return []
    records: dict[int, StepRecord] = {}
    for line in folder.metrics.read_text(encoding="utf-8").splitlines():
        try:
            record = from_plain(StepRecord, json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue  # a line that a kill cut short
        records[record.step] = record
    return [records[at] for at in sorted(records) if at <= step]


def _evaluations(folder: RunFolder, step: int) -> list[Evaluation]:
    """The evaluations of the lineage up to `step`."""
    return [one for one in read_evaluations(folder.evaluations) if one.step <= step and one.name != "after"]


def _about(plan: Plan) -> str:
    return f"resolved by askesis train: {plan.parameters:,} parameters, environment {plan.env}, agent {plan.agent}"


def _opening(recipe: Recipe, plan: Plan, folder: RunFolder, position: Position | None) -> list[str]:
    """What a person reads first."""
    lines = [
        f"run {folder.path}",
        f"{recipe.run.kind} of {plan.model} ({plan.parameters:,} parameters) on {plan.env}, "
        f"{plan.episodes_per_step} episodes a step, {plan.threads} thread{'s' * (plan.threads > 1)}",
    ]
    if position is not None:
        lines.append(f"resumed after step {position.step} ({duration(position.seconds)} of training)")
    if recipe.faults.inject:
        lines.append(f"note: faults of the machinery are put in on purpose: {FaultPlan.of(recipe.faults)}")
    return lines + [f"note: {warning}" for warning in plan.warnings]


def _score(result: RunResult) -> dict[str, float | None]:
    """Sampled success of the last evaluation, by mode."""
    if not result.evaluations:
        return {}
    last = result.evaluations[-1]
    return {row.mode: round(row.summary.success, 4) for row in last.rows if row.temperature and row.summary.learnable}
