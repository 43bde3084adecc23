"""A model that thinks, under budgets, in an environment: every budget kept, and no forced token trained."""

import askesis
from askesis.loop.samples import trace_samples
from askesis.types import Thinking

MODES = [
    Thinking(budget=0),
    Thinking(budget=5),
    Thinking(budget=9, episode_budget=12),
    Thinking(),
    Thinking(enabled=False),
]


class Sink:
    def __init__(self):
        self.traces = []

    def add(self, traces, *, label="", step=0, group=None):
        self.traces += traces


def test_askesis_tiny_keeps_every_budget_and_trains_on_no_forced_token():
    bundle = askesis.load("askesis-tiny")
    closing = list(bundle.renderer.thinking_limit(Thinking(budget=0)).closing)
    forced_turns = 0
    for mode in MODES:
        sink = Sink()
        found = askesis.evaluate(bundle, env="repair", tasks=4, thinking=mode, store=sink, threads=1)
        (row,) = found.rows
        assert row.mode == mode.mode and row.summary.over_budget <= 0
        assert len(sink.traces) == 4
        for trace in sink.traces:
            for node in trace.nodes:
                if not node.sampled:
                    continue
                forced = node.token_ids[~node.mask].tolist()
                forced_turns += bool(forced)
                assert forced == closing * (len(forced) // len(closing))
                assert (node.logprobs[~node.mask] == 0).all()
                assert mode.enabled or not forced
            for sample in trace_samples(trace, 1.0, group="g"):
                assert not (sample.advantages[~sample.mask]).any()
                assert sample.mask.sum() == sum(node.mask.sum() for node in trace.nodes if node.sampled)
    assert forced_turns > 10
