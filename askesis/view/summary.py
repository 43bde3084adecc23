"""A page of one chart in full width, some smaller ones and tables: what an evaluation found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from askesis.view.charts import Chart
from askesis.view.page import render_page


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Texts in rows; the first column names the row. note: a line below."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryPage:
    """All that the page shows. kind: what it is about, in words. facts: names and texts. command: what made it.

    hero and charts must not be `empty`.
    """

    title: str
    kind: str
    facts: Sequence[tuple[str, str]]
    hero: Chart | None
    charts: Sequence[Chart]
    tables: Sequence[Table]
    command: str = ""


def render_summary(page: SummaryPage) -> str:
    """The page as HTML. The same page gives the same bytes."""
    return render_page("summary.html.jinja", page=page)
