"""Charts over steps, or over anything: SVG made of plain paths, and the readings that go with it.

A chart is drawn at the width at which it will be seen, so that its text keeps its size; colours are classes (`tone-a`,
`tone-b`, ...), which the page's style sheet resolves for light, dark and print. The same chart gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from askesis.view.figures import Kind, written

MOST_STOPS = 200  # places on the x axis; longer runs are put together, so that a page stays small
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A measured point with its interval. label: stands above it, where there is room."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. ys: a value for each x of the chart, nan where there is none. tone: a letter, its colour.

    marks: measured points; they are joined where there is no line.
    """

    name: str
    tone: str = "n"
    ys: Sequence[float] = ()
    marks: Sequence[Mark] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Some series over one axis. stacked: as columns on top of each other. about: a line under the title."""

    title: str
    xs: Sequence[float]
    series: Sequence[Series]
    kind: Kind = "number"
    stacked: bool = False
    about: str = ""
    x_name: str = "step"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(one.marks or any(map(math.isfinite, one.ys)) for one in self.series)


@dataclass(frozen=True, slots=True)
class Stop:
    """What stands at one place of a series: the mean, least and greatest of `n` values."""

    x: float
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


# -- numbers -------------------------------------------------------------------------------------------------------


def ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers, at most `most` steps of 1, 2, 2.5 or 5 times a power of ten, that reach from `low` to `high`."""
    if high <= low:
        low, high = (low - abs(low) / 2, low + abs(low) / 2) if low else (0.0, 1.0)
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    fractions = (1, 2, 5, 10) if whole and size < 10 else (1, 2, 2.5, 5, 10)
    step = next(part * size for part in fractions if part * size >= raw * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{at * step:.12g}") for at in range(first, last + 1)]


def tick_texts(marked: Sequence[float], kind: Kind = "number") -> list[str]:
    """Ticks with as many digits as the distance between two asks for: `0.25`, `60%`, `12k`, `2e-6`."""
    unit, factor = ("%", 100.0) if kind == "share" else ("", 1.0)
    values = [value * factor for value in marked]
    step = values[1] - values[0] if len(values) > 1 else 1.0
    largest = max(map(abs, values))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += float(f"{step:.{decimals}f}") != float(f"{step:.10g}")  # 2.5 and its kin

    def text(value: float) -> str:
        if value == 0:
            return "0"
        if largest < 0.01:
            digits, power = f"{value:.6e}".split("e")
            return f"{float(digits):g}e{int(power)}"
        if step >= 1000:
            size, letter = (1e6, "M") if step >= 1e6 else (1e3, "k")
            return f"{value / size:,g}{letter}"
        return f"{value:,.{decimals}f}"

    return [("−" + text(-value) if value < 0 else text(value)) + unit for value in values]


def stops(xs: Sequence[float], ys: Sequence[float], most: int = MOST_STOPS) -> list[Stop]:
    """The values by place, neighbours put together where there are more than `most`; nan where a place has none."""
    per = max(1, math.ceil(len(xs) / most))
    found = []
    for at in range(0, len(xs), per):
        own = [y for y in ys[at : at + per] if math.isfinite(y)]
        place = xs[at : at + per]
        x = sum(place) / len(place)
        if own:
            found.append(Stop(x, sum(own) / len(own), min(own), max(own), len(own)))
        else:
            found.append(Stop(x, math.nan, math.nan, math.nan, 0))
    return found


def width_of(count: int) -> float:
    """The standard deviation, in places, of the Gaussian that smooths a line of `count` of them; 0: not at all."""
    return 0.0 if count < 8 else count / 25


def smoothed(places: Sequence[Stop], sigma: float) -> list[float]:
    """A Gaussian mean around each place that has a value: no lag, and at the ends only what is there counts."""
    if not sigma:
        return [place.mean for place in places]
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-((d / sigma) ** 2) / 2) for d in range(reach + 1)]
    line = []
    for at, place in enumerate(places):
        near = [(weights[abs(i - at)], places[i]) for i in range(max(0, at - reach), min(len(places), at + reach + 1))]
        total = sum(weight * other.n for weight, other in near)
        value = sum(weight * other.n * other.mean for weight, other in near if other.n)
        line.append(value / total if place.n else math.nan)
    return line


def _pieces(places: Sequence[Stop], line: Sequence[float], sigma: float) -> list[list[tuple[float, float]]]:
    """The line as runs of points: broken where values are missing for longer than smoothing reaches."""
    there = [at for at, y in enumerate(line) if math.isfinite(y)]
    if not there:
        return []
    pieces = [[there[0]]]
    for before, at in pairwise(there):
        if at - before > 1 + math.ceil(2 * sigma):
            pieces.append([])
        pieces[-1].append(at)
    return [[(places[at].x, line[at]) for at in piece] for piece in pieces]


# -- drawing -------------------------------------------------------------------------------------------------------


def draw(chart: Chart, *, width: int = 360, height: int = 200) -> Markup:
    """The chart as an SVG element. Needs a chart that is not `empty`."""
    places = {one.name: stops(chart.xs, one.ys) for one in chart.series if one.ys}
    across, x_ticks = _x_axis(chart, places, width)
    up, y_ticks = _y_axis(chart, places, height)
    body = [_grid(y_ticks, up, width, chart.kind), _labels(x_ticks, across, width, height, chart.x_name)]
    if chart.stacked:
        body += _columns(chart, places, across, up)
    else:
        aside = _aside(chart)
        body += [_line(one, places.get(one.name, []), across, up, aside[one.name]) for one in chart.series]
    guide = f'<path class="guide" d="M0 {_TOP}V{height - _BOTTOM}"/>'
    return Markup(
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(spoken(chart))}" '
        f'data-low="{across.low:g}" data-high="{across.high:g}" data-start="{across.start:g}" '
        f'data-end="{across.end:g}">{"".join(body)}{guide}</svg>'
    )


def _x_axis(chart: Chart, places: dict[str, list[Stop]], width: int) -> tuple[Scale, list[float]]:
    all_x = [*chart.xs, *(mark.x for one in chart.series for mark in one.marks)]
    low, high = min(all_x), max(all_x)
    if chart.stacked:
        half = (high - low) / max(1, _count(places) - 1) / 2 or 0.5
        low, high = low - half, high + half
    elif low > 0 and low <= 0.2 * high:
        low = 0.0  # the axis of steps begins where training began
    if high <= low:
        low, high = low - 0.5, high + 0.5
    steps = all(x == int(x) for x in all_x)
    inside = [x for x in ticks(low, high, most=max(3, width // 90), whole=steps) if low <= x <= high]
    return Scale(low, high, _LEFT, width - _RIGHT), inside


def _count(places: dict[str, list[Stop]]) -> int:
    return max(len(found) for found in places.values())


def _y_axis(chart: Chart, places: dict[str, list[Stop]], height: int) -> tuple[Scale, list[float]]:
    if chart.stacked:
        columns = zip(*places.values(), strict=True)
        ends = [0.0, *(sum(stop.mean for stop in column if stop.n) for column in columns)]
    else:
        ends = [end for found in places.values() for stop in found if stop.n for end in (stop.low, stop.high)]
        ends += [end for one in chart.series for mark in one.marks for end in (mark.low, mark.high)]
    low, high = min(ends), max(ends)
    if high - low < 1e-3 * max(abs(low), abs(high)):  # flat but for noise, which is not to fill the chart
        low, high = low - abs(low) / 2000, high + abs(high) / 2000
    if low >= 0 and (chart.kind != "number" or low < 0.4 * high):
        low = 0.0
    if chart.kind == "share" and high == 0:
        high = 0.1
    marked = ticks(low, high, most=max(3, height // 45), whole=chart.kind == "count" and high >= 4)
    if chart.kind == "share" and high <= 1:
        marked = [tick for tick in marked if tick <= 1]
    return Scale(marked[0], max(marked[-1], high), height - _BOTTOM, _TOP), marked


def _grid(marked: list[float], up: Scale, width: int, kind: Kind) -> str:
    lines = "".join(f"M{_LEFT} {_at(up(tick))}H{width - _RIGHT}" for tick in marked)
    texts = "".join(
        f'<text class="tick" x="{_LEFT - 6}" y="{_at(up(tick) + 3.5)}" text-anchor="end">{text}</text>'
        for tick, text in zip(marked, tick_texts(marked, kind), strict=True)
    )
    return f'<path class="rules" d="{lines}"/>{texts}'


def _labels(marked: list[float], across: Scale, width: int, height: int, name: str) -> str:
    texts = []
    for tick, text in zip(marked, tick_texts(marked), strict=True):
        last = tick == marked[-1]
        text = f"{name} {text}" if last else text
        x = across(tick)
        anchor = "end" if last and x > width - 40 else "middle"
        x = min(x + 4, width - 1) if anchor == "end" else x
        texts.append(f'<text class="tick" x="{_at(x)}" y="{height - 7}" text-anchor="{anchor}">{escape(text)}</text>')
    base = f'<path class="base" d="M{_LEFT} {height - _BOTTOM}H{width - _RIGHT}"/>'
    return base + "".join(texts)


def _aside(chart: Chart) -> dict[str, float]:
    """By how many pixels each series' marks stand aside: side by side where several series have one at the same x."""
    marked = [one for one in chart.series if one.marks]
    xs = [mark.x for one in marked for mark in one.marks]
    apart = 7.0 if len(set(xs)) < len(xs) else 0.0
    places = {one.name: apart * (at - (len(marked) - 1) / 2) for at, one in enumerate(marked)}
    return {one.name: places.get(one.name, 0.0) for one in chart.series}


def _line(one: Series, places: list[Stop], across: Scale, up: Scale, aside: float) -> str:
    """Raw values faint, the smoothed line over them, then what was measured."""
    raw = "".join(
        f"M{_at(across(stop.x))} {_at(up(stop.low))}" + (f"V{_at(up(stop.high))}" if stop.n > 1 else "h0")
        for stop in places
        if stop.n
    )
    sigma = width_of(len(places))
    line = "".join(_polyline(piece, across, up) for piece in _pieces(places, smoothed(places, sigma), sigma))
    marks = sorted(one.marks, key=lambda mark: mark.x)
    beside = Scale(across.low, across.high, across.start + aside, across.end + aside)
    joined = "" if places or not marks else _polyline([(mark.x, mark.y) for mark in marks], beside, up)
    bars = "".join(f"M{_at(across(mark.x) + aside)} {_at(up(mark.low))}V{_at(up(mark.high))}" for mark in marks)
    dots = "".join(_dot(one.tone, across(mark.x) + aside, up(mark.y)) for mark in marks)
    parts = [("raw", raw if sigma else ""), ("line", line), ("joined", joined), ("bar", bars)]
    paths = "".join(f'<path class="{name}" d="{path}"/>' for name, path in parts if path)
    return f'<g class="tone-{one.tone}">{paths}{dots}{_names(marks, across, up, aside)}</g>'


def _names(marks: Sequence[Mark], across: Scale, up: Scale, aside: float) -> str:
    """The labels of marks, each above its interval, or below it where there is no room above.

    One that would run into the one before it is left out.
    """
    texts, room = [], -math.inf
    for mark in marks:
        x, half = across(mark.x) + aside, 3.2 * len(mark.label)
        if not mark.label or x - half < room:
            continue
        room = x + half + 4
        x = min(max(x, _LEFT + half), across.end - half)
        y = up(mark.high) - 5 if up(mark.high) > _TOP + 9 else up(mark.low) + 13
        texts.append(f'<text class="tick" x="{_at(x)}" y="{_at(y)}" text-anchor="middle">{escape(mark.label)}</text>')
    return "".join(texts)


def _polyline(piece: Sequence[tuple[float, float]], across: Scale, up: Scale) -> str:
    """One run of points; a single one is a dot (round ends of a line without length)."""
    (x, y), *rest = ((_at(across(x)), _at(up(y))) for x, y in piece)
    return f"M{x} {y}" + ("".join(f"L{a} {b}" for a, b in rest) or "h0")


def _dot(tone: str, x: float, y: float) -> str:
    """Round for tone `a`, a diamond for `b`, square for others: they tell apart without colour."""
    if tone == "a":
        return f'<circle class="dot" cx="{_at(x)}" cy="{_at(y)}" r="3.6"/>'
    shape = f"M{_at(x)} {_at(y - 4.8)}l4.8 4.8-4.8 4.8-4.8-4.8z"
    return f'<path class="dot" d="{shape if tone == "b" else f"M{_at(x - 3.2)} {_at(y - 3.2)}h6.4v6.4h-6.4z"}"/>'


def _columns(chart: Chart, places: dict[str, list[Stop]], across: Scale, up: Scale) -> list[str]:
    """Values on top of each other, a column at each place."""
    count = _count(places)
    room = (across.end - across.start) / count
    wide = min(24.0, room - 1 if room > 3 else room)
    below = [0.0] * count
    drawn = []
    for one in chart.series:
        path = ""
        for at, stop in enumerate(places[one.name]):
            if not stop.n or not stop.mean:
                continue
            top, foot, left = up(below[at] + stop.mean), up(below[at]), across(stop.x) - wide / 2
            path += f"M{_at(left)} {_at(foot)}V{_at(top)}h{_at(wide)}V{_at(foot)}z"
            below[at] += stop.mean
        drawn.append(f'<path class="column tone-{one.tone}" d="{path}"/>' if path else "")
    return drawn


def interval_bar(before: Mark | None, after: Mark | None, tone: str) -> Markup:
    """Two rates on a line from 0 to 1, with their intervals: the first hollow, the second filled. x is not used."""
    across = Scale(0.0, 1.0, 4, 156)
    parts = ['<path class="base" d="M4 17H156M4 14v6M80 15v4M156 14v6"/>']
    for mark, name, y in ((before, "first", 7), (after, "last", 27)):
        if mark is not None:
            ends = f"M{_at(across(mark.low))} {y}H{_at(across(mark.high))}"
            dot = f'<circle class="{name}" cx="{_at(across(mark.y))}" cy="{y}" r="3.6"/>'
            parts.append(f'<path class="bar" d="{ends}"/>{dot}')
    return Markup(f'<svg class="rates tone-{tone}" viewBox="0 0 160 34" aria-hidden="true">{"".join(parts)}</svg>')


def _at(value: float) -> str:
    """A coordinate with one decimal, as short as can be."""
    return f"{round(value, 1) + 0.0:g}"


# -- words ---------------------------------------------------------------------------------------------------------


def spoken(chart: Chart) -> str:
    """What a chart shows, for who cannot see it."""
    said = []
    for one in chart.series:
        values = [y for y in one.ys if math.isfinite(y)] or [mark.y for mark in one.marks]
        if values:
            ends = " to ".join(dict.fromkeys((written(values[0], chart.kind), written(values[-1], chart.kind))))
            said.append(f"{one.name} {ends}" if one.name != chart.title else ends)
    return f"{chart.title} by {chart.x_name}: {'; '.join(said)}"


def ends(chart: Chart) -> list[tuple[str, str, str]]:
    """Tone, name and where the line ends, for each series: the legend."""
    found = []
    for one in chart.series:
        places = stops(chart.xs, one.ys)
        line = [y for y in smoothed(places, 0.0 if chart.stacked else width_of(len(places))) if math.isfinite(y)]
        last = line or [mark.y for mark in one.marks]
        found.append((one.tone, one.name, written(last[-1], chart.kind) if last else ""))
    return found


def readings(chart: Chart) -> dict[str, Any]:
    """What is shown at each place under the pointer: `x`, `label`, and by series the texts, None where nothing is."""
    per = max(1, math.ceil(len(chart.xs) / MOST_STOPS))
    first_last = {
        sum(own) / len(own): (own[0], own[-1])
        for own in (chart.xs[at : at + per] for at in range(0, len(chart.xs), per))
    }
    xs = sorted({*first_last, *(mark.x for one in chart.series for mark in one.marks)})
    rows: list[list[Any]] = []
    for one in chart.series:
        means = {stop.x: written(stop.mean, chart.kind) for stop in stops(chart.xs, one.ys) if stop.n}
        if means:
            rows.append([one.tone, "" if one.name == chart.title else one.name, [means.get(x) for x in xs]])
        if one.marks:
            marked = {mark.x: _measured(mark, chart.kind) for mark in one.marks}
            name = f"{one.name}, held out" if means else one.name
            rows.append([one.tone, name, [marked.get(x) for x in xs]])
    return {"x": xs, "label": [_place(chart.x_name, *first_last.get(x, (x, x))) for x in xs], "rows": rows}


def _place(name: str, first: float, last: float) -> str:
    return f"{name} {first:g}" if first == last else f"{name}s {first:g}–{last:g}"


def _measured(mark: Mark, kind: Kind) -> str:
    return f"{written(mark.y, kind)} [{written(mark.low, kind)}, {written(mark.high, kind)}]"
