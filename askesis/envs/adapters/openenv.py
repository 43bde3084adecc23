"""`openenv:http://host:port`: an OpenEnv server's environment. So too `openenv:package.module:app`, which is started.

Spoken to in the server's own protocol over a WebSocket (reset, step, close; a session for each episode), so that none
of the packages that a server needs is needed here. Whether a server that is gone, silent or says that it failed is the
environment's failure, so that the episode is played again, or the policy's doing is found out by taking the same
actions again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from askesis.envs.adapters.hooks import hook
from askesis.envs.adapters.openenv_server import Served, fetched, local
from askesis.envs.adapters.stepping import (
    Judging,
    Pay,
    Raising,
    Step,
    SteppedEnv,
    SteppedState,
    StepTool,
    stepped_state,
)
from askesis.envs.functions import tool
from askesis.tools.rendering import bounded
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    MissingExtra,
    Session,
    State,
    Task,
    Tool,
    ToolResult,
    ToolSpec,
    in_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.client import ClientConnection

INSTALL = "pip install 'askesis[openenv]'"
First = Literal["look", "prompt"]
_SIZE = 2**24  # bytes of a message
_AGAIN_S = 0.2  # how long to wait where all of a server's sessions are taken
_CLOSE_S = 2.0


class _Full(Exception):
    """All sessions of the server are taken."""


@dataclass(slots=True)
class _Remote:
    """One session at the server."""

    name: str
    socket: ClientConnection
    shown: Callable[[Mapping[str, Any]], str]
    step_s: float
    last: str = ""
    lost: str = ""
    tools: Sequence[Mapping[str, Any]] = field(default_factory=list)

    async def ask(self, kind: str, data: Mapping[str, Any] | None, seconds: float) -> Mapping[str, Any]:
        """What the server answers. Raises `ValueError` for what it says is no action, `_Full`, and `EnvError`."""
        from websockets.exceptions import ConnectionClosed, WebSocketException

        if self.lost:
            raise EnvError(f"{self.name}: the connection is gone: {self.lost}")
        message = {"type": kind} | ({} if data is None else {"data": dict(data)})
        try:
            async with asyncio.timeout(seconds):
                with contextlib.suppress(ConnectionClosed):  # what it said before it closed is still to be read
                    await self.socket.send(json.dumps(message))
                answer = json.loads(await self.socket.recv())
        except TimeoutError:
            self.lost = f"no answer to {kind!r} within {seconds:g} s"
            raise TimeoutError(f"{self.name}: {self.lost}") from None
        except (OSError, WebSocketException, ValueError) as error:
            self.lost = f"{type(error).__name__}: {error}"
            raise EnvError(f"{self.name}: the server is gone, or broke the protocol: {self.lost}") from error
        found = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(found, dict):
            self.lost = f"it answered {answer!r:.100}"
            raise EnvError(f"{self.name}: {self.lost}, expected an object with `type` and `data`")
        if answer.get("type") == "error":
            _failed(self.name, found)
        return found

    async def step(self, action: Any) -> Step:
        try:
            return self._step(await self.ask("step", action, self.step_s))
        except ValueError as error:
            return Step(text=str(error), refused=True)
        except _Full as error:
            raise EnvError(f"{self.name}: {error}") from error

    def _step(self, found: Mapping[str, Any]) -> Step:
        observation, reward = found.get("observation"), found.get("reward")
        if not isinstance(observation, dict) or not (reward is None or isinstance(reward, int | float)):
            raise EnvError(f"{self.name}: a step gave {found!r:.200}, expected `observation` and a number as `reward`")
        self.last = self.shown(observation)
        return Step(text=self.last, reward=float(reward or 0), terminated=bool(found.get("done")))

    async def begin(self, data: Mapping[str, Any], seconds: float) -> None:
        """Reset. Raises `EnvError`."""
        try:
            self._step(await self.ask("reset", data, seconds))
        except (ValueError, TimeoutError) as error:
            raise EnvError(f"{self.name}: reset failed: {error}") from error

    async def close(self) -> None:
        """Tell the server, and let go of it. Idempotent."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                if not self.lost:
                    self.lost = "it is closed"
                    await self.socket.send(json.dumps({"type": "close"}))
                await self.socket.close()
        except Exception:
            self.socket.transport.abort()


def _protocols(name: str, schema: Any) -> bool:
    """Whether a field of an action is the protocol's and no choice of the agent's."""
    return name == "metadata" or (name == "type" and isinstance(schema, dict) and "const" in schema)


def _failed(name: str, error: Mapping[str, Any]) -> None:
    code, said = str(error.get("code", "")), str(error.get("message", ""))
    if code == "CAPACITY_REACHED":
        raise _Full(said)
    if code == "VALIDATION_ERROR":
        details = [f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" for one in error.get("errors", ())]
        raise ValueError("; ".join(details) or said)
    raise EnvError(f"{name}: the server says {code or 'error'}: {said:.400}")


@dataclass(frozen=True, slots=True)
class _Called:
    """A tool of an environment whose actions are calls of tools (MCP's, by OpenEnv's messages)."""

    state: SteppedState
    spec: ToolSpec
    theirs: str

    def action(self, args: Mapping[str, Any]) -> Any:
        """What a call with these arguments does."""
        return {"type": "call_tool", "tool_name": self.theirs, "arguments": dict(args)}

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return await self.state.act(self.action(args))


class OpenEnvironment(SteppedEnv):
    """An environment that an OpenEnv server has. `target`: its address, or `package.module:app` (or `:Class`, an
    environment) of a server that is started here. Options:

    kwargs: what `reset` is given beside the seed. vary: a function that gives those of one task (`module:function`,
    called with a `random.Random`). prompt: what the agent is told (default: the server's own description). first: how
    the agent learns what the environment shows at first: by the tool `look`, or in the `prompt`, for servers that show
    the same for the same seed. show: a function of an observation (a dict) that gives the text. output: characters of
    one. tell_reward: say each step's reward.

    pay, scale, success_at, raising: as `gymnasium` has them. unfinished: what an episode is paid at most that the
    environment did not end, or `sum` for whatever it was paid until then. oracle, demonstrator: functions of a
    task that give a policy or a list of actions. max_turns, max_turn_tokens: of an episode. step_s, start_s: seconds
    that a step may take, and until a session has begun. python, folder, sessions: of a server that is started: its
    interpreter, the folder that its modules lie in, episodes at once. Raises `ConfigError` for what does not fit or
    does not answer, `MissingExtra` without `websockets`.
    """

    package = "websockets"

    def __init__(
        self,
        target: str,
        *,
        kwargs: Mapping[str, Any] | None = None,
        vary: str = "",
        prompt: str = "",
        first: First = "look",
        show: str = "",
        output: int = 4_000,
        tell_reward: bool = True,
        pay: Pay = "return",
        scale: float = 1.0,
        success_at: float | None = None,
        unfinished: float | Literal["sum"] = "sum",
        raising: Raising = "replay",
        oracle: str = "",
        demonstrator: str = "",
        max_turns: int = 30,
        max_turn_tokens: int = 512,
        step_s: float = 30.0,
        start_s: float = 60.0,
        python: str = "",
        folder: str = "",
        sessions: int = 8,
    ) -> None:
        if find_spec("websockets") is None:
            raise MissingExtra(f"openenv:{target} needs the package websockets, which is not installed: {INSTALL}")
        if first not in ("look", "prompt") or output < 1 or sessions < 1 or not (step_s > 0 and start_s > 0):
            raise ConfigError(
                f"openenv: first={first!r}, output={output}, sessions={sessions}, step_s={step_s}, start_s={start_s}: "
                "expected 'look' or 'prompt', and numbers above 0"
            )
        self._show = hook(show, "show") if show else None
        self._output, self._first, self._tell_reward = output, first, tell_reward
        self._step_s, self._start_s = step_s, start_s
        self._served: Served | None = None
        self._url = target.rstrip("/")
        if not target.startswith(("http://", "https://")):
            if ":" not in target:
                raise ConfigError(f"openenv:{target}: expected http://host:port, or package.module:app to be started")
            self._served = Served(target, python=python, folder=folder, sessions=sessions, start_s=start_s)
        if isinstance(unfinished, str) and unfinished != "sum":
            raise ConfigError(f"openenv: unfinished={unfinished!r}: expected a number, or 'sum'")
        most = None if isinstance(unfinished, str) else unfinished
        super().__init__(
            f"openenv:{target}",
            kwargs=kwargs,
            vary=vary,
            judging=Judging(pay=pay, scale=scale, success_at=success_at, unfinished=most),
            limits=Limits(max_turns=max_turns, max_turn_tokens=max_turn_tokens, wall_s=1800.0, tool_s=step_s + 5.0),
            oracle=oracle,
            demonstrator=demonstrator,
            raising=raising,
        )
        try:
            self._described(prompt)
        except EnvError as error:
            self._stop()
            raise ConfigError(
                f"environment {self.name!r} does not answer as an OpenEnv server does: {error}"
            ) from error

    def _described(self, prompt: str) -> None:
        """Ask the server for its actions, and for its description where there is no prompt."""
        url = self._address()
        schema = fetched(f"{url}/schema", self._start_s).get("action")
        if not isinstance(schema, dict):
            raise EnvError(f"{url}/schema has no `action`")
        properties = schema.get("properties", {})
        self._calls_tools = {"tool_name", "arguments"} <= set(properties)
        self._parameters = {
            **{key: value for key, value in schema.items() if key in ("$defs", "required", "additionalProperties")},
            "type": "object",
            "properties": {key: value for key, value in properties.items() if not _protocols(key, value)},
        }
        self._about = prompt.strip()
        if not self._about:
            told = fetched(f"{url}/metadata", self._start_s)
            self._about = f"{told.get('name', self.name)}: {told.get('description') or 'an environment'}"

    def _address(self) -> str:
        return self._url if self._served is None else self._served.url()

    # -- tasks ---------------------------------------------------------------------------------------------------

    def _told(self, starts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
        if self._first == "look":
            return [(self._about, dict(start)) for start in starts]
        firsts = _run(self._firsts(starts))
        return [
            (f"{self._about}\n\n{text}", {**start, "first": text}) for start, text in zip(starts, firsts, strict=True)
        ]

    async def _firsts(self, starts: Sequence[Mapping[str, Any]]) -> list[str]:
        texts = []
        for start in starts:
            remote = await self._session(start)
            texts.append(remote.last)
            await remote.close()
        return texts

    # -- episodes ------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> SteppedState:
        """A session of its own, reset by the task's seed. Raises `EnvError`."""
        missing = [key for key in ("seed", "kwargs") if key not in task.data]
        if missing:
            raise EnvError(f"{self.name}: task {task.id} has no {', '.join(missing)} in its data; was it made here?")
        remote = await self._session(task.data)
        try:
            if task.data.get("first", remote.last) != remote.last:
                raise EnvError(
                    f"{self.name}: reset with seed {task.data['seed']} showed {remote.last!r:.200}, and "
                    f"{task.data['first']!r:.200} when the task was made; options.first = 'look' allows for that"
                )
            if self._calls_tools:
                listed = (await remote.ask("step", {"type": "list_tools"}, self._step_s)).get("observation", {})
                remote.tools = listed.get("tools") or ()
                if not remote.tools:
                    raise EnvError(f"{self.name}: its actions are calls of tools, but it lists none: {listed!r:.200}")
        except BaseException:
            await remote.close()
            raise
        return SteppedState(remote, tell_reward=self._tell_reward, raising=self._raising)

    async def _session(self, start: Mapping[str, Any]) -> _Remote:
        """A session that has begun; where all are taken, one that is free within `start_s`."""
        end = asyncio.get_running_loop().time() + self._start_s
        while True:
            remote = await self._connected()
            try:
                await remote.begin({"seed": start["seed"], **start["kwargs"]}, self._start_s)
            except _Full as error:
                await remote.close()
                if asyncio.get_running_loop().time() > end:
                    raise EnvError(f"{self.name}: no session was free within {self._start_s:g} s: {error}") from error
                with in_line():
                    await asyncio.sleep(_AGAIN_S)
            except BaseException:
                await remote.close()
                raise
            else:
                return remote

    async def _connected(self) -> _Remote:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        address = self._url if self._served is None else await asyncio.to_thread(self._served.url)
        scheme, place, path, *_ = urlsplit(address)
        url = urlunsplit(("wss" if scheme == "https" else "ws", place, f"{path}/ws", "", ""))
        try:
            socket = await connect(
                url, open_timeout=self._start_s, max_size=_SIZE, proxy=None if local(address) else True
            )
        except (OSError, WebSocketException, TimeoutError) as error:
            raise EnvError(f"{self.name}: no connection to {url}: {type(error).__name__}: {error}") from error
        return _Remote(self.name, socket, self._text, self._step_s)

    def _text(self, observation: Mapping[str, Any]) -> str:
        if self._show is None:
            return bounded(told(observation), self._output)
        said = self._show(observation)
        if not isinstance(said, str):
            raise EnvError(f"{self.name}: the function `show` gave a {type(said).__name__}, expected a text")
        return bounded(said, self._output)

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """step, or the environment's own tools; and look."""
        state = stepped_state(state)
        remote = state.stepper
        assert isinstance(remote, _Remote)
        tools: list[Tool] = []
        if self._calls_tools:
            for one in remote.tools:
                parameters = {"type": "object", "properties": {}} | dict(one.get("input_schema") or {})
                name = str(one["name"])
                spec = ToolSpec(name=name, description=str(one.get("description") or name), parameters=parameters)
                tools.append(_Called(state, spec, name))
        else:
            tools.append(
                StepTool(state, ToolSpec(name="step", description="Take a step.", parameters=self._parameters), "")
            )
        if self._first == "look" and "look" not in {one.spec.name for one in tools}:

            def look() -> str:
                """See what the environment shows."""
                return remote.last or "[nothing]"

            tools.append(tool(look))
        return tools

    def _stop(self) -> None:
        if self._served is not None:
            self._served.close()

    async def close(self) -> None:
        """Stop the server, if it was started here."""
        self._stop()


def told(observation: Mapping[str, Any]) -> str:
    """An observation as text: a single text as it is, else a line a field; of a tool's call, what came of it."""
    fields = {key: value for key, value in observation.items() if key not in ("metadata", "done", "reward")}
    if "tool_name" in fields and "result" in fields:
        error = fields.get("error")
        if error:
            return f"error: {error.get('message', error) if isinstance(error, dict) else error}"
        return _of_call(fields["result"])
    if len(fields) == 1 and isinstance(next(iter(fields.values())), str):
        return str(next(iter(fields.values())))
    return "\n".join(f"{key}: {_plain(value)}" for key, value in fields.items() if value is not None)


def _of_call(result: Any) -> str:
    if isinstance(result, dict):
        if isinstance(parts := result.get("content"), list):
            texts = [str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part]
            if texts:
                return "\n".join(texts)
        if "data" in result:
            return _plain(result["data"])
    return _plain(result)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _run(work: Any) -> Any:
    """The result of a coroutine, also where an event loop runs already: tasks are asked for from anywhere."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
