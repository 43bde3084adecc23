"""What a person sees while a run goes on: a live line or two on a terminal, plain lines elsewhere; the same in the log.

Everything goes to stderr: stdout belongs to results.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from askesis.loop.results import Alarm, Evaluation, Row, StepRecord
from askesis.rollout import Progress

_REFRESH_S = 0.1


class Display:
    """One run's face. log: the file that gets every plain line with the time; quiet: print nothing.

    every: steps between two plain lines where there is no terminal.
    """

    def __init__(self, *, quiet: bool = False, every: int = 5, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet, self.every = quiet, every
        self._live_wanted = self.console.is_terminal and not quiet
        self._live: Live | None = None
        self._log: TextIO | None = None
        self._first, self._second, self._drawn = "", "", 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log_to(self, path: Path) -> None:
        """Keep every plain line in this file too."""
        self._log = path.open("a", encoding="utf-8")

    def say(self, text: str, *, style: str = "") -> None:
        """A line that stays."""
        self._keep(text)
        if not self._quiet:
            self.console.print(Text(text, style=style))

    def alarm(self, alarm: Alarm) -> None:
        """Something is wrong with the run."""
        self.say(f"ALARM {alarm.kind}: {alarm.message}", style="bold red")

    def step(self, record: StepRecord, left: str) -> None:
        """A step is done. left: what is left to do, in words."""
        line = step_line(record, left)
        self._keep(line)
        self._first = line
        if self._live_wanted:
            self._draw(force=True)
        elif not self._quiet and (record.step % self.every == 0 or record.step == 1):
            self.console.print(Text(line))

    def progress(self, what: str, done: int, of: int, progress: Progress | None = None) -> None:
        """What goes on right now; drawn on a terminal only, and not too often."""
        if not self._live_wanted:
            return
        tools = "" if progress is None else f" · {progress.turns:,} turns · tools {progress.tool_s:.1f} s"
        self._second = f"{what} {done}/{of}{tools}"
        self._draw()

    def evaluation(self, evaluation: Evaluation, *, quiet: bool = False) -> None:
        """An evaluation is done; quiet: only the log is told."""
        for line in evaluation_lines([evaluation]):
            (self._keep if quiet else self.say)(line)

    def table(self, evaluations: Sequence[Evaluation]) -> None:
        """Success before and after, with intervals."""
        if not self._quiet:
            self.close_live()
            self.console.print(evaluation_table(evaluations))

    def close_live(self) -> None:
        """Take the live lines away; the next step brings them back."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def close(self) -> None:
        """Let go of terminal and log."""
        self.close_live()
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._drawn < _REFRESH_S:
            return
        self._drawn = now
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        text = Text(self._first, no_wrap=False)
        if self._second:
            text.append("\n" * bool(self._first) + self._second, style="dim")
        self._live.update(text, refresh=True)

    def _keep(self, text: str) -> None:
        if self._log is not None:
            self._log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            self._log.flush()


def step_line(record: StepRecord, left: str) -> str:
    """`step 12 · reward 0.71 · success think 62% no_think 71% · ...`."""
    parts = [f"step {record.step}"]
    if record.sampled_tokens:
        modes = " ".join(f"{mode} {_percent(rate)}" for mode, rate in record.success_by_mode.items())
        thinking = [value for mode, value in record.thinking_by_mode.items() if mode != "no_think"]
        parts += [f"reward {record.reward:.3f}", f"success {modes}"]
        if thinking:
            parts.append(f"thinking {sum(thinking) / len(thinking):.0f} tokens")
    if "loss" in record.trainer:
        parts.append(f"loss {record.trainer['loss']:.3f}")
    parts += [f"{record.tokens_per_s:,.0f} tokens/s", f"tools {record.tool_s:.1f} s", left]
    return " · ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """`4:05`, `1:02:03`."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _percent(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{100 * rate:.0f}%"


def _rate(row: Row | None) -> str:
    if row is None or not row.summary.learnable:
        return "–"
    low, high = row.summary.interval
    return f"{100 * row.summary.success:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _name(row: Row) -> str:
    mode = {"think": "thinking", "no_think": "no thinking"}.get(row.mode, row.mode.replace("think:", "thinking up to "))
    return f"{mode}, {'greedy' if row.temperature == 0 else 'sampled'}"


def evaluation_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """One plain line a row."""
    return [
        f"{evaluation.name}: {_name(row)}: success {_rate(row)}, {_number(row.summary.thinking_tokens)} thinking "
        f"tokens, {_number(row.summary.turns)} turns, {_percent(row.summary.submitted)} submitted"
        + (f", {row.summary.infrastructure} lost to the machinery" if row.summary.infrastructure else "")
        for evaluation in evaluations
        for row in evaluation.rows
    ]


def evaluation_table(evaluations: Sequence[Evaluation]) -> Group:
    """Success with its 95% interval (Wilson) by mode and way of sampling; costs and metrics below it."""
    last = evaluations[-1]
    keys = list(dict.fromkeys(row.key for evaluation in evaluations for row in evaluation.rows))
    tasks = max(evaluation.tasks for evaluation in evaluations)
    success = _table(f"success on {tasks} held-out tasks of {last.env}, with 95% interval")
    figures = _table("means of an episode" + (": first → last" if len(evaluations) > 1 else ""))
    for evaluation in evaluations:
        success.add_column(evaluation.name, justify="right", no_wrap=True)
    named = _figures([row for evaluation in evaluations for row in evaluation.rows])
    for heading in named:
        figures.add_column(heading, justify="right", no_wrap=True)
    for key in keys:
        rows = [next((row for row in one.rows if row.key == key), None) for one in evaluations]
        there = [row for row in rows if row is not None]
        success.add_row(_name(there[0]), *map(_rate, rows))
        ends = [there[0], there[-1]][: len(there)]
        figures.add_row(_name(there[0]), *(" → ".join(show(row) for row in ends) for show in named.values()))
    return Group(success, figures)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table


def _figures(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """What is shown of each row beside success, by heading."""
    figures: dict[str, Callable[[Row], str]] = {
        "thinking tokens": lambda row: _number(row.summary.thinking_tokens),
        "turns": lambda row: _number(row.summary.turns),
        "submitted": lambda row: _percent(row.summary.submitted),
    }
    if any(row.summary.infrastructure for row in rows):
        figures["lost"] = lambda row: str(row.summary.infrastructure)
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        figures[name] = lambda row, name=name: _number(row.metrics.get(name, (math.nan, 0))[0])  # type: ignore[misc]
    return figures
