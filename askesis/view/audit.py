"""The page of an audit: what was found, with its evidence, and what was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from askesis.view.charts import Mark
from askesis.view.page import render_page

TONES = {"high": "w", "medium": "b", "low": "a", "info": "n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One probe. rate: with its interval; None where no trial was made. note: a remark, or why it is suppressed."""

    probe: str
    axis: str
    flaw: str
    about: str
    verdict: str
    severity: str
    rate: Mark | None
    n: int
    evidence: str
    note: str
    repro: str

    @property
    def tone(self) -> str:
        """A colour by what came of it."""
        if self.verdict == "found":
            return TONES[self.severity]
        return "c" if self.verdict == "clean" else "m"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """All that the page shows. rows: in the order of the axes. facts: names and texts. command: what made it."""

    title: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    rows: Sequence[Probed]
    command: str

    @property
    def findings(self) -> list[Probed]:
        """The gravest first."""
        order = list(TONES)
        found = [row for row in self.rows if row.verdict == "found"]
        return sorted(found, key=lambda row: (order.index(row.severity), -(row.rate.y if row.rate else 0.0)))

    @property
    def axes(self) -> dict[str, list[Probed]]:
        """Rows by axis."""
        found: dict[str, list[Probed]] = {}
        for row in self.rows:
            found.setdefault(row.axis, []).append(row)
        return found


def render_audit(page: AuditPage) -> str:
    """The page as HTML. The same page gives the same bytes."""
    return render_page("audit.html.jinja", page=page)
