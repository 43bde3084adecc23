"""Success against thinking: what an evaluation at several budgets says, as a table of effort and as a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from askesis import view
from askesis.chat import EFFORTS, EffortPoint, EffortTable
from askesis.loop.results import Evaluation, Row
from askesis.types import ConfigError, Thinking

_TONES = "ab"  # of the first and the last evaluation


def effort_table(evaluation: Evaluation) -> EffortTable:
    """What was measured, as a table. Raises `ConfigError` where there are no two points to go between."""
    rows = [row for row in evaluation.rows if row.summary.learnable]
    points = tuple(
        EffortPoint(
            enabled=row.thinking.enabled,
            budget=row.thinking.budget,
            thinking_tokens=round(row.summary.thinking_tokens, 4),
            success=round(row.summary.success, 4),
            interval=(round(row.summary.interval[0], 4), round(row.summary.interval[1], 4)),
            episodes=row.summary.learnable,
        )
        for row in rows
        if row.thinking is not None and row.thinking.episode_budget is None
    )
    if len(points) < 2:
        raise ConfigError(
            f"effort lies between measured budgets, but only {len(points)} gave figures; give several, as in "
            "--budgets 0,4,8,16,32,64,none"
        )
    return EffortTable(env=evaluation.env, agent=evaluation.agent, temperature=rows[0].temperature, points=points)


def named_efforts(table: EffortTable) -> dict[str, Thinking]:
    """What `low`, `medium` and `high` mean by a table."""
    return {name: table.thinking(effort) for name, effort in EFFORTS.items()}


def render_curve(
    evaluations: Sequence[Evaluation], *, title: str, facts: Sequence[tuple[str, str]] = (), command: str = ""
) -> str:
    """The page: success against mean thinking tokens, for one checkpoint or for two that are to be compared."""
    shown = [one for one in evaluations if any(row.summary.learnable for row in one.rows)]
    charts = [chart for chart in (_curve(shown), _spent(shown), _closed(shown)) if not chart.empty]
    tables = [
        view.Table(
            title=one.name if len(shown) > 1 else "",
            head=("mode", *_COLUMNS),
            rows=[(row_name(row, one.efforts), *(text(row) for text in _COLUMNS.values())) for row in budgeted(one)],
            note=_note(one),
        )
        for one in shown
    ]
    return view.render_summary(
        view.SummaryPage(
            title=title,
            kind="thinking budgets",
            facts=facts,
            hero=charts[0] if charts else None,
            charts=charts[1:],
            tables=tables,
            command=command,
        )
    )


def row_name(row: Row, efforts: Mapping[str, str]) -> str:
    """The mode in words, with the efforts that mean it: `no thinking`, `budget 12 (low)`, `no bound (high)`."""
    names = [name for name, mode in efforts.items() if mode == row.mode]
    mode = row.mode.replace("think:", "budget ") if row.mode.startswith("think:") else row.mode
    words = {"think": "no bound", "no_think": "no thinking"}.get(mode, mode)
    return words + (f" ({', '.join(names)})" if names else "")


def short_name(thinking: Thinking) -> str:
    """What stands beside a point: the budget, `none` without bound, `off` without thinking."""
    if not thinking.enabled:
        return "off"
    return "none" if thinking.budget is None else str(thinking.budget)


def budgeted(evaluation: Evaluation) -> list[Row]:
    """The sampled rows that have figures, from no thinking to no bound."""
    rows = [row for row in evaluation.rows if row.thinking is not None and row.summary.learnable]
    return sorted(rows, key=lambda row: _order(row.thinking))


def _order(thinking: Thinking | None) -> tuple[bool, float]:
    assert thinking is not None
    return thinking.enabled, math.inf if thinking.budget is None else thinking.budget


def _curve(evaluations: Sequence[Evaluation]) -> view.Chart:
    series = []
    for evaluation, tone in zip(evaluations, _TONES, strict=False):
        rows = [row for row in budgeted(evaluation) if row.thinking is not None]
        marks = [
            view.Mark(
                x=row.summary.thinking_tokens,
                y=row.summary.success,
                low=row.summary.interval[0],
                high=row.summary.interval[1],
                label=_label(row, evaluation),
            )
            for row in rows
        ]
        thinking = [mark for mark, row in zip(marks, rows, strict=True) if row.thinking and row.thinking.enabled]
        others = [mark for mark, row in zip(marks, rows, strict=True) if row.thinking and not row.thinking.enabled]
        name = evaluation.name if len(evaluations) > 1 else "thinking, by budget"
        series.append(view.Series(name=name, tone=tone, marks=thinking))
        if others:
            off = f"{evaluation.name}, no thinking" if len(evaluations) > 1 else "no thinking"
            series.append(view.Series(name=off, tone="cd"[len(series) > 1], marks=others))
    return view.Chart(
        title="success against thinking",
        about="Each point is a budget a turn (its number; none: no bound), with the 95% interval of its success; "
        "low, medium and high are what these efforts mean.",
        kind="share",
        xs=(),
        series=series,
        x_name="thinking tokens an episode",
    )


def _label(row: Row, evaluation: Evaluation) -> str:
    assert row.thinking is not None
    names = [name for name, mode in evaluation.efforts.items() if mode == row.mode]
    return ", ".join([short_name(row.thinking), *names])


def _spent(evaluations: Sequence[Evaluation]) -> view.Chart:
    """Mean thinking tokens by budget, where budgets are numbers."""
    return _by_budget(evaluations, "thinking tokens an episode", "count", lambda row: row.summary.thinking_tokens)


def _closed(evaluations: Sequence[Evaluation]) -> view.Chart:
    return _by_budget(
        evaluations, "closings of thinking that the budget forced", "share", lambda row: row.summary.forced
    )


def _by_budget(
    evaluations: Sequence[Evaluation], title: str, kind: view.Kind, value: Callable[[Row], float]
) -> view.Chart:
    budgets = sorted(
        {
            row.thinking.budget
            for one in evaluations
            for row in budgeted(one)
            if row.thinking is not None and row.thinking.budget is not None
        }
    )
    series, several = [], len(evaluations) > 1
    if len(budgets) < 2:
        return view.Chart(title=title, xs=(), series=())
    for evaluation, tone in zip(evaluations, _TONES, strict=False):
        known = {
            one.thinking.budget: value(one) for one in budgeted(evaluation) if one.thinking and one.thinking.enabled
        }
        series.append(
            view.Series(
                name=evaluation.name if several else title,
                tone=tone,
                ys=[known.get(budget, math.nan) for budget in budgets],
            )
        )
    return view.Chart(title=title, kind=kind, xs=[float(one) for one in budgets], series=series, x_name="budget")


def _share(value: float) -> str:
    return view.written(value, "share")


def _interval(row: Row) -> str:
    low, high = row.summary.interval
    return f"{_share(row.summary.success)} [{100 * low:.1f}, {100 * high:.1f}]" if row.summary.learnable else "–"


def _tokens(row: Row) -> str:
    low, high = row.summary.thinking_interval
    text = view.written(row.summary.thinking_tokens)
    return text if math.isnan(low) or low == high else f"{text} [{max(0.0, low):.1f}, {high:.1f}]"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "success": _interval,
    "thinking tokens": _tokens,
    "turns that think": lambda row: _share(row.summary.triggered),
    "closed by itself": lambda row: _share(row.summary.closed_by_itself),
    "closed by the budget": lambda row: _share(row.summary.closed_by_budget),
    "budget error": lambda row: _share(row.summary.budget_error),
    "beyond it": lambda row: str(row.summary.over_budget),
}


def _note(evaluation: Evaluation) -> str:
    about = (
        "Shares are of turns. Budget error: how far from its budget a turn that thinks ends, as a share of it. Beyond "
        "it: the most tokens that any turn thought beyond its budget."
    )
    return f"{about} {hybrid_line(evaluation)}".strip()


def hybrid_line(evaluation: Evaluation) -> str:
    """How often the chosen mode was the better one, in words; empty where that was not measured."""
    found = evaluation.hybrid
    if found is None:
        return ""
    low, high = found.interval
    return (
        f"Hybrid accuracy {100 * found.accuracy:.1f}% [{100 * low:.1f}, {100 * high:.1f}]: free to think, it "
        f"thought on {100 * found.chose:.0f}% of {found.tasks} tasks; on {100 * found.better:.0f}% thinking was the "
        "better mode (it alone succeeded)."
    )


def joined(first: Evaluation, second: Evaluation) -> Evaluation:
    """Two evaluations of the same tasks as one."""
    return replace(
        first,
        rows=(*first.rows, *second.rows),
        seconds=first.seconds + second.seconds,
        lost=first.lost or second.lost,
    )
