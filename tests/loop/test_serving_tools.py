"""An episode's tools over HTTP: a client of the SDK plays; who leaves has stopped."""

import asyncio
from pathlib import Path

import pytest
from mcp import Client

from askesis.envs import load_env
from askesis.loop.serving_tools import serve_episode
from askesis.tools.mcp import MCPTools
from askesis.types import ConfigError, ToolError

LOOKUP = f"{Path(__file__).parents[2]}/docs/examples/lookup.py:Lookup"


async def test_over_http_until_a_tool_ends_it():
    env = load_env(LOOKUP)
    task = env.tasks("heldout", limit=1)[0]
    notes = asyncio.Queue()
    serving = asyncio.create_task(serve_episode(env, task, http="127.0.0.1:0", note=notes.put_nowait))
    url = (await notes.get()).split(" at ")[1].split(";")[0]
    async with Client(url) as client:
        given = await client.call_tool("answer", {"text": task.data["number"]})
        assert given.content[0].text == "thanks"
    trace = await serving
    assert trace.success and trace.harness == "mcp@1"


async def test_a_key_locks_others_out():
    env = load_env(LOOKUP)
    task = env.tasks("heldout", limit=1)[0]
    notes = asyncio.Queue()
    serving = asyncio.create_task(serve_episode(env, task, http="127.0.0.1:0", key="s3cret", note=notes.put_nowait))
    url = (await notes.get()).split(" at ")[1].split(";")[0]
    for wrong in ("", "Bearer wrong", "s3cret"):
        with pytest.raises(ToolError):
            await MCPTools([{"url": url, "headers": {"Authorization": wrong}}]).open()
    episode = await MCPTools([{"url": url, "headers": {"Authorization": "Bearer s3cret"}}]).open()
    answer = next(one for one in episode.tools() if one.spec.name == "answer")
    assert (await answer({"text": task.data["number"]}, None)).text == "thanks"
    await episode.close()
    assert (await serving).success


async def test_an_address_is_checked():
    env = load_env(LOOKUP)
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        await serve_episode(env, env.tasks("heldout", limit=1)[0], http="8900")
