"""Charts: round ticks, lines without lag, gaps that stay gaps, long runs put together without losing their extremes."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.view import Chart, Mark, Series, draw
from askesis.view.charts import ends, interval_bar, readings, smoothed, spoken, stops, tick_texts, ticks, width_of

NAN = math.nan
finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: 0.0 if abs(x) < 1e-6 else x)


def chart(*series, **more):
    xs = more.pop("xs", [float(x) for x in range(1, 1 + max(len(one.ys) for one in series))])
    return Chart(**({"title": "reward", "xs": xs, "series": series} | more))


@given(finite, finite, st.booleans())
def test_ticks_are_round_and_reach_from_end_to_end(a, b, whole):
    low, high = min(a, b), max(a, b)
    marked = ticks(low, high, most=5, whole=whole)
    assert marked == sorted(set(marked))
    assert len(marked) <= 8
    step = marked[1] - marked[0] if len(marked) > 1 else 1.0
    if high > low:
        assert marked[0] <= low + 1e-6 * step and marked[-1] >= high - 1e-6 * step
    digits = float(f"{step / 10 ** math.floor(math.log10(step)):.6g}")
    assert digits in (1, 2, 2.5, 5, 10)
    assert not whole or all(tick == int(tick) for tick in marked) or high <= low


@pytest.mark.parametrize(
    ("marked", "kind", "texts"),
    [
        ([0, 0.25, 0.5], "number", ["0", "0.25", "0.50"]),
        ([0, 0.5, 1], "share", ["0%", "50%", "100%"]),
        ([0, 0.025], "share", ["0%", "2.5%"]),
        ([0, 2000, 4000], "count", ["0", "2k", "4k"]),
        ([-1, 0, 1], "number", ["−1", "0", "1"]),
        ([0, 2e-6, 4e-6], "number", ["0", "2e-6", "4e-6"]),
        ([0.9995, 1.0, 1.0005], "number", ["0.9995", "1.0000", "1.0005"]),
    ],
)
def test_ticks_have_the_digits_that_tell_them_apart(marked, kind, texts):
    assert tick_texts(marked, kind) == texts


def test_a_smoothed_line_has_no_lag_and_keeps_straight_lines_straight():
    places = stops(range(100), [2.0 * x for x in range(100)])
    line = smoothed(places, width_of(100))
    assert line[30:70] == pytest.approx([2.0 * x for x in range(30, 70)])
    step = smoothed(stops(range(100), [0.0] * 50 + [1.0] * 50), width_of(100))
    assert step[49] + step[50] == pytest.approx(1.0)  # half way up exactly where the step is
    assert smoothed(stops(range(5), [1, 9, 1, 9, 1]), width_of(5)) == [1, 9, 1, 9, 1]  # a few values stand as they are


def test_missing_values_leave_a_gap_and_nothing_else():
    ys = [1.0, 1.0, NAN, NAN, NAN, 3.0]
    drawn = draw(chart(Series(name="reward", ys=ys)))
    line = re.search(r'class="line" d="([^"]*)"', drawn)[1]
    assert line.count("M") == 2  # two pieces: a line, and a dot
    assert "nan" not in drawn
    everything = [NAN] * 60
    everything[10::2] = [5.0] * 25
    line = re.search(r'class="line" d="([^"]*)"', draw(chart(Series(name="reward", ys=everything))))[1]
    assert line.count("M") == 1  # holes smaller than what is smoothed over do not tear the line
    assert chart(Series(name="reward", ys=[NAN])).empty


@given(
    st.lists(st.one_of(st.just(NAN), finite), min_size=1, max_size=30),
    st.booleans(),
    st.sampled_from(["share", "count", "number"]),
)
def test_whatever_is_drawn_stays_inside(ys, stacked, kind):
    values = [abs(y) for y in ys] if stacked else ys
    one = chart(Series(name="a", ys=values), Series(name="b", ys=values[::-1]), stacked=stacked, kind=kind)
    if one.empty:
        return
    drawn = draw(one, width=360, height=200)
    assert "nan" not in drawn and "inf" not in drawn
    for path in re.findall(r'class="(?:raw|line|rules)" d="([^"]*)"', drawn):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path):
            assert 0 <= float(x) <= 360 and 0 <= float(y) <= 200
    assert draw(one, width=360, height=200) == drawn


def test_a_long_run_is_put_together_and_keeps_its_extremes():
    ys = [0.0] * 10_000
    ys[1234], ys[5678] = 50.0, NAN
    one = chart(Series(name="reward", ys=ys))
    places = stops(one.xs, ys)
    assert len(places) == 200
    assert max(place.high for place in places) == 50.0
    assert sum(place.n for place in places) == 9_999
    read = readings(one)
    assert read["label"][0] == "steps 1–50"
    assert read["rows"][0][2][24] == "1.00"  # 50 / 50
    assert len(draw(one)) < 20_000


def test_one_step_and_a_single_mark_can_be_drawn():
    one = chart(Series(name="reward", ys=[0.5]))
    assert 'class="line" d="M' in draw(one)
    assert readings(one) == {"x": [1.0], "label": ["step 1"], "rows": [["n", "", ["0.500"]]]}
    lone = Chart(title="s", xs=[], series=[Series(name="s", marks=[Mark(x=3, y=0.5, low=0.4, high=0.6)])], kind="share")
    assert 'class="dot"' in draw(lone)


def test_marks_side_by_side_and_what_is_read_there():
    marks = [Mark(x=0, y=0.1, low=0.05, high=0.2), Mark(x=2, y=0.5, low=0.4, high=0.6)]
    one = chart(
        Series(name="thinking", tone="a", ys=[0.2, 0.4], marks=marks),
        Series(name="no thinking", tone="b", ys=[0.1, NAN], marks=marks),
        kind="share",
        title="success",
    )
    drawn = draw(one)
    circles = [float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', drawn)]
    diamonds = [float(x) for x in re.findall(r'<path class="dot" d="M([\d.]+)', drawn)]
    assert [b - a for a, b in zip(circles, diamonds, strict=True)] == [7.0, 7.0]
    read = readings(one)
    assert (read["x"], read["label"]) == ([0, 1, 2], ["step 0", "step 1", "step 2"])
    assert read["rows"] == [
        ["a", "thinking", [None, "20.0%", "40.0%"]],
        ["a", "thinking, held out", ["10.0% [5.0%, 20.0%]", None, "50.0% [40.0%, 60.0%]"]],
        ["b", "no thinking", [None, "10.0%", None]],
        ["b", "no thinking, held out", ["10.0% [5.0%, 20.0%]", None, "50.0% [40.0%, 60.0%]"]],
    ]
    assert ends(one) == [("a", "thinking", "40.0%"), ("b", "no thinking", "10.0%")]
    assert spoken(one) == "success by step: thinking 20.0% to 40.0%; no thinking 10.0%"


def test_columns_stand_on_each_other():
    one = chart(
        Series(name="trained", tone="c", ys=[1, 2]),
        Series(name="dropped", tone="m", ys=[3, 2]),
        stacked=True,
        kind="count",
    )
    columns = re.findall(r'class="column tone-(\w)" d="([^"]*)"', draw(one))
    (_, below), (_, above) = columns
    tops = [float(y) for y in re.findall(r"V([\d.]+)h", below)]
    feet = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)V", above)]
    assert tops == feet
    assert len(set(re.findall(r"V([\d.]+)h", above))) == 1  # 1 + 3 = 2 + 2


def test_an_interval_bar_shows_what_there_is():
    rate = Mark(x=0, y=0.5, low=0.4, high=0.6)
    assert 'class="first"' not in interval_bar(None, rate, "a")
    assert 'cx="80" cy="27"' in interval_bar(rate, rate, "a")
