"""What the benchmarks of training share: a recipe run with several seeds, and its evaluations as figures."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis import train
from askesis.loop import Evaluation, RunResult
from bench.result import Options

MODES = {"think": "think", "no_think": "direct"}
RowFigures = Callable[[Any, str], Iterator[tuple[str, float]]]
"""Further figures of one sampled row of an evaluation, in the mode `think` or `direct`: name without time, value."""


@dataclass(slots=True)
class Runs:
    """The figures of several runs, each a list with a value a run."""

    found: dict[str, list[float]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)

    def add(self, result: RunResult, more: RowFigures) -> None:
        """Enter a run's evaluations before and after, its seconds and its steps."""
        figures = {name: value for one in result.evaluations for name, value in evaluated(one, more)}
        for name, value in {**figures, "training_s": result.seconds, "steps": result.steps}.items():
            self.found.setdefault(name, []).append(value)
        self.steps.append(result.steps)

    @property
    def means(self) -> dict[str, float]:
        """Of each figure."""
        return {name: round(statistics.mean(values), 4) for name, values in self.found.items()}

    @property
    def spread(self) -> dict[str, tuple[float, float]]:
        """(least, most) of each figure."""
        return {name: (round(min(values), 4), round(max(values), 4)) for name, values in self.found.items()}


def overrides_of(options: Options, folder: str) -> list[str]:
    """What `tasks` (300), `minutes` and `steps` change of a recipe."""
    found = [f"eval.tasks={options.number('tasks', 300)}", f'run.out="{folder}"']
    return found + [f"run.{key}={options.values[key]}" for key in ("minutes", "steps") if key in options.values]


def train_seeds(recipe: str, seeds: int, overrides: Sequence[str], more: RowFigures) -> Runs:
    """Run a recipe with the seeds 0, 1, ..."""
    runs = Runs()
    for seed in range(seeds):
        print(f"seed {seed}: {recipe}", file=sys.stderr, flush=True)
        runs.add(train(recipe, overrides=[*overrides, f"run.seed={seed}"]), more)
    return runs


def evaluated(evaluation: Evaluation, more: RowFigures) -> Iterator[tuple[str, float]]:
    """Success by mode, sampled and greedily, and of what was sampled the turns, the submissions and `more`."""
    when = evaluation.name
    for mode, name in MODES.items():
        for greedy in (False, True):
            row = evaluation.row(mode, greedy=greedy)
            if row is None:
                continue
            yield f"{name}_{'greedy' if greedy else 'sampled'}_{when}", row.summary.success
            if greedy:
                continue
            if mode == "think":
                yield f"{name}_tokens_{when}", row.summary.thinking_tokens
            yield f"{name}_submitted_{when}", row.summary.submitted
            yield f"{name}_turns_{when}", row.summary.turns
            for figure, value in more(row, name):
                yield f"{name}_{figure}_{when}", value


def table_rows(
    rows: Mapping[str, tuple[str, bool]], columns: Sequence[tuple[Mapping[str, float], str]]
) -> Iterator[str]:
    """Lines of a table. rows: label to (figure, whether it is a share); columns: figures and `before` or `after`.

    What never came up in a column, as a share of nothing, is `none`.
    """
    for label, (name, share) in rows.items():
        values = [figures.get(f"{name}_{when}") for figures, when in columns]
        shown = ("none" if v is None else percent(v) if share else f"{v:.1f}" for v in values)
        yield f"| {label} | " + " | ".join(shown) + " |"


def percent(value: float) -> str:
    """A share for people."""
    return f"{100 * value:.0f}%"
