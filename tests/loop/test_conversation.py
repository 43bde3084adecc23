"""Talking to a checkpoint: what is heard, what is kept, and what happens when an answer is cut off."""

import asyncio
import json

import numpy as np
import pytest

from askesis import load
from askesis.loop.conversation import check_sampling, converse, held_out_task
from askesis.rollout import TraceStore
from askesis.types import ConfigError, ContextOverflow, Reasoning, Thinking


@pytest.fixture(scope="module")
def tiny():
    return load("askesis-tiny")


async def said(talk, text, hear=lambda delta: None):
    return [event async for event in talk.say(text, hear)]


def stored(folder):
    with TraceStore(folder / "traces.db", readonly=True) as store:
        return list(store.traces())


async def test_tools_are_called_until_the_task_ends_and_all_of_it_is_on_record(tiny, tmp_path):
    deltas = []
    async with converse(tiny, folder=tmp_path) as talk:
        talk.sampling = {"temperature": 0.0}
        env, task = held_out_task("repair", {}, 1)
        await talk.take_tools(env, task)
        events = await said(talk, task.prompt, deltas.append)
        assert [type(event).__name__ for event in events] == ["Said", "Heard"] * (len(events) // 2)
        assert events[-1].ended is not None
        assert events[-1].ended.reason == "submitted"
        heard = "".join(delta.text for delta in deltas if isinstance(delta, Reasoning))
        assert heard == "".join(message.reasoning for message in talk.messages)
        kept = list(talk.messages)
        id = talk.id
    (trace,) = stored(tmp_path)
    assert [node.message for node in trace.nodes if node.sampled] == [m for m in kept if m.role == "assistant"]
    assert "<tools>" in tiny.renderer.decode(trace.nodes[0].token_ids)
    async with converse(tiny, folder=tmp_path, resume=id) as again:
        assert again.messages == kept
        assert again.sampling == {"temperature": 0.0}
    async with converse(tiny, folder=tmp_path, resume="latest") as again:
        assert again.id == id
        with pytest.raises(ConfigError, match="no conversation 'nope'"):
            async with converse(tiny, folder=tmp_path, resume="nope"):
                pass


async def test_tools_that_are_sub_agents_alone_are_not_offered(tiny):
    async with converse(tiny) as talk:
        with pytest.raises(ConfigError, match="a chat has none"):
            await talk.take_tools(*held_out_task("team", {}, 1))
        assert talk.tools is None


async def test_the_switch_in_a_message_holds_from_there_on(tiny):
    async with converse(tiny) as talk:
        talk.max_tokens = 4
        await said(talk, "hello /no_think")
        assert talk.thinking == Thinking(enabled=False)
        await said(talk, "hello")
        assert not talk.thinking.enabled
        await said(talk, "and /think now")
        assert talk.thinking.enabled


async def test_what_was_said_before_an_interruption_stays_and_is_gone_on_with(tiny, tmp_path):
    async with converse(tiny, folder=tmp_path) as talk:
        talk.sampling = {"temperature": 0.0}
        # cancelled while the first piece is heard: a task that waited to be told of it could find the answer at its end
        task = asyncio.create_task(said(talk, "hello", lambda delta: task.cancel()))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [message.role for message in talk.messages] == ["user", "assistant"]
        talk.max_tokens = 5
        (turn,) = await said(talk, "go on")
        assert turn.tokens == 5
        assert turn.cut
    (trace,) = stored(tmp_path)
    assert len(trace.branches()) == 1  # the cut turn was extended, not rendered again
    assert [node.finish_reason for node in trace.nodes if node.sampled] == ["cancelled", "length"]


async def test_taking_back_makes_a_branch(tiny, tmp_path):
    async with converse(tiny, folder=tmp_path) as talk:
        talk.max_tokens = 6
        await said(talk, "one")
        await said(talk, "two")
        assert talk.undo() == "two"
        await said(talk, "three")
        assert [message.text for message in talk.messages if message.role == "user"] == ["one", "three"]
        talk.clear(instructions="Be brief.")
        assert [message.role for message in talk.messages] == ["system"]
        talk.clear()
        assert talk.undo() is None
        assert len(talk.messages) == 1
    (trace,) = stored(tmp_path)
    first, second = (np.concatenate([trace.nodes[i].token_ids for i in path]) for path in trace.branches())
    shared = len(trace.nodes[0].token_ids) + len(trace.nodes[1].token_ids)
    assert (first[:shared] == second[:shared]).all()
    assert len(list(tmp_path.glob("*.json"))) == 1


async def test_what_cannot_be_said_changes_nothing(tiny, tmp_path):
    async with converse(tiny, folder=tmp_path, context_length=64) as talk:
        with pytest.raises(ContextOverflow):
            await said(talk, "much too long " * 60 + "/no_think")
        assert talk.messages == []
        assert talk.thinking.enabled
    assert not list(tmp_path.iterdir())


def test_settings_are_checked():
    assert check_sampling("top_k", "20") == 20
    for name, value, message in (
        ("heat", "1", "there is no 'heat'"),
        ("top_p", "much", "expected a number"),
        ("top_p", "1.5", "expected 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_sampling(name, value)
    with pytest.raises(ConfigError, match="environment"):
        held_out_task("nowhere", {}, 0)


async def test_a_saved_file_that_is_none_is_an_error(tiny, tmp_path):
    (tmp_path / "20260101-000000-aaaa.json").write_text(json.dumps({"messages": 3}))
    with pytest.raises(ConfigError, match="is no saved conversation"):
        async with converse(tiny, folder=tmp_path, resume="latest"):
            pass
