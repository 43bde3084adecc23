"""The loop that couples episodes and training; its face is the Python API. Importing it loads no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from askesis.loop.bundle import Bundle, load
    from askesis.loop.checkpoints import resolve
    from askesis.loop.curve import budgeted, hybrid_line, render_curve, row_name
    from askesis.loop.display import Display, evaluation_table, make_console
    from askesis.loop.evaluating import evaluate, evaluate_policy
    from askesis.loop.folder import RunFolder, find_run, runs_in
    from askesis.loop.plan import Plan
    from askesis.loop.reading import find_recipe, load_recipe, parse_override, to_mapping, to_toml
    from askesis.loop.recipe import Recipe
    from askesis.loop.results import (
        Alarm,
        Evaluation,
        Row,
        RunResult,
        StepRecord,
        from_plain,
        plain_values,
        read_evaluations,
    )
    from askesis.loop.run import dry_run, train
    from askesis.loop.scripted import play_policy

_HOMES = {
    "bundle": ("Bundle", "load"),
    "checkpoints": ("resolve",),
    "curve": ("budgeted", "hybrid_line", "render_curve", "row_name"),
    "display": ("Display", "evaluation_table", "make_console"),
    "evaluating": ("evaluate", "evaluate_policy"),
    "folder": ("RunFolder", "find_run", "runs_in"),
    "plan": ("Plan",),
    "reading": ("find_recipe", "load_recipe", "parse_override", "to_mapping", "to_toml"),
    "recipe": ("Recipe",),
    "results": (
        "Alarm",
        "Evaluation",
        "Row",
        "RunResult",
        "StepRecord",
        "from_plain",
        "plain_values",
        "read_evaluations",
    ),
    "run": ("dry_run", "train"),
    "scripted": ("play_policy",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Alarm",
    "Bundle",
    "Display",
    "Evaluation",
    "Plan",
    "Recipe",
    "Row",
    "RunFolder",
    "RunResult",
    "StepRecord",
    "budgeted",
    "dry_run",
    "evaluate",
    "evaluate_policy",
    "evaluation_table",
    "find_recipe",
    "find_run",
    "from_plain",
    "hybrid_line",
    "load",
    "load_recipe",
    "make_console",
    "parse_override",
    "plain_values",
    "play_policy",
    "read_evaluations",
    "render_curve",
    "resolve",
    "row_name",
    "runs_in",
    "to_mapping",
    "to_toml",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
