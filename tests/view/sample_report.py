"""Traces and reports made by hand."""

from dataclasses import replace

import numpy as np

from askesis.types import Node, Outcome, Reward, Task, Timing, Trace, assistant, ids, user
from askesis.view import Chart, Episode, Figure, Mark, Notice, Report, Results, Row, Score, Section, Series, Story


def node(message, *, tokens=3, logprobs=None, mask=None, parent=None, version=0, **more):
    sampled = message.role == "assistant"
    return Node(
        parent=-2 if parent is None else parent,
        message=message,
        sampled=sampled,
        token_ids=ids(range(tokens)),
        mask=np.full(tokens, sampled) if mask is None else np.array(mask, dtype=bool),
        logprobs=np.zeros(tokens, dtype=np.float32) if logprobs is None else np.asarray(logprobs, dtype=np.float32),
        policy_versions=np.full(tokens, version if sampled else -1, dtype=np.int32),
        **more,
    )


def the_trace(*nodes, **more):
    """A trace of nodes that follow each other, unless one has a parent of its own."""
    chained = tuple(replace(one, parent=at - 1) if one.parent == -2 else one for at, one in enumerate(nodes))
    values = {
        "id": "t0",
        "task": Task(env="toy", prompt="x"),
        "harness": "solo@1",
        "nodes": chained,
        "rewards": (Reward(name="success", value=1.0),),
        "outcome": Outcome(by="policy", reason="submitted"),
        "timing": Timing(total_s=2.0),
    }
    return Trace(**(values | more))


def rate(y, low, high):
    return Mark(x=0, y=y, low=low, high=high)


def the_report(text="plain", steps=20, **more):
    """A report in which every text that can come from elsewhere is `text`."""
    xs = [float(step) for step in range(1, steps + 1)]
    curve = Chart(
        title=text,
        about=text,
        xs=xs,
        kind="share",
        series=[Series(name=f"{text} line", tone="a", ys=[x / 100 for x in xs])],
    )
    columns = Chart(
        title="groups", xs=xs, kind="count", stacked=True, series=[Series(name=text, tone="c", ys=[4.0] * steps)]
    )
    trace = the_trace(
        node(user(text)),
        node(assistant(text, reasoning=text)),
        rewards=(Reward(name=text, value=0.5, evidence=text),),
        outcome=Outcome(by="policy", reason=text, detail=text),
    )
    episode = Episode(title=text, trace=trace, pieces=[[text], [text, text, text]])
    score = Score(rate=rate(0.5, 0.4, 0.6), figures={text: Figure(value=2.5, n=7)})
    values = {
        "title": text,
        "kind": text,
        "state": "finished",
        "facts": [(text, text)],
        "notices": [Notice(title=text, when=text, text=text)],
        "results": Results(
            about=text,
            exams=[text, text],
            rows=[Row(name=text, tone="a", scores=[score, score], change=(0.0, -0.1, 0.1))],
        ),
        "sections": [Section(title=text, about=text, hero=curve, charts=[curve, columns])] if steps else [],
        "stories": [Story(title=text, why=text, tone="a", episodes=[episode])],
        "recipe": text,
        "commands": [(text, text)],
        "versions": [(text, text)],
    }
    return Report(**(values | more))
