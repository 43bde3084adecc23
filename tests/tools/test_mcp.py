"""Tools of a real MCP server, over stdio and HTTP: what they give, who is to blame, what is left behind."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from askesis.envs import load_env
from askesis.loop.scripted import play_policy
from askesis.tools.mcp import MCPServer, MCPTools
from askesis.types import ConfigError, ToolCall, ToolError, assistant

DEMO = (sys.executable, str(Path(__file__).with_name("mcp_demo_server.py")))
LOOKUP = f"{Path(__file__).parents[2]}/docs/examples/lookup.py:Lookup"


def children():
    return {one for path in Path("/proc/self/task").glob("*/children") for one in path.read_text().split()}


@pytest.fixture(scope="module")
def url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([*DEMO, str(port)], stderr=subprocess.DEVNULL) as server:
        yield f"http://127.0.0.1:{port}/mcp"
        server.kill()


async def opened(tools):
    """An episode's connections; an HTTP server may still be starting."""
    for _ in range(200):
        try:
            return await tools.open()
        except ToolError:
            await asyncio.sleep(0.1)
    return await tools.open()


async def test_over_stdio_it_answers_and_every_failure_has_its_type():
    before, descriptors = children(), len([*Path("/proc/self/fd").iterdir()])
    tools = MCPTools([MCPServer(name="demo", command=DEMO, timeout_s=5.0, max_output=50)])
    episode = await tools.open()
    by_name = {one.spec.name: one for one in episode.tools(taken=["add"])}
    assert {"demo_add", "remember"} <= set(by_name) and "add" not in by_name
    add = by_name["demo_add"].spec
    assert (add.description, add.parameters["required"]) == ("Add two numbers.", ["a", "b"])
    assert (await by_name["demo_add"]({"a": 1, "b": 2}, None)).text == "3"
    failed = await by_name["fail"]({}, None)
    assert failed.error and "fail" in failed.text
    assert (await by_name["picture"]({}, None)).text.startswith("[image: image/png, about 10")
    assert (await by_name["much"]({}, None)).text == "x" * 50 + "... [9950 more characters]"
    with pytest.raises(ToolError, match=r"Connection closed; its last words: (.|\n)*I am dying"):
        await by_name["die"]({}, None)
    with pytest.raises(ToolError, match="is gone"):
        await by_name["remember"]({"word": "x"}, None)
    await episode.close()
    await episode.close()
    await tools.close()
    assert children() == before
    assert len([*Path("/proc/self/fd").iterdir()]) <= descriptors + 2


async def test_no_answer_is_a_time_out():
    tools = MCPTools([MCPServer(command=DEMO, tools=["hang"], timeout_s=0.2, start_s=60)])
    episode = await tools.open()
    with pytest.raises(TimeoutError, match="timed out"):
        await episode.tools()[0]({}, None)
    await episode.close()


async def test_nothing_bleeds_between_episodes_unless_it_is_shared():
    async def remembered(connection):
        said = []
        tools = MCPTools([MCPServer(command=DEMO, connection=connection)])
        for word in ("one", "two"):
            episode = await tools.open()
            (remember,) = [one for one in episode.tools() if one.spec.name == "remember"]
            said.append((await remember({"word": word}, None)).text)
            await episode.close()
        await tools.close()
        return said

    assert await remembered("episode") == ["one", "two"]
    assert await remembered("shared") == ["one", "one two"]


async def test_over_http(url):
    tools = MCPTools([url])
    episode = await opened(tools)
    by_name = {one.spec.name: one for one in episode.tools()}
    assert (await by_name["add"]({"a": 20, "b": 22}, None)).text == "42"
    await episode.close()


async def test_what_cannot_be_used_is_said():
    quits = f"{sys.executable} -c 'import sys; sys.exit(\"no licence\")'"
    with pytest.raises(ToolError, match="its last words: no licence"):
        await MCPTools([quits]).open()
    with pytest.raises(ToolError, match="no-such-program"):
        await MCPTools(["no-such-program"]).open()
    with pytest.raises(ConfigError, match=r"no tool 'ad'; did you mean 'add'\?"):
        await MCPTools([{"command": list(DEMO), "tools": ["ad"]}]).open()
    with pytest.raises(ConfigError, match=r"unknown key 'comand'; did you mean 'command'\?"):
        MCPTools([{"comand": "x"}])
    with pytest.raises(ConfigError, match="either command"):
        MCPServer(name="x")


async def test_any_environment_takes_them_and_blames_the_right_one():
    class Caller:
        def __init__(self, name):
            self.name = name

        def act(self, messages, thinking):
            if messages[-1].role == "tool":
                return assistant()
            return assistant(tool_calls=(ToolCall(id="c", name=self.name, arguments={}),))

    env = load_env(LOOKUP, mcp=[{"name": "demo", "command": list(DEMO)}])
    kept = []

    class Store:
        def add(self, traces, **_):
            kept.extend(traces)

    await play_policy(env, lambda spec, tools: Caller("fail"), tasks=1, store=Store())
    assert (kept[-1].outcome.by, kept[-1].tool_events[0].status) == ("policy", "error")
    with pytest.raises(Exception, match="Connection closed"):
        await play_policy(env, lambda spec, tools: Caller("die"), tasks=1, store=Store())
    assert kept[-1].outcome.by == "tool" and not kept[-1].outcome.learnable
    await env.close()
