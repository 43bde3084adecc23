"""Draws what it is given: charts, episodes, the report of a run. One self-contained HTML file a page."""

from askesis.view.audit import AuditPage, Probed, render_audit
from askesis.view.charts import Chart, Mark, Series, draw
from askesis.view.episode import Episode, Story
from askesis.view.figures import Kind, mode_name, points, written
from askesis.view.page import render_page
from askesis.view.report import Figure, Notice, Report, Results, Row, Score, Section, render_report
from askesis.view.summary import SummaryPage, Table, render_summary

__all__ = [
    "AuditPage",
    "Chart",
    "Episode",
    "Figure",
    "Kind",
    "Mark",
    "Notice",
    "Probed",
    "Report",
    "Results",
    "Row",
    "Score",
    "Section",
    "Series",
    "Story",
    "SummaryPage",
    "Table",
    "draw",
    "mode_name",
    "points",
    "render_audit",
    "render_page",
    "render_report",
    "render_summary",
    "written",
]
