"""Learning when to stop: askesis-tiny on `repair` at several thinking budgets, before and after the recipe `thinking`.

Held-out tasks are played at each budget a turn, without bound and without thinking. Beside the curve of success against
mean thinking tokens stands what the free model (thinking on, no bound) spends its thinking on: the correlation between
the tokens that it thinks in an episode and the number of faults in the task, and how much it thinks in turns that see a
failing test and in all others. Only turns that think count: an empty pair of think tags holds line breaks, no thought.

ratio: the least, over the budgets and no thinking, of success after over success before.

Options: `tasks` (150), `budgets` (0,4,8,16,32,none), `run` (a run of the recipe `thinking` to measure; else it is
trained here), `steps` (the recipe's), `picture` (a file for the page that shows both curves).
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from askesis import evaluate, train
from askesis.loop import Evaluation, find_run, load_recipe, render_curve
from askesis.types import Group, Thinking, Trace
from bench.result import Options, Result

GOAL = (
    "success better after than before at every budget, and thinking that follows need: its correlation with the number "
    "of faults positive after training, and higher than before"
)
BEFORE, AFTER = "before", "after"


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    tasks = options.number("tasks", 150)
    words = options.values.get("budgets", "0,4,8,16,32,none").split(",")
    budgets = [None if word == "none" else int(word) for word in words]
    asked = [Thinking(enabled=False), *(Thinking(budget=budget) for budget in budgets)]
    env = load_recipe("thinking").env
    with tempfile.TemporaryDirectory() as folder:
        trained = options.values.get("run") or _train(options, folder)
        status = find_run(trained).status()
        evaluations, figures = [], {}
        for when, checkpoint in ((BEFORE, "askesis-tiny"), (AFTER, trained)):
            kept = _Kept()
            found = evaluate(
                checkpoint,
                env=env.name,
                env_options=env.options,
                tasks=tasks,
                budgets=budgets,
                store=kept,
                display=True,
            )
            evaluations.append(replace(found, name=when))
            figures |= _figures(evaluations[-1], when, asked) | _need(kept.traces, when)
    if "picture" in options.values:
        page = render_curve(evaluations, title="askesis-tiny on repair", command="python -m bench thinking")
        Path(options.values["picture"]).write_text(page, encoding="utf-8")
    measured = [name.removesuffix(f"_{BEFORE}") for name in figures if _is_success(name, BEFORE)]
    ratios = [figures[f"{name}_{AFTER}"] / max(figures[f"{name}_{BEFORE}"], 1e-9) for name in measured]
    given = "".join(f" --option {key}={value}" for key, value in options.values.items() if key != "picture")
    return Result(
        name="thinking",
        command=f"python -m bench thinking{given}",
        goal=GOAL,
        ours={name: round(value, 4) for name, value in figures.items() if not math.isnan(value)},
        peers={},
        spread={},
        ratio=round(min(ratios), 3),
        met=min(ratios) > 1 and figures["correlation_after"] > max(0.0, figures["correlation_before"]),
        notes=[
            f"trained for {status['step']} steps ({status['state']})",
            f"one seed, {tasks} held-out tasks at each budget, sampled at temperature 1; budgets are tokens a turn",
            "correlations are Pearson's, over the episodes of the free model, with 95% intervals (Fisher)",
        ],
    )


def _train(options: Options, folder: str) -> str:
    overrides: dict[str, Any] = {"run.out": folder, "eval.tasks": 0}
    if "steps" in options.values:
        overrides["run.steps"] = options.number("steps", 0)
    return str(train("thinking", overrides=overrides).folder)


class _Kept:
    """A trace sink in memory."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def add(self, traces: Sequence[Trace], *, label: str = "", step: int = 0, group: Group | None = None) -> None:
        """Keep those of the free model."""
        self.traces += [one for one in traces if one.thinking == Thinking() and one.outcome.learnable]


def _is_success(name: str, when: str) -> bool:
    """Whether a figure is `success_BUDGET_when`."""
    return name.startswith("success_") and name.endswith(f"_{when}") and name.count("_") == 2


def _figures(evaluation: Evaluation, when: str, asked: Sequence[Thinking]) -> dict[str, float]:
    """Of every budget that was asked for: success with its interval, tokens, who closed."""
    found: dict[str, float] = {}
    for row in evaluation.rows:
        if row.thinking is None or row.thinking not in asked:
            continue
        name = (
            "off" if not row.thinking.enabled else "none" if row.thinking.budget is None else str(row.thinking.budget)
        )
        summary = row.summary
        found |= {
            f"success_{name}_{when}": summary.success,
            f"success_low_{name}_{when}": summary.interval[0],
            f"success_high_{name}_{when}": summary.interval[1],
            f"tokens_{name}_{when}": summary.thinking_tokens,
            f"triggered_{name}_{when}": summary.triggered,
            f"forced_{name}_{when}": summary.forced,
        }
    if evaluation.hybrid is not None:
        found[f"hybrid_accuracy_{when}"] = evaluation.hybrid.accuracy
    return found


def _need(traces: Sequence[Trace], when: str) -> dict[str, float]:
    """What the free model spends its thinking on."""
    faults = [float(len(trace.task.data["faults"])) for trace in traces]
    spent = [float(sum(node.thinking_tokens for node in trace.nodes if node.thought)) for trace in traces]
    failing: list[int] = []
    others: list[int] = []
    for trace in traces:
        seen = ""
        for node in trace.nodes:
            if node.sampled:
                (failing if seen.startswith("FAIL") else others).append(node.thinking_tokens if node.thought else 0)
            elif node.message.role == "tool":
                seen = node.message.text
    correlation, low, high = pearson(faults, spent)
    found = {
        f"correlation_{when}": correlation,
        f"correlation_low_{when}": low,
        f"correlation_high_{when}": high,
        f"thought_after_failure_{when}": statistics.mean(failing) if failing else math.nan,
        f"thought_elsewhere_{when}": statistics.mean(others) if others else math.nan,
    }
    for count in sorted(set(faults)):
        own = [tokens for tokens, n in zip(spent, faults, strict=True) if n == count]
        found[f"thought_{count:g}_faults_{when}"] = statistics.mean(own)
    return found


def pearson(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Correlation with its 95% interval (Fisher 1921); 0 where one of them never changes: nothing follows anything."""
    if len(xs) < 4 or len(set(xs)) < 2 or len(set(ys)) < 2:
        return 0.0, -1.0, 1.0
    r = statistics.correlation(xs, ys)
    z, half = math.atanh(max(-0.999999, min(0.999999, r))), 1.959964 / math.sqrt(len(xs) - 3)
    return r, math.tanh(z - half), math.tanh(z + half)


def table(kept: Mapping[str, Any]) -> str:
    """Success and thinking at each budget."""
    ours = kept["ours"]
    names = [name.split("_")[1] for name in ours if _is_success(name, BEFORE)]
    names.sort(key=lambda name: (name != "off", math.inf if name == "none" else float(name) if name.isdigit() else -1))
    lines = [
        "| budget a turn | success before | after | thinking tokens before | after | closings forced before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    words = {"off": "thinking off", "none": "no bound"}
    for name in names:
        success = [_interval(ours, name, when) for when in (BEFORE, AFTER)]
        tokens = [f"{ours[f'tokens_{name}_{when}']:.1f}" for when in (BEFORE, AFTER)]
        forced = [_share(ours.get(f"forced_{name}_{when}")) for when in (BEFORE, AFTER)]
        lines.append(f"| {words.get(name, name)} | " + " | ".join([*success, *tokens, *forced]) + " |")
    return "\n".join(lines)


def need(kept: Mapping[str, Any]) -> str:
    """What thinking follows."""
    ours = kept["ours"]
    counts = sorted({name.split("_")[1] for name in ours if name.startswith("thought_") and "_faults_" in name})
    lines = ["| free to think | before | after |", "|---|---|---|"]
    rows = [
        *((f"thought, tasks with {n} fault{'s' * (n != '1')}", f"thought_{n}_faults") for n in counts),
        ("thought in a turn that sees a failing test", "thought_after_failure"),
        ("thought in any other turn", "thought_elsewhere"),
    ]
    for label, name in rows:
        lines.append(f"| {label} | " + " | ".join(f"{ours[f'{name}_{when}']:.1f}" for when in (BEFORE, AFTER)) + " |")
    bounds = [
        f"{ours[f'correlation_{w}']:+.2f} [{ours[f'correlation_low_{w}']:+.2f}, {ours[f'correlation_high_{w}']:+.2f}]"
        for w in (BEFORE, AFTER)
    ]
    lines.append("| correlation of thought with faults | " + " | ".join(bounds) + " |")
    hybrid = [_share(ours.get(f"hybrid_accuracy_{when}")) for when in (BEFORE, AFTER)]
    lines += ["| hybrid accuracy | " + " | ".join(hybrid) + " |", ""]
    met = "met" if kept["met"] else "not met"
    lines.append(f"Goal: {kept['goal']}: {met}. {'; '.join(kept['notes'])} ({kept['date']}, `{kept['command']}`).")
    return "\n".join(lines)


def _interval(ours: Mapping[str, float], name: str, when: str) -> str:
    low, high = ours[f"success_low_{name}_{when}"], ours[f"success_high_{name}_{when}"]
    return f"{100 * ours[f'success_{name}_{when}']:.0f}% [{100 * low:.0f}, {100 * high:.0f}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
