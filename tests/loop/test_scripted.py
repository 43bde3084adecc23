"""Policies that no model speaks for: what they get, counted as a model's success is."""

import pytest
from toy_env import TOY

from askesis.envs import load_env
from askesis.loop.scripted import play_policy
from askesis.rollout import wilson
from askesis.types import ConfigError, EnvError, ToolCall, assistant

LOOKUP = "docs/examples/lookup.py:Lookup"


@pytest.fixture
def lookup(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    return load_env(LOOKUP)


class Kept(list):
    def add(self, traces, *, label="", step=0, group=None):
        self.extend(traces)


async def test_success_has_its_interval_and_its_traces(lookup):
    kept = Kept()
    evaluation = await play_policy(lookup, "demonstrator", tasks=40, store=kept)
    (row,) = evaluation.rows
    assert (row.summary.episodes, row.summary.learnable, evaluation.name) == (40, 40, "demonstrator")
    assert 0.2 < row.summary.success < 0.9
    assert row.summary.interval == wilson(sum(trace.success for trace in kept), 40)
    again = await play_policy(lookup, "demonstrator", tasks=40)
    assert again.rows[0].summary.successes == row.summary.successes


@pytest.mark.parametrize(
    ("policy", "outcome"), [("null", "stopped"), ("null:submit", "submitted"), ("null:echo", "stopped")]
)
async def test_doing_nothing_gets_nothing(lookup, policy, outcome):
    summary = (await play_policy(lookup, policy, tasks=10)).rows[0].summary
    assert (summary.successes, summary.outcomes) == (0, {f"policy:{outcome}": 10})


async def test_a_random_policy_is_told_the_tools(lookup):
    kept = Kept()
    tasks = lookup.tasks("train", limit=5)
    await play_policy(lookup, "random", tasks=tasks, store=kept)
    assert {trace.task.id for trace in kept} == {task.id for task in tasks}
    assert {event.name for trace in kept for event in trace.tool_events} == {"lookup", "answer"}


async def test_what_a_policy_says_has_no_bound_of_tokens(lookup):
    class Talker:
        def act(self, messages, thinking):
            return assistant("word " * 500, tool_calls=(ToolCall(id="c", name="answer", arguments={"text": "1"}),))

    summary = (await play_policy(lookup, lambda spec, tools: Talker(), tasks=2)).rows[0].summary
    assert summary.outcomes == {"policy:submitted": 2}


async def test_what_cannot_be_played_is_said(lookup):
    with pytest.raises(ConfigError, match="'lookup' has no oracle"):
        await play_policy(lookup, "oracle", tasks=1)
    with pytest.raises(ConfigError, match=r"no policy 'rnadom'; did you mean 'random'\?"):
        await play_policy(lookup, "rnadom", tasks=1)
    with pytest.raises(EnvError, match="the disk is full"):
        await play_policy(load_env(TOY, broken=100), "null", tasks=2)
