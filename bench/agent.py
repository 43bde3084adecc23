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
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from askesis import evaluate_policy, load
from askesis.envs.repair import Repair
from askesis.loop import load_recipe
from askesis.rollout import EpisodeSpec
from askesis.types import Policy
from bench.result import Options, Result
from bench.training import MODES, overrides_of, percent, table_rows, train_seeds

GOAL = (
    "sampled success on held-out tasks from at most 60% to at least 90% thinking and 80% not; a quarter fewer thinking "
    "tokens; the first edit and greedy success better than before; blind guessing far below"
)


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    seeds, tasks = options.number("seeds", 3), options.number("tasks", 300)
    with tempfile.TemporaryDirectory() as folder:
        common = overrides_of(options, folder)
        runs = train_seeds("repair", seeds, common, _edits)
        taught = train_seeds("more_demonstrations", options.number("taught", 1), [*common, "eval.before=false"], _edits)
    ours = runs.means
    edits = max(1, round(max(ours["think_edits_after"], ours["direct_edits_after"])))
    guessed = {
        f"blind guesses ({edits} edits)": _guess(tasks, edits, tested=False),
        f"guesses until the tests pass ({edits} edits)": _guess(tasks, edits, tested=True),
    }
    peers: dict[str, Mapping[str, float]] = {
        "more demonstrations": taught.means,
        **guessed,
    }
    return Result(
        name="agent",
        command="python -m bench agent",
        goal=GOAL,
        ours=ours,
        peers=peers,
        spread={"askesis": runs.spread, "more demonstrations": taught.spread},
        ratio=round(ours["think_sampled_after"] / ours["think_sampled_before"], 3),
        met=_met(ours, next(iter(guessed.values()))["success"]),
        notes=[
            f"{seeds} seeds, {tasks} held-out tasks in each mode, the same for all; steps: {runs.steps}",
            "direct: without thinking; first_edit: share of first edits after a test run that cure a fault",
        ],
    )


def _edits(row: Any, mode: str) -> Iterator[tuple[str, float]]:
    """Edits an episode, and how often the first one helps."""
    yield "edits", row.metrics["edits"][0]
    yield "first_edit", row.metrics["first_edit"][0]


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
    lines += table_rows(rows, [(ours, "before"), (ours, "after"), (taught, "after")])
    guesses = "; ".join(f"{who}: {percent(found['success'])}" for who, found in peers.items() if "guess" in who)
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
        f"agent's success on held-out tasks goes from {percent(ours['think_sampled_before'])} to "
        f"{percent(ours['think_sampled_after'])} thinking and from {percent(ours['direct_sampled_before'])} to "
        f"{percent(ours['direct_sampled_after'])} not thinking, with "
        f"{percent(1 - ours['think_tokens_after'] / ours['think_tokens_before'])} fewer thinking tokens (mean of "
        f"three seeds, sampled at temperature 1, 300 tasks each; `{kept['command']}`)."
    )
