"""The page of a run: whole, quiet on the network, deaf to what models write, right in its figures."""

import base64
import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from html_page import Page
from sample_report import node, rate, the_report, the_trace

from askesis import view
from askesis.types import ToolCall, assistant, user
from askesis.view import Chart, Episode, Figure, Results, Row, Score, Section, Series, Story, render_report

HOSTILE = (
    "</style></script></textarea><script>alert(1)</script><img src=x onerror=alert(1)>'\"`&amp;<!-- \x00\x1b\u202e"
)
SEEN = "</style></script></textarea><script>alert(1)</script><img src=x onerror=alert(1)>'\"`&amp;<!-- ␀␛[U+202E]"


def test_nothing_that_a_model_writes_becomes_part_of_the_page():
    plain, hostile = Page(render_report(the_report("plain"))), Page(render_report(the_report(HOSTILE)))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(attrs) for _, attrs in hostile.elements] == [sorted(attrs) for _, attrs in plain.elements]
    assert hostile.inside == plain.inside  # script and style are ours alone
    assert hostile.text.count(SEEN) == plain.text.count("plain") > 20
    assert hostile.readings[0]["rows"][0][1] == f"{HOSTILE} line"
    assert not [name for _, attrs in hostile.elements for name in attrs if name.startswith("on") or name == "style"]


def test_calls_and_their_arguments_are_text_too():
    call = ToolCall(id="c", name=HOSTILE, arguments={HOSTILE: HOSTILE, "n": [HOSTILE, "\ud800"]})
    trace = the_trace(node(user("x")), node(assistant(tool_calls=(call,))))
    episode = Episode(title="t", trace=trace, pieces=[["x"], ["a", HOSTILE, "\ud800"]])
    page = Page(render_report(the_report(stories=[Story(title="t", why="w", tone="a", episodes=[episode])])))
    assert page.text.count(SEEN) == 4
    assert len(page.all("script")) == 1


def test_only_our_own_script_and_style_may_run_and_nothing_is_fetched():
    html = render_report(the_report())
    page = Page(html)
    policy = next(attrs["content"] for attrs in page.all("meta") if "content" in attrs and "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for kind in ("script", "style"):
        (content,) = page.inside[kind]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?:|@import|url\(|src=", html)
    assert render_report(the_report()) == html


def test_the_table_has_the_figures_of_the_first_and_last_evaluation():
    def score(y, low, high, n, edits):
        figures = {
            "thinking tokens": Figure(value=n),
            "edits": Figure(value=edits, n=7),
            "submitted": Figure(value=y, kind="share"),
        }
        return Score(rate=rate(y, low, high), figures=figures)

    results = Results(
        about="300 tasks",
        exams=["before", "step 5", "after"],
        rows=[
            Row(
                name="thinking, sampled",
                tone="a",
                scores=[score(0.12, 0.0878, 0.1617, 1234.4, 0.25), None, score(0.613, 0.557, 0.667, 88.26, math.nan)],
                change=(0.493, 0.421, 0.556),
            ),
            Row(name="no thinking, greedy", tone="b", scores=[None, None, Score(rate=None, figures={})]),
        ],
    )
    html = render_report(the_report(results=results))
    Page(html)
    table = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL)]
    said = [" ".join(row) for row in table]
    assert "thinking, sampled 12.0% [8.8, 16.2] 61.3% [55.7, 66.7] +49.3 [+42.1, +55.6]" in said
    assert "no thinking, greedy – – –" in said
    assert "thinking tokens 1,234 88.3 – –" in said
    assert "edits 0.250 n 7 – n 7 – –" in said
    assert "submitted 12.0% 61.3% – –" in said
    assert "thinking, sampled 12.0% [8.8, 16.2] – 61.3% [55.7, 66.7]" in said  # all three, folded


def test_one_evaluation_has_no_change_and_none_says_so():
    one = Results(
        about="",
        exams=["before"],
        rows=[Row(name="thinking, sampled", tone="a", scores=[Score(rate=rate(0.5, 0.4, 0.6), figures={})])],
    )
    page = Page(render_report(the_report(results=one)))
    assert "change, points" not in page.text and "before" in page.text
    assert "Nothing was evaluated." in Page(render_report(the_report(results=None))).text


@pytest.mark.parametrize("steps", [0, 1, 2, 100])
def test_runs_of_any_length_have_a_whole_page(steps):
    page = Page(render_report(the_report(steps=steps, stories=[], notices=[])))
    assert ("No step was trained." in page.text) == (steps == 0)
    assert len(page.all("svg", "plot")) == (0 if steps == 0 else 4)  # the wide one is drawn for phones too
    assert ("The curves as a table" in page.text) == (steps > 0)
    rows = len(page.all("tr")) - len(Page(render_report(the_report(steps=0, stories=[], notices=[]))).all("tr"))
    assert rows == (
        0 if steps == 0 else 1 + len({*range(1, steps + 1)} & {*range(1, steps + 1, -(-steps // 40)), steps})
    )


def test_a_chart_without_a_value_and_a_section_without_a_chart_are_left_out():
    hollow = Chart(title="never", xs=[1.0, 2.0], series=[Series(name="never", ys=[math.nan, math.nan])])
    gap = Chart(title="sometimes", xs=[1.0, 2.0], series=[Series(name="sometimes", ys=[math.nan, 2.0])])
    page = Page(
        render_report(
            the_report(sections=[Section(title="S", charts=[hollow, gap]), Section(title="T", charts=[hollow])])
        )
    )
    assert "sometimes" in page.text and "never" not in page.text
    assert page.readings == [{"x": [1.0, 2.0], "label": ["step 1", "step 2"], "rows": [["n", "", [None, "2.00"]]]}]


def test_an_interrupted_run_and_its_alarms_are_in_plain_sight():
    report = replace(
        the_report(), state="interrupted", notices=[view.Notice(title="no variance", when="steps 3 to 9", text="x")]
    )
    page = Page(render_report(report))
    assert "interrupted" in page.text and "Alarm: no variance" in page.text and "steps 3 to 9" in page.text
    assert page.all("span", "bad")


def test_labels_point_at_what_there_is():
    page = Page(render_report(the_report()))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in ("for", "aria-labelledby"):
            assert attrs.get(name, ids[0]) in ids
    assert all(attrs["aria-label"] for attrs in page.all("svg", "plot"))


def _luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_and_colours_stand_out_in_light_and_in_dark():
    css = (Path(view.__file__).parent / "templates" / "page.css.jinja").read_text()
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    light, dark, _ = schemes  # the third is for print: light on white
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for name, behind in [(n, "paper") for n in "abcdenw"] + [
            ("ink", "paper"),
            ("dim", "paper"),
            ("dim", "soft"),
            ("good", "good-soft"),
            ("bad", "bad-soft"),
            ("w", "bad-soft"),
        ]:
            bright, dim = sorted((_luminance(colours[name]), _luminance(colours[behind])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, behind)
