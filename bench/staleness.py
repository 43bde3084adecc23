"""What stale samples cost, and what corrections make of it: the tiny agent, trained on samples of older weights.

`lag`: every step trains on episodes that the weights of k steps before have sampled, all of them: the most that
`rollout.staleness = k` allows, and the same on every machine, for nothing depends on who is faster. k = 0 is
synchronous training. `ahead`: the real thing, rollout beside training with `rollout.staleness = k`; how stale samples
are depends on the machine then, and is told (`staleness`).

Arms: `none`: samples are taken for the trainer's own (ratios against the weights with which the step begins, no
weights). `clip`: the loss's clipped ratio is against the sampler. Or the name of a correction (`tis`, ...: weights, and
ratios against the weights with which the step begins, which is decoupled PPO), several joined by `+`; and after an `@`
a loss (`none@gspo`); without it, the recipe's.

A run ends with `TASKS` held-out tasks in each mode; `share`: of its success in that of the synchronous runs, means over
seeds. What is finished stands in `state` as a JSON line and is not done again: interrupt it when you like, and give the
same command to go on.

ratio: the share at 8 by `lag` with the correction `tis`, at the first rate. Options: `seeds` (5), `stale` (4,8), `arms`
(none,tis), `kinds` (lag), `steps` (40), `recipe` (research), `per_step` (12: tasks of a step, each of them played eight
times), `lr` (3e-4; or several, with commas. The recipe's own, 7e-4, is for fresh samples), `threads` (1), `state`
(runs/staleness), `only=summary` (of what is there).
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.result import Options, Result

GOAL = 0.98
TASKS = 200
STEPS, PER_STEP, RATE = 40, 12, 3e-4
HEADLINE = {"kind": "lag", "stale": 8, "arm": "tis"}
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run."""

    kind: str
    stale: int
    arm: str
    seed: int
    steps: int
    recipe: str
    per_step: int
    lr: float

    @property
    def setting(self) -> tuple[Any, ...]:
        """What runs must share to be compared."""
        return (self.steps, self.recipe, self.per_step, self.lr)

    @property
    def fresh(self) -> tuple[Any, ...]:
        """What a run shares with the synchronous one that it is compared with."""
        return (*self.setting, self.arm.partition("@")[2], self.seed)

    @property
    def label(self) -> str:
        """The name of what several seeds share."""
        return f"{self.kind} {self.stale}: {self.arm}, lr {self.lr:g}"


_KEYS = tuple(Job.__dataclass_fields__)


class Kept:
    """The lines of what is finished, in a file of `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "lines.jsonl"

    def lines(self) -> list[Line]:
        """All; one that an interruption has cut is left out."""
        found = []
        for text in self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else ():
            try:
                found.append(json.loads(text))
            except ValueError:
                continue
        return [*{tuple(line[key] for key in _KEYS): line for line in found}.values()]

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are not finished."""
        done = {tuple(line[key] for key in _KEYS) for line in self.lines()}
        return [job for job in jobs if tuple(asdict(job).values()) not in done]

    def add(self, line: Line) -> None:
        """One more."""
        text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(line) + "\n")


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    kept = Kept(Path(options.values.get("state", "runs/staleness")))
    jobs = planned(options)
    left = [] if options.values.get("only") == "summary" else kept.missing(jobs)
    print(
        f"{len(jobs)} runs, {len(jobs) - len(kept.missing(jobs))} of them finished before", file=sys.stderr, flush=True
    )
    for job in left:
        begun = time.monotonic()
        found = work(job, options.number("threads", 1))
        kept.add({**asdict(job), **found, "seconds": round(time.monotonic() - begun, 1)})
        print(f"{job}: {found['success']:.3f}", file=sys.stderr, flush=True)
    wanted = {job.setting for job in jobs}
    return summary([line for line in kept.lines() if _job(line).setting in wanted], lr=jobs[0].lr)


def planned(options: Options) -> list[Job]:
    """The runs, seed by seed, so that those that are finished can be compared."""
    stale = [int(one) for one in options.values.get("stale", "4,8").split(",")]
    arms = options.values.get("arms", "none,tis").split(",")
    rates = [float(rate) for rate in options.values.get("lr", str(RATE)).split(",")]
    kinds = options.values.get("kinds", "lag").split(",")
    for kind in kinds:
        if kind not in ("lag", "ahead"):
            raise SystemExit(f"bench staleness: there is no kind {kind!r}; known are lag and ahead")
    for arm in arms:
        settings(arm)
    common = {
        "steps": options.number("steps", STEPS),
        "recipe": options.values.get("recipe", "research"),
        "per_step": options.number("per_step", PER_STEP),
    }
    losses = dict.fromkeys(f"none{loss and '@'}{loss}" for _, _, loss in (arm.partition("@") for arm in arms))
    jobs = []
    for seed, lr in itertools.product(range(options.number("seeds", 5)), rates):
        jobs += [Job(kind="lag", stale=0, arm=arm, seed=seed, lr=lr, **common) for arm in losses]
        jobs += [
            Job(kind=kind, stale=k, arm=arm, seed=seed, lr=lr, **common)
            for kind in kinds
            for k in sorted(stale, reverse=True)
            for arm in arms
        ]
    return jobs


def settings(arm: str) -> dict[str, Any]:
    """An arm as a recipe's `[train]` keys."""
    from askesis.train import CORRECTIONS, POLICY_LOSSES

    names, _, loss = arm.partition("@")
    if loss and loss not in POLICY_LOSSES:
        raise SystemExit(f"bench staleness: there is no loss {loss!r}; known are {', '.join(POLICY_LOSSES)}")
    found: dict[str, Any] = {"train.algorithm": loss} if loss else {}
    if names == "none":
        return {**found, "train.corrections": [], "train.proximal": "recompute"}
    if names == "clip":
        return {**found, "train.corrections": [], "train.proximal": "sampler"}
    for name in names.split("+"):
        if name not in CORRECTIONS:
            known = ", ".join(("none", "clip", *CORRECTIONS))
            raise SystemExit(f"bench staleness: there is no arm {name!r}; known are {known}")
    return {**found, "train.corrections": [{"name": name} for name in names.split("+")], "train.proximal": "recompute"}


def overrides(job: Job, folder: str, threads: int) -> dict[str, Any]:
    """What a run changes of its recipe."""
    found: dict[str, Any] = {
        "run.out": folder,
        "run.seed": job.seed,
        "run.steps": job.steps,
        "run.threads": threads,
        "rollout.tasks_per_step": job.per_step,
        "train.lr": job.lr,
        "eval.tasks": 0,
        "log.tensorboard": False,
        **settings(job.arm),
    }
    if job.kind == "ahead":
        found |= {"rollout.staleness": job.stale, "rollout.concurrency": 8 * job.per_step * (job.stale + 1)}
    return found


def work(job: Job, threads: int) -> dict[str, Any]:
    """Train, and evaluate what came of it."""
    from askesis import evaluate
    from askesis.loop import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        changed = overrides(job, folder, threads)
        recipe = load_recipe(job.recipe, changed)
        checkpoint, steps = _ahead(job, changed) if job.kind == "ahead" else _lagged(recipe, job.stale, Path(folder))
        found = evaluate(
            checkpoint,
            env=recipe.env.name,
            env_options=recipe.env.options,
            tasks=TASKS,
            context_length=recipe.rollout.context_length,
            threads=threads,
        )
        return {"success": statistics.fmean(row.summary.success for row in found.rows), "course": steps}


def _ahead(job: Job, changed: Mapping[str, Any]) -> tuple[Path, list[Line]]:
    """By the scheduler."""
    from askesis import train

    result = train(job.recipe, overrides=changed, display=False)
    assert result.checkpoint is not None
    return result.checkpoint, [_told(record.success, record.trainer) for record in result.history]


def _lagged(recipe: Any, lag: int, folder: Path) -> tuple[Path, list[Line]]:
    """Every episode by the weights of `lag` steps before."""
    from askesis.loop.checkpoints import save_model
    from askesis.loop.prepared import close_env, prepare

    async def train() -> list[Line]:
        prepared = await prepare(recipe)
        try:
            steps = await _steps(prepared, lag)
            save_model(folder / "made", prepared.model, prepared.renderer)
            return steps
        finally:
            await close_env(prepared.env)

    return folder / "made", asyncio.run(train())


async def _steps(prepared: Any, lag: int) -> list[Line]:
    import torch

    from askesis.inference import EmbeddedEngine
    from askesis.loop.learner import Learner
    from askesis.loop.samples import group_samples, why_dropped
    from askesis.loop.stream import PromptStream
    from askesis.rollout import Roller, group_specs

    recipe, rollout = prepared.recipe, prepared.recipe.rollout
    learner = Learner(prepared)
    stream = PromptStream(
        prepared.env,
        rollout.modes,
        pool=16 * rollout.tasks_per_step,
        seed=recipe.run.seed,
        limits=rollout.limits,
    )
    engine = EmbeddedEngine(
        copy.deepcopy(prepared.model).requires_grad_(False),
        slots=rollout.slots,
        context_length=rollout.context_length,
        threads=prepared.threads,
    )
    roller = Roller(
        engine,
        prepared.renderer,
        prepared.env,
        prepared.agent,
        options=prepared.options(temperature=rollout.temperature),
        concurrency=rollout.concurrency,
        retries=rollout.retries,
        costs=prepared.costs(),
    )
    past: deque[dict[str, torch.Tensor]] = deque(maxlen=lag + 1)
    told = []
    for step in range(recipe.run.steps):
        past.append({name: value.clone() for name, value in prepared.model.state_dict().items()})
        await engine.update_weights(past[0], max(0, step - lag))
        specs = [
            spec
            for prompt in stream.take(step * rollout.tasks_per_step, rollout.tasks_per_step)
            for spec in group_specs(
                prompt.task, prompt.thinking, group=prompt.group, size=rollout.group_size, seed=recipe.run.seed
            )
        ]
        groups = [group async for group in roller.groups(specs)]
        groups.sort(key=lambda group: group.id)
        samples = [
            sample
            for group in groups
            if why_dropped(group) is None
            for sample in group_samples(group, learner.advantages)
        ]
        figures = learner.step(samples, progress=step / recipe.run.steps, version=step) if samples else {}
        traces = [trace for group in groups for trace in group.learnable]
        told.append(_told(statistics.fmean(trace.success for trace in traces) if traces else 0.0, figures))
    await engine.close()
    return told


_TOLD = ("staleness", "gap_mean", "sampler_kl", "ess", "ess_episodes", "masked", "truncated", "clipped_high")


def _told(success: float, figures: Mapping[str, float]) -> Line:
    """Of a step: success of what was sampled, and the trainer's figures of staleness."""
    return {"success": round(success, 4)} | {name: round(figures[name], 5) for name in _TOLD if name in figures}


# -- what comes of it ----------------------------------------------------------------------------------------------


def _job(line: Line) -> Job:
    return Job(**{key: line[key] for key in _KEYS})


def summary(lines: Sequence[Line], *, lr: float) -> Result:
    """Means over seeds; each run against the synchronous one of its loss, rate and seed. lr: of the headline."""
    base = {job.fresh: line for line in lines if (job := _job(line)).stale == 0}
    found: dict[str, dict[str, float]] = {}
    spread: dict[str, Mapping[str, Sequence[float]]] = {}
    for name, runs in _named(lines):
        pairs = [(line, base[job.fresh]) for line in runs if (job := _job(line)).fresh in base]
        if not pairs:
            continue
        ours = statistics.fmean(line["success"] for line, _ in pairs)
        theirs = statistics.fmean(line["success"] for _, line in pairs)
        shares = [line["success"] / other["success"] for line, other in pairs if other["success"]]
        figures = {"seeds": len(pairs), "success": ours, "share": ours / theirs if theirs else 0.0}
        if len(shares) > 1:
            figures["share_error"] = statistics.stdev(shares) / len(shares) ** 0.5
        figures |= dict(_means(runs))
        found[name] = {key: round(value, 4) for key, value in figures.items()}
        spread[name] = {
            "success": _ends([line["success"] for line, _ in pairs]),
            "share": _ends(shares),
        }
    whole = [job.label for job in map(_job, lines) if asdict(job) == asdict(job) | HEADLINE | {"lr": lr}]
    headline = found.get(whole[0] if whole else "", {})
    share = headline.get("share", 0.0)
    return Result(
        name="staleness",
        command="python -m bench staleness",
        goal=f"with the correction tis, on samples 8 versions old, at least {GOAL} of the synchronous result; 5 seeds",
        ours={"share": share, "seeds": headline.get("seeds", 0)},
        peers=found,
        spread=spread,
        ratio=round(share, 3),
        met=share >= GOAL and headline.get("seeds", 0) >= 5,
        notes=[
            "a share is of fresh samples at the same rate; these bear higher rates, at which stale ones fail",
            *sorted({f"{job.steps} steps of {8 * job.per_step} episodes of {job.recipe}" for job in map(_job, lines)}),
        ],
    )


def _named(lines: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    jobs = [_job(line) for line in lines]
    for name in dict.fromkeys(one.label for one in sorted(jobs, key=_order)):
        yield name, [line for line, one in zip(lines, jobs, strict=True) if one.label == name]


def _order(job: Job) -> tuple[Any, ...]:
    loss = job.arm.partition("@")[2]
    return (job.lr, job.kind != "lag", job.stale, loss, job.arm not in ("none", "clip"), job.arm)


def _means(runs: Sequence[Line]) -> Iterator[tuple[str, float]]:
    """Over all steps in which something was learned."""
    for key in _TOLD:
        values = [step[key] for line in runs for step in line["course"] if key in step]
        if values:
            yield key, statistics.fmean(values)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return (round(min(values), 4), round(max(values), 4)) if values else (0.0, 0.0)


# -- the page ------------------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    """A row a setting."""
    lines = [
        "| rate | samples | arm | seeds | success | share of the fresh | apart, nats a token | effective tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in result["peers"].items():
        place, arm, rate = re.split(": |, lr ", name)
        kind, _, stale = place.partition(" ")
        ends = result["spread"][name]["success"]
        told = "fresh" if stale == "0" else f"{stale} versions old" if kind == "lag" else f"up to {stale} versions old"
        if kind == "ahead" and "staleness" in figures:
            told += f", {figures['staleness']:.1f} on average"
        error = f" ± {figures['share_error']:.3f}" if "share_error" in figures and stale != "0" else ""
        share = "" if stale == "0" else f"{figures['share']:.3f}{error}"
        apart = f"{figures['gap_mean']:.3f}" if "gap_mean" in figures and stale != "0" else ""
        ess = f"{figures['ess']:.0%}" if "ess" in figures and stale != "0" else ""
        success = f"{figures['success']:.1%} ({ends[0]:.0%} to {ends[1]:.0%})"
        cells = (rate, told, "" if stale == "0" else arm, f"{figures['seeds']:.0f}", success, share, apart, ess)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
