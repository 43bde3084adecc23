"""The report of a run: what was trained, what came out, how it went, and some episodes to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from askesis.view.charts import Chart, Mark, readings
from askesis.view.episode import Story, spread
from askesis.view.figures import NOTHING, Kind, written
from askesis.view.page import render_page

MOST_ROWS = 40  # of the table of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with how it is written and, where that is worth saying, of how many episodes it is the mean."""

    value: float
    kind: Kind = "number"
    n: int | None = None

    @property
    def text(self) -> str:
        """As it stands in a table."""
        return written(self.value, self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row of one evaluation. rate: success with its interval; None where no episode says anything.

    figures: everything else, by name.
    """

    rate: Mark | None
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A mode and a way of sampling. scores: by evaluation. change: of success from first to last, with interval."""

    name: str
    tone: str
    scores: Sequence[Score | None]
    change: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Held-out success and costs. exams: names of the evaluations, in order."""

    about: str
    exams: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Charts under a heading. hero: one that takes the whole width."""

    title: str
    charts: Sequence[Chart]
    hero: Chart | None = None
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An alarm: what, since when, and what it means."""

    title: str
    when: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page shows. kind: what was done, in words. facts, versions: names and texts.

    results: None if nothing was evaluated. stories: episodes side by side. commands: what for, and the command.
    """

    title: str
    kind: str
    state: str
    facts: Sequence[tuple[str, str]]
    notices: Sequence[Notice]
    results: Results | None
    sections: Sequence[Section]
    stories: Sequence[Story]
    recipe: str
    commands: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]


def render_report(report: Report) -> str:
    """The page as HTML. The same report gives the same bytes."""
    sections = [drawn for section in report.sections if (drawn := _with_content(section))]
    charts = [chart for section in sections for chart in (section.hero, *section.charts) if chart]
    return render_page(
        "report.html.jinja",
        report=report,
        sections=sections,
        results=report.results,
        measures=measures(report.results) if report.results else [],
        spreads=[spread(story) for story in report.stories],
        steps=steps_table(charts),
    )


def _with_content(section: Section) -> Section | None:
    """The section without what is empty; None if nothing is left."""
    hero = section.hero if section.hero and not section.hero.empty else None
    charts = [chart for chart in section.charts if not chart.empty]
    return replace(section, hero=hero, charts=charts) if hero or charts else None


def measures(results: Results) -> list[tuple[str, list[tuple[Figure | None, Figure | None]]]]:
    """By name of a figure: for each row its value in the first and in the last evaluation."""
    scores = [score for row in results.rows for score in row.scores if score]
    names = dict.fromkeys(name for score in scores for name in score.figures)
    return [
        (name, [(_figure(row.scores[0], name), _figure(row.scores[-1], name)) for row in results.rows])
        for name in names
    ]


def _figure(score: Score | None, name: str) -> Figure | None:
    return score.figures.get(name) if score else None


@dataclass(frozen=True, slots=True)
class Steps:
    """The charts as a table. every: one of how many places is shown."""

    head: list[tuple[str, str]]
    rows: list[tuple[str, list[str]]]
    every: int


def steps_table(charts: Sequence[Chart]) -> Steps | None:
    """What the charts show, for who would rather read it; thinned to `MOST_ROWS` rows, the last one always there."""
    head: list[tuple[str, str]] = []
    columns: list[dict[float, str]] = []
    labels: dict[float, str] = {}
    for chart in charts:
        read = readings(chart)
        labels |= dict(zip(read["x"], read["label"], strict=True))
        for _, name, texts in read["rows"]:
            head.append((chart.title, name))
            columns.append({x: text for x, text in zip(read["x"], texts, strict=True) if text is not None})
    if not labels:
        return None
    xs = sorted(labels)
    every = -(-len(xs) // MOST_ROWS)
    shown = sorted({*xs[::every], xs[-1]})
    rows = [(labels[x], [column.get(x, NOTHING) for column in columns]) for x in shown]
    return Steps(head, rows, every)
