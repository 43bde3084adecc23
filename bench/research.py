"""What reinforcement makes of askesis-tiny-research on generated worlds of `research`.

For each seed: the recipe `research`, held-out tasks before and after, sampled at temperature 1 and greedily, thinking
and not. In the same run, what needs no learning: a reader that believes what it finds first, and the demonstrator that
the checkpoint was taught by. All figures are means over the seeds; spreads are (least, most) of them.

ratio: sampled success after over before, thinking. The goal is the whole of `GOAL`.

Options: `seeds` (3), `tasks` (300), `minutes` or `steps` (the recipe's), `note` (what else a reader must know, as that
the machine was busy).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from askesis import evaluate_policy, load
from askesis.envs.research import Research
from askesis.loop import load_recipe
from askesis.rollout import EpisodeSpec
from askesis.types import Policy
from bench.result import Options, Result
from bench.training import MODES, overrides_of, percent, table_rows, train_seeds

GOAL = (
    "sampled success on held-out tasks from at most 60% to at least 85% in both modes, greedy success better than "
    "before, and better than the demonstrator that the checkpoint was taught by"
)
METRICS = ("right", "found", "quotes_exist", "quotes_bear", "dropped", "searches")
READERS = {"believes what it finds first": "hasty", "the demonstrator": "poor"}


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    seeds, tasks = options.number("seeds", 3), options.number("tasks", 300)
    with tempfile.TemporaryDirectory() as folder:
        runs = train_seeds("research", seeds, overrides_of(options, folder), _metrics)
    ours = runs.means
    peers: dict[str, Mapping[str, float]] = {who: _read(tasks, quality) for who, quality in READERS.items()}
    notes = [
        f"{seeds} seeds, {tasks} held-out tasks in each mode, the same for all; steps: {runs.steps}",
        "direct: without thinking; levels 1 and 2, as the recipe has them",
    ]
    return Result(
        name="research",
        command="python -m bench research",
        goal=GOAL,
        ours=ours,
        peers=peers,
        spread={"askesis": runs.spread},
        ratio=round(ours["think_sampled_after"] / ours["think_sampled_before"], 3),
        met=_met(ours, peers["the demonstrator"]["success"]),
        notes=[*notes, *filter(None, [options.values.get("note")])],
    )


def _metrics(row: Any, mode: str) -> Iterator[tuple[str, float]]:
    """What the environment measures beside success; of nothing that never came up."""
    for name in METRICS:
        if name in row.metrics:
            yield name, row.metrics[name][0]


def _read(tasks: int, quality: str) -> dict[str, float]:
    """Success of a scripted reader; which thinking mode it is asked in does not matter to it."""
    env_options = load_recipe("research").env.options
    make = functools.partial(_reader, Research(**env_options), quality)
    renderer = load("askesis-tiny-research").renderer
    evaluation = evaluate_policy(make, env="research", env_options=env_options, renderer=renderer, tasks=tasks)
    (row,) = evaluation.rows
    return {"success": round(row.summary.success, 4), "searches": round(row.metrics["searches"][0], 4)}


def _reader(env: Research, quality: str, spec: EpisodeSpec) -> Policy:
    return env.demonstrator(spec.task, seed=spec.seed, quality=quality)


def _met(ours: Mapping[str, float], demonstrator: float) -> bool:
    return all(
        ours[f"{mode}_sampled_before"] <= 0.6
        and ours[f"{mode}_sampled_after"] >= max(0.85, demonstrator)
        and ours[f"{mode}_greedy_after"] > ours[f"{mode}_greedy_before"]
        for mode in MODES.values()
    )


def table(kept: Mapping[str, Any]) -> str:
    """The page's table: before and after, and what needs no learning."""
    ours, peers = kept["ours"], kept["peers"]
    rows = {
        "success, thinking": ("think_sampled", True),
        "success, not thinking": ("direct_sampled", True),
        "success, thinking, greedy": ("think_greedy", True),
        "success, not thinking, greedy": ("direct_greedy", True),
        "right answer, thinking": ("think_right", True),
        "quotes that exist, thinking": ("think_quotes_exist", True),
        "quotes that bear the answer out, thinking": ("think_quotes_bear", True),
        "deciding sentences found, thinking": ("think_found", True),
        "weak sources seen and not quoted, thinking": ("think_dropped", True),
        "searches an episode, thinking": ("think_searches", False),
        "thinking tokens an episode": ("think_tokens", False),
    }
    seeds = len(kept["notes"][0].rpartition("steps: ")[2].split(","))
    of = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    least, most = kept["spread"]["askesis"]["training_s"]
    cores = "one core" if kept["machine"]["cores"] == 1 else f"{kept['machine']['cores']} cores"
    readers = "; ".join(f"{who}: {percent(found['success'])}" for who, found in peers.items())
    return "\n".join(
        [
            f"| held-out `research`, {of} | before | after |",
            "|---|---|---|",
            *table_rows(rows, [(ours, "before"), (ours, "after")]),
            "",
            f"Scripted readers of the same tasks, {readers}. {ours['steps']:.0f} steps a seed, {least:.0f} to "
            f"{most:.0f} seconds of training on {cores} ({kept['date']}, `{kept['command']}`).",
        ]
    )
