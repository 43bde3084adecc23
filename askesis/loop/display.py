"""What a person sees while a run goes on: a live line or two on a terminal, plain lines elsewhere; the same in the log.

Everything goes to stderr: stdout belongs to results.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from askesis.loop.results import Alarm, Evaluation, Row, StepRecord

_REFRESH_S = 0.1
_ABREAST = 4  # modes beside each other in a table of 80 columns
_WIDE = 200  # columns of a pipe or a file


def make_console(*, stderr: bool = False) -> Console:
    """A terminal's lines break between words; those of a file or a pipe do not break."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, soft_wrap=True, width=_WIDE)


class Display:
    """One run's face. log: the file that gets every plain line with the time; quiet: print nothing.

    every: steps between two plain lines where there is no terminal.
    """

    def __init__(self, *, quiet: bool = False, every: int = 5, console: Console | None = None) -> None:
        self.console = console or make_console(stderr=True)
        self._quiet, self.every = quiet, every
        self._live_wanted = self.console.is_terminal and not quiet
        self._live: Live | None = None
        self._log: TextIO | None = None
        self._learning, self._machine, self._now, self._drawn = "", "", "", 0.0

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

    @contextmanager
    def also(self, logger: str) -> Iterator[None]:
        """Say meanwhile what is logged there as a warning: that a step waits, and for what."""
        handler = _Saying(self)
        source = logging.getLogger(logger)
        before, source.propagate = source.propagate, False
        source.addHandler(handler)
        try:
            yield
        finally:
            source.removeHandler(handler)
            source.propagate = before

    def alarm(self, alarm: Alarm) -> None:
        """Something is wrong with the run."""
        self.say(f"ALARM {alarm.kind}: {alarm.message}", style="bold red")

    def step(self, record: StepRecord, left: str) -> None:
        """A step is done. left: what is left to do, in words."""
        self._learning, self._machine = step_lines(record, left)
        line = f"{self._learning} · {self._machine}"
        self._keep(line)
        if self._live_wanted:
            self._draw(force=True)
        elif not self._quiet and (record.step % self.every == 0 or record.step == 1):
            self.console.print(Text(line))

    def progress(self, what: str, done: int | None = None, of: int | None = None) -> None:
        """What goes on right now; drawn on a terminal only, and counts not too often."""
        if not self._live_wanted:
            return
        self._now = what if done is None else f"{what} {done}/{of}"
        self._draw(force=done is None)

    def evaluation(self, evaluation: Evaluation, *, quiet: bool = False) -> None:
        """An evaluation is done; quiet: only the log is told."""
        for line in evaluation_lines(evaluation):
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
            with suppress(OSError):
                log.close()

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._drawn < _REFRESH_S:
            return
        self._drawn = now
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        below = " · ".join(part for part in (self._machine, self._now) if part)
        lines = [Text(self._learning), Text(below, style="dim")]
        self._live.update(Group(*(line for line in lines if line)), refresh=True)

    def _keep(self, text: str) -> None:
        if self._log is not None:
            with suppress(OSError):  # for want of a line in the log no run ends
                self._log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
                self._log.flush()


class _Saying(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(record.getMessage())


def step_lines(record: StepRecord, left: str) -> tuple[str, str]:
    """What was learned, and what the machine did.

    `step 12 · reward 0.713 · success think 62%, no_think 71% · 24 thinking tokens` and
    `8,125 tokens/s · tools 0.21 s an episode · 4:05 left`. Where nothing is sampled the loss takes the place of both.
    Where rollout runs ahead: `2.1 versions behind · 3 groups ready, 96 episodes on their way · trainer waited 0.4 s`.
    """
    learned = [f"step {record.step}"]
    if record.sampled_tokens or record.ahead:
        rates = ", ".join(f"{mode} {_percent(rate)}" for mode, rate in record.success_by_mode.items())
        learned += [f"reward {_number(record.reward, 3)}", f"success {rates}"]
        thinking = [value for mode, value in record.thinking_by_mode.items() if mode != "no_think"]
        if thinking:
            forced = [value for value in record.closed_by_budget.values() if value > 0]
            cut = f" ({_percent(sum(forced) / len(record.thinking_by_mode))} of turns cut off)" if forced else ""
            learned.append(f"{_number(sum(thinking) / len(thinking), 0)} thinking tokens{cut}")
    elif "loss" in record.trainer:
        learned.append(f"loss {record.trainer['loss']:.3f}")
    if "router_balance" in record.trainer:
        learned.append(f"experts' balance {record.trainer['router_balance']:.2f}")
    tools = record.tool_s / max(record.episodes, 1)  # episodes overlap: their sum would be longer than the step
    did = [f"{record.tokens_per_s:,.0f} tokens/s", f"tools {tools:.2f} s an episode"]
    if record.ahead:
        did += [
            f"{record.staleness:.1f} versions behind",
            f"{record.ready} groups ready, {record.flying} episodes on their way",
            f"trainer waited {sum(record.waited.values()):.1f} s",
        ]
        did += [f"{record.given_up} groups given up"] if record.given_up else []
    did.append(left)
    return " · ".join(learned), " · ".join(part for part in did if part)


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


def _number(value: float, digits: int | None = None) -> str:
    """digits: behind the point; None gives large numbers one and small ones two."""
    digits = (0 if not value else 2 if abs(value) < 10 else 1) if digits is None else digits
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _name(row: Row) -> str:
    mode = {"think": "thinking", "no_think": "no thinking"}.get(row.mode, _bounded(row.mode))
    return f"{mode}, {'greedy' if row.temperature == 0 else 'sampled'}"


def _bounded(mode: str) -> str:
    """`think:8/40` as `thinking up to 8, in all 40`."""
    if mode.startswith("think:/"):
        return mode.replace("think:/", "thinking in all up to ")
    return mode.replace("think:", "thinking up to ").replace("/", ", in all ")


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """One plain line a row."""
    lines = []
    for row in evaluation.rows:
        parts = [f"{evaluation.name}: {_name(row)}: success {_rate(row)}", f"{_number(row.summary.turns)} turns"]
        if row.summary.infrastructure:
            parts.append(f"{row.summary.infrastructure} lost to the machinery")
        lines.append(", ".join(parts))
    if evaluation.lost:
        lines.append(f"{evaluation.name}: the first that the machinery ended: {evaluation.lost}")
    return lines


def evaluation_table(evaluations: Sequence[Evaluation]) -> Group:
    """The first and the last of some evaluations, 80 columns wide.

    Success with its 95% interval (Wilson) by mode and way of sampling; below it costs and metrics.
    """
    shown = list(dict.fromkeys((0, len(evaluations) - 1)))
    ends = [evaluations[i] for i in shown]
    keys = list(dict.fromkeys(row.key for evaluation in ends for row in evaluation.rows))
    tasks = max(evaluation.tasks for evaluation in ends)
    above = Text(f"\nsuccess on {tasks} held-out tasks of {ends[-1].env}, with 95% interval", style="bold")
    between = Text("\nmeans of an episode", style="bold")
    if len(ends) > 1:
        between.append(f": {ends[0].name} → {ends[-1].name}")
    success = _table()
    for evaluation in ends:
        success.add_column(evaluation.name, justify="right", overflow="fold")
    columns = []
    for key in keys:
        rows = [next((row for row in one.rows if row.key == key), None) for one in ends]
        columns.append([row for row in rows if row is not None])
        name = _name(columns[-1][0])
        success.add_row(name, *map(_rate, rows))
    shown_figures = _figures([row for column in columns for row in column])
    figures = [_figure_table(columns[at : at + _ABREAST], shown_figures) for at in range(0, len(columns), _ABREAST)]
    return Group(above, success, between, *figures, "")


def _figure_table(columns: Sequence[Sequence[Row]], shown: Mapping[str, Callable[[Row], str]]) -> Table:
    """A column for each mode, a line for each figure."""
    table = _table()
    for column in columns:
        table.add_column(_name(column[0]).replace(", ", ",\n"), justify="right")
    for heading, show in shown.items():
        table.add_row(heading, *(" → ".join(map(show, column)) for column in columns))
    return table


def _table() -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table


def _figures(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """What is shown of each row beside success, by heading."""
    figures: dict[str, Callable[[Row], str]] = {
        "thinking tokens": lambda row: _number(row.summary.thinking_tokens),
        "turns that think": lambda row: _percent(row.summary.triggered),
        "cut by budget": lambda row: _percent(row.summary.closed_by_budget),
        "turns": lambda row: _number(row.summary.turns),
        "submitted": lambda row: _percent(row.summary.submitted),
    }
    if not any(row.summary.closed_by_budget > 0 for row in rows):
        del figures["cut by budget"]
    if any(row.summary.infrastructure for row in rows):
        figures["lost"] = lambda row: str(row.summary.infrastructure)
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        figures[name] = lambda row, name=name: _number(row.metrics.get(name, (math.nan, 0))[0])  # type: ignore[misc]
    return figures
