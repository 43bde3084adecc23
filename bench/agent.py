"""What reinforcement makes of askesis-tiny on `repair`, and what is cheap beside it.

For each seed: the recipe `repair` (`make train` runs the same), held-out tasks before and after, sampled at temperature
1 and greedily, thinking and not. In the same run: a policy that guesses blindly with as many edits as the trained
agent makes, one that also tests after every guess, and as many minutes of supervised learning on demonstrations
without bad habits (`more_demonstrations`). All figures are means over the seeds; spreads are (least, most) of them.

ratio: sampled success after over before, thinking. The goal is the whole of `GOAL`.

Options: `seeds` (3), `taught` (seeds of the supervised comparison: 1), `tasks` (300), `minutes` (the recipes').
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from askesis import evaluate_policy, load, train
from askesis.envs.repair import Repair
from askesis.loop import Evaluation, RunResult, load_recipe
from askesis.rollout import EpisodeSpec
from askesis.types import Policy
from bench.result import Options, Result

GOAL = (
    "sampled success on held-out tasks from at most 60% to at least 90% thinking and 80% not; a quarter fewer thinking "
    "tokens; the first edit and greedy success better than before; blind guessing far below"
)
MODES = {"think": "think", "no_think": "direct"}


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    seeds, tasks = options.number("seeds", 3), options.number("tasks", 300)
    common = [f"eval.tasks={tasks}"]
    if "minutes" in options.values:
        common.append(f"run.minutes={options.values['minutes']}")
    found: dict[str, list[float]] = {}
    taught: dict[str, list[float]] = {}
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            overrides = [*common, f"run.seed={seed}", f'run.out="{folder}"']
            result = _train("repair", overrides, seed)
            steps.append(result.steps)
            _enter(found, dict(_figures(result)) | {"training_s": result.seconds, "steps": result.steps})
        for seed in range(options.number("taught", 1)):
            overrides = [*common, f"run.seed={seed}", f'run.out="{folder}"', "eval.before=false"]
            more = _train("more_demonstrations", overrides, seed)
            _enter(taught, dict(_figures(more)) | {"training_s": more.seconds, "steps": more.steps})
    ours = {name: round(statistics.mean(values), 4) for name, values in found.items()}
    edits = max(1, round(max(ours["think_edits_after"], ours["direct_edits_after"])))
    guessed = {
        f"blind guesses ({edits} edits)": _guess(tasks, edits, tested=False),
        f"guesses until the tests pass ({edits} edits)": _guess(tasks, edits, tested=True),
    }
    peers: dict[str, Mapping[str, float]] = {
        "more demonstrations": {name: round(statistics.mean(values), 4) for name, values in taught.items()},
        **guessed,
    }
    return Result(
        name="agent",
        command="python -m bench agent",
        goal=GOAL,
        ours=ours,
        peers=peers,
        spread={
            who: {name: (round(min(values), 4), round(max(values), 4)) for name, values in figures.items()}
            for who, figures in (("askesis", found), ("more demonstrations", taught))
        },
        ratio=round(ours["think_sampled_after"] / ours["think_sampled_before"], 3),
        met=_met(ours, next(iter(guessed.values()))["success"]),
        notes=[
            f"{seeds} seeds, {tasks} held-out tasks in each mode, the same for all; steps: {steps}",
            "direct: without thinking; first_edit: share of first edits after a test run that cure a fault",
        ],
    )


def _train(recipe: str, overrides: list[str], seed: int) -> RunResult:
    print(f"seed {seed}: {recipe}", file=sys.stderr, flush=True)
    return train(recipe, overrides=overrides)


def _enter(found: dict[str, list[float]], figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        found.setdefault(name, []).append(value)


def _figures(result: RunResult) -> Iterator[tuple[str, float]]:
    """Every figure of the evaluations before and after."""
    for evaluation in result.evaluations:
        yield from _evaluated(evaluation)


def _evaluated(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    for mode, name in MODES.items():
        for greedy in (False, True):
            row = evaluation.row(mode, greedy=greedy)
            if row is None:
                continue
            when = evaluation.name
            yield f"{name}_{'greedy' if greedy else 'sampled'}_{when}", row.summary.success
            if greedy:
                continue
            if mode == "think":
                yield f"{name}_tokens_{when}", row.summary.thinking_tokens
            yield f"{name}_submitted_{when}", row.summary.submitted
            yield f"{name}_turns_{when}", row.summary.turns
            yield f"{name}_edits_{when}", row.metrics["edits"][0]
            yield f"{name}_first_edit_{when}", row.metrics["first_edit"][0]


def _guess(tasks: int, edits: int, *, tested: bool) -> dict[str, float]:
    """Success of a guesser; which thinking mode it is asked in does not matter to it."""
    options = {**load_recipe("repair").env.options, "max_turns": 4 * edits + 2}  # to guess, test, take back
    make = functools.partial(_guesser, Repair(**options), edits, tested)
    renderer = load("askesis-tiny").renderer
    evaluation = evaluate_policy(make, env="repair", env_options=options, renderer=renderer, tasks=tasks)
    (row,) = evaluation.rows
    return {"success": round(row.summary.success, 4), "edits": round(row.metrics["edits"][0], 4)}


def _guesser(env: Repair, edits: int, tested: bool, spec: EpisodeSpec) -> Policy:
    return env.guesser(spec.task, seed=spec.seed, edits=edits, tested=tested)


def _met(ours: Mapping[str, float], blind: float) -> bool:
    return (
        ours["training_s"] <= 370
        and max(ours["think_sampled_before"], ours["direct_sampled_before"]) <= 0.6
        and ours["think_sampled_after"] >= 0.9
        and ours["direct_sampled_after"] >= 0.8
        and ours["think_tokens_after"] <= 0.75 * ours["think_tokens_before"]
        and all(
            ours[f"{mode}_{figure}_after"] > ours[f"{mode}_{figure}_before"]
            for mode in MODES.values()
            for figure in ("first_edit", "greedy")
        )
        and blind < 0.1
    )


def table(kept: Mapping[str, Any]) -> str:
    """The page's table: before, after, and what is cheap."""
    ours, peers = kept["ours"], kept["peers"]
    taught = peers["more demonstrations"]
    lines = [
        "| held-out `repair`, mean of seeds | before | after | more demonstrations |",
        "|---|---|---|---|",
    ]
    rows = {
        "success, thinking": ("think_sampled", True),
        "success, not thinking": ("direct_sampled", True),
        "success, thinking, greedy": ("think_greedy", True),
        "success, not thinking, greedy": ("direct_greedy", True),
        "first edit cures a fault, thinking": ("think_first_edit", True),
        "first edit cures a fault, not thinking": ("direct_first_edit", True),
        "ends in a submission, thinking": ("think_submitted", True),
        "ends in a submission, not thinking": ("direct_submitted", True),
        "thinking tokens an episode": ("think_tokens", False),
        "edits an episode, thinking": ("think_edits", False),
    }
    for label, (name, share) in rows.items():
        values = [ours[f"{name}_before"], ours[f"{name}_after"], taught[f"{name}_after"]]
        lines.append(f"| {label} | " + " | ".join(_percent(v) if share else f"{v:.1f}" for v in values) + " |")
    guesses = "; ".join(f"{who}: {_percent(found['success'])}" for who, found in peers.items() if "guess" in who)
    lines += [
        "",
        f"Of the same tasks, {guesses}. {ours['training_s'] / 60:.1f} minutes of training a seed on "
        f"{kept['machine']['cores']} cores ({kept['date']}, `{kept['command']}`).",
    ]
    return "\n".join(lines)


def sentence(kept: Mapping[str, Any]) -> str:
    """The one measured result of the README's first screen."""
    ours = kept["ours"]
    return (
        f"In {ours['training_s'] / 60:.0f} minutes of reinforcement on {kept['machine']['cores']} CPU cores the small "
        f"agent's success on held-out tasks goes from {_percent(ours['think_sampled_before'])} to "
        f"{_percent(ours['think_sampled_after'])} thinking and from {_percent(ours['direct_sampled_before'])} to "
        f"{_percent(ours['direct_sampled_after'])} not thinking, with "
        f"{_percent(1 - ours['think_tokens_after'] / ours['think_tokens_before'])} fewer thinking tokens (mean of "
        f"three seeds, sampled at temperature 1, 300 tasks each; `{kept['command']}`)."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"
