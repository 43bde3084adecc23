"""An episode whose agent is the client of our MCP server: it plays, and never hears what it is paid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from askesis.agents import OrchestratorAgent, agent_for
from askesis.loop.playing import play_episode
from askesis.rollout import EpisodeSession
from askesis.tools.mcp_server import mcp_server, serve_http, serve_stdio
from askesis.types import ConfigError, Env, Message, Session, Task, ToolCall, ToolSpec, Trace, assistant

_OVER = "the episode is over: nothing more can be called"
_LAST_ANSWER_S = 1.0


class ClientPlayer:
    """See `loop.playing.Player`: its messages are the calls of a client, one after the other."""

    def __init__(self) -> None:
        self.tools: Sequence[ToolSpec] = ()
        self.ready, self.over = asyncio.Event(), asyncio.Event()
        self._calls: asyncio.Queue[tuple[str, Mapping[str, Any], asyncio.Future[tuple[str, bool]]] | None]
        self._calls, self._number = asyncio.Queue(), 0
        self._asked: asyncio.Future[tuple[str, bool]] | None = None

    async def begin(self, session: Session) -> None:
        """The tools are known."""
        self.tools = session.tools
        self.ready.set()

    async def act(self) -> Message:
        """The next call; no call where the client has left."""
        asked = await self._calls.get()
        if asked is None:
            return assistant()
        name, arguments, self._asked = asked
        self._number += 1
        return assistant(tool_calls=(ToolCall(id=f"call_{self._number}", name=name, arguments=dict(arguments)),))

    async def hear(self, results: Sequence[Message], session: Session) -> None:
        """Give the client what its call gave."""
        failed = isinstance(session, EpisodeSession) and bool(session.events) and session.events[-1].status != "ok"
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(("\n".join(one.text for one in results) or _OVER, failed))

    async def call(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """For the client: one call."""
        if self.over.is_set():
            return _OVER, True
        answer: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        self._calls.put_nowait((name, arguments, answer))
        ended = asyncio.ensure_future(self.over.wait())
        await asyncio.wait((answer, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        return answer.result() if answer.done() else (_OVER, True)

    def leave(self) -> None:
        """The client is gone."""
        self._calls.put_nowait(None)


async def serve_episode(
    env: Env,
    task: Task,
    *,
    http: str | None = None,
    key: str | None = None,
    note: Callable[[str], None] = lambda line: None,
    on_end: Callable[[Trace], None] = lambda trace: None,
) -> Trace:
    """Serve the tools of one episode over stdio, or at `http` (HOST:PORT), until the episode and the client are done.

    key: what HTTP clients must send as a bearer token. note: lines for the operator. on_end: is given the trace as soon
    as the episode has ended; over stdio the client may then still be there. Raises `ConfigError` for no HOST:PORT, and
    where the task is one for several agents.
    """
    host, port = _address(http) if http is not None else ("", 0)
    if isinstance(agent_for(env), OrchestratorAgent):
        raise ConfigError(
            f"environment {env.name!r} wants sub-agents, and a client has one list of tools for all of an episode; "
            "play it with `askesis envs play`, or evaluate a checkpoint"
        )
    player, stop = ClientPlayer(), asyncio.Event()

    async def played() -> Trace:
        try:
            trace = await play_episode(env, task, player, name="mcp@1")
        finally:
            player.over.set()
            player.ready.set()
        on_end(trace)
        return trace

    episode = asyncio.create_task(played())
    await player.ready.wait()
    server = mcp_server(f"askesis {env.name}", instructions=task.prompt, tools=player.tools, call=player.call)
    if not player.tools:  # it was not set up; the trace says why
        return await episode

    def listening(url: str) -> None:
        note(f"serving task {task.id} of {env.name} at {url}; Ctrl-C ends the episode")

    if http is None:
        serving = asyncio.create_task(serve_stdio(server))
    else:
        serving = asyncio.create_task(serve_http(server, host, port, stop=stop, ready=listening, key=key))
    try:
        await asyncio.wait((episode, serving), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:  # Ctrl-C: what was done so far is judged
        if (current := asyncio.current_task()) is not None:
            current.uncancel()
    player.leave()
    trace = await episode
    if http is not None:
        await asyncio.sleep(_LAST_ANSWER_S)  # the answer to the last call is on its way
        stop.set()
    await serving
    return trace


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"--http {text!r}: expected HOST:PORT, as in 127.0.0.1:8900")
    return host.strip("[]"), int(port)
