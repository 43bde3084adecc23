"""Runs in which a tool hangs, or the model never stops: each such episode is a typed outcome, the run goes on, and
nothing that was sampled is lost."""

import askesis
from askesis.loop import RunFolder
from askesis.rollout import TraceStore


def kept(result):
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        assert store.ledger.check() == []
        return list(store.traces(label="train")), store.outcomes(label="train")


def test_a_tool_that_hangs(toy_recipe):
    """Two demonstrations in five hang in their tool, at every attempt; the others are learned."""
    toy_recipe |= {
        "run": toy_recipe["run"] | {"kind": "sft", "steps": 3},
        "env": toy_recipe["env"] | {"options": {"hanging": 40, "max_turn_tokens": 60}},
        "demonstrations": {"per_step": 16},
        "eval": {"tasks": 0},
    }
    toy_recipe["rollout"] |= {"limits": {"tool_s": 0.05}, "retries": 1}
    result = askesis.train(toy_recipe, display=False)
    assert (result.state, result.steps) == ("finished", 3)
    traces, outcomes = kept(result)
    hung, good = outcomes["tool:timeout"], outcomes["policy:submitted"]
    assert hung > 0
    assert good + hung / 2 == 3 * 16, "each one that hung was played twice"
    assert sum(record.trained_groups for record in result.history) == good
    assert sum(record.dropped.get("infrastructure", 0) for record in result.history) == hung / 2
    assert len(traces) == good + hung
    for trace in traces:
        spoken = [node for node in trace.nodes if node.sampled]
        assert len(spoken) == 1, "what was said before the tool hung is on record"
        assert spoken[0].message.tool_calls[0].name == "answer"
        if not trace.outcome.learnable:
            assert "answer: " in trace.outcome.detail
            assert trace.rewards == ()
    (alarm,) = (alarm for alarm in result.alarms if alarm.kind == "infrastructure")
    assert "tool, timeout: answer" in alarm.message


def test_a_model_that_never_stops(toy_recipe):
    """A random model says 12 tokens a turn and seldom the one that ends it: a limit, paid and learned from."""
    result = askesis.train(toy_recipe, display=False, overrides={"eval.tasks": 0})
    assert (result.state, result.steps) == ("finished", 4)
    traces, outcomes = kept(result)
    assert len(traces) == 4 * 16
    assert outcomes["limit:max_turn_tokens"] > len(traces) / 2
    endless = [trace for trace in traces if trace.outcome.by == "limit"]
    for trace in endless:
        last = next(node for node in reversed(trace.nodes) if node.sampled)
        assert (len(last.token_ids), last.finish_reason) == (12, "length")
        assert last.mask.all()
        assert (last.logprobs < 0).all()
        assert trace.rewards[1].name == "evenness" and trace.reward >= trace.rewards[1].value / 2
    assert all(record.truncated > 0.5 and record.trained_groups for record in result.history)
    assert sum(record.sampled_tokens for record in result.history) == sum(
        len(node.token_ids) for trace in traces for node in trace.nodes if node.sampled
    )
    assert "all_truncated" in {alarm.kind for alarm in result.alarms}
