"""Tools of any MCP server: one that is started here and spoken to over stdio, or one behind a URL (streamable HTTP).

A connection is owned by a task of its own, so that it can be opened, used and closed from any other. What a tool itself
calls an error is an observation. A server that dies, breaks the protocol or does not answer is the machinery's fault.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TextIO

import jsonschema

from askesis.types import ConfigError, MissingExtra, Session, Tool, ToolError, ToolResult, ToolSpec, nearest

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult
    from mcp_types import Tool as Listed

Connection = Literal["episode", "shared"]
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_LAST_WORDS = 400
_CLOSE_S = 15.0
INSTALL = "pip install 'askesis[mcp]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class MCPServer:
    """Which server, and how it is used. Exactly one of `command` (program and arguments) and `url`.

    name: goes before a tool's name that is taken. env: variables for `command`, beside PATH, HOME and the like.
    headers: for `url`. tools: only these; None for all. connection: `episode` opens one for each episode, which for a
    command is a process of its own, so that nothing bleeds from one to the next; `shared` keeps one for all. start_s:
    seconds until the tools must be listed. timeout_s: of a call; None leaves it to the task's `tool_s`.
    max_output: characters of an answer. Raises `ConfigError` for what cannot be.
    """

    name: str = "mcp"
    command: Sequence[str] = ()
    url: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[str] | None = None
    connection: Connection = "episode"
    start_s: float = 30.0
    timeout_s: float | None = None
    max_output: int = 4000

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ConfigError(f"MCP server {self.name!r}: give either command (program and arguments) or url")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"MCP server {self.name!r}: url {self.url!r}, expected http:// or https://")
        if self.connection not in ("episode", "shared"):
            raise ConfigError(f"MCP server {self.name!r}: connection={self.connection!r}, expected episode or shared")
        if self.start_s <= 0 or self.max_output < 1 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise ConfigError(f"MCP server {self.name!r}: start_s, timeout_s and max_output must be above 0")

    @classmethod
    def of(cls, given: MCPServer | str | Mapping[str, Any]) -> MCPServer:
        """Out of a recipe or a flag: a URL, a command line, or a table of the fields. Raises `ConfigError`."""
        if isinstance(given, MCPServer):
            return given
        if isinstance(given, str):
            if given.startswith(("http://", "https://")):
                return cls(url=given)
            return cls(command=tuple(shlex.split(given)))
        known = [one.name for one in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(f"MCP server: unknown key {key!r}{nearest(key, known)} (known: {', '.join(known)})")
        values = dict(given)
        if isinstance(values.get("command"), str):
            values["command"] = tuple(shlex.split(values["command"]))
        return cls(**values)


class MCPTools:
    """The tools of some servers, for many episodes: `open` for each, `close` at the end.

    servers: `MCPServer`s, or what `MCPServer.of` takes. Raises `ConfigError` for what is no server, and `MissingExtra`
    where the SDK is not installed.
    """

    def __init__(self, servers: Iterable[MCPServer | str | Mapping[str, Any]]) -> None:
        try:
            import mcp  # noqa: F401
        except ImportError as error:
            raise MissingExtra(
                f"MCP servers as tools need the package mcp, which is not installed: {INSTALL}"
            ) from error
        self.servers = tuple(MCPServer.of(one) for one in servers)
        self._shared: dict[int, _Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> MCPEpisode:
        """Connections for one episode. Raises `ToolError` for a server that cannot be reached, `ConfigError` for tools
        that no model can be told of."""
        if (loop := asyncio.get_running_loop()) is not self._loop:  # what another loop held ended with it
            self._loop, self._opening, self._shared = loop, asyncio.Lock(), {}
        own: list[_Connection] = []
        used: list[_Connection] = []
        try:
            for place, server in enumerate(self.servers):
                if server.connection == "shared":
                    used.append(await self._common(place, server))
                else:
                    own.append(_Connection(server))
                    used.append(own[-1])
                    await own[-1].open()
        except BaseException:
            await asyncio.gather(*(one.close() for one in own))
            raise
        return MCPEpisode(own, used)

    async def _common(self, place: int, server: MCPServer) -> _Connection:
        async with self._opening:
            one = self._shared.get(place)
            if one is None or not one.alive:
                if one is not None:
                    await one.close()
                one = _Connection(server)
                await one.open()
                self._shared[place] = one
            return one

    async def close(self) -> None:
        """Close what is shared. Idempotent."""
        shared, self._shared = self._shared, {}
        if self._loop is asyncio.get_running_loop():
            await asyncio.gather(*(one.close() for one in shared.values()))


class MCPEpisode:
    """What one episode has of them."""

    def __init__(self, own: Sequence[_Connection], used: Sequence[_Connection]) -> None:
        self._own, self._used = own, used

    def tools(self, taken: Iterable[str] = ()) -> list[Tool]:
        """The tools, in the order of the servers. taken: names that are others' already."""
        names, found = set(taken), list[Tool]()
        for one in self._used:
            for listed in one.listed:
                name = _UNFIT.sub("_", listed.name)[:64]
                if name in names:
                    name = f"{one.server.name}_{name}"[:64]
                if name in names:
                    raise ConfigError(
                        f"MCP server {one.server.name!r}: the name {name!r} is taken; give it another name"
                    )
                names.add(name)
                described = (listed.description or listed.title or listed.name).strip()
                spec = ToolSpec(name=name, description=described, parameters=listed.input_schema)
                found.append(_MCPTool(spec, listed.name, one))
        return found

    async def close(self) -> None:
        """Close the connections that are this episode's own. Idempotent."""
        own, self._own = self._own, ()
        await asyncio.gather(*(one.close() for one in own))


@dataclass(frozen=True, slots=True)
class _MCPTool:
    spec: ToolSpec
    theirs: str
    connection: _Connection

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        return await self.connection.call(self.theirs, args)


class _Connection:
    """One connection, in a task of its own from its opening to its end."""

    def __init__(self, server: MCPServer) -> None:
        self.server, self.listed = server, list[Any]()
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._log: TextIO | None = None
        self._lost = False

    @property
    def alive(self) -> bool:
        """Whether a call could get through, as far as is known."""
        return self._client is not None and not self._lost

    async def open(self) -> None:
        """Connect and list the tools."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the connection
        self._owner = asyncio.create_task(self._own(ready))
        try:
            await asyncio.wait_for(asyncio.shield(ready), self.server.start_s)
        except TimeoutError:
            words = self._last_words()
            await self.close()
            said = f"no list of tools within {self.server.start_s:g} s"
            raise ToolError(f"MCP server {self.server.name!r} ({self._where()}): {said}{words}") from None
        except BaseException:
            await self.close()
            raise

    async def _own(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                self._client = await stack.enter_async_context(await self._connected(stack))
                self.listed = await self._list(self._client)
                ready.set_result(None)
                await self._stop.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not ready.done():
                ready.set_exception(self._failure(error, "could not be used"))
                ready.exception()  # looked at, also where nobody waits any more
        finally:
            self._client = None

    async def _connected(self, stack: AsyncExitStack) -> Client:
        from importlib.metadata import version

        from mcp import Client, Implementation, StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        server = self.server
        if server.command:
            program, *arguments = server.command
            said = StdioServerParameters(command=program, args=list(arguments), env=dict(server.env))
            assert self._log is not None
            transport: Any = stdio_client(said, errlog=self._log)
        else:
            http = await stack.enter_async_context(create_mcp_http_client(headers=dict(server.headers)))
            transport = streamable_http_client(server.url, http_client=http)
        info = Implementation(name="askesis", version=version("askesis"))
        return Client(transport, client_info=info, cache=None)

    async def _list(self, client: Client) -> list[Listed]:
        found, cursor = list[Any](), None
        while True:
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        names = [one.name for one in found]
        for wanted in self.server.tools or ():
            if wanted not in names:
                raise ConfigError(
                    f"MCP server {self.server.name!r} has no tool {wanted!r}{nearest(wanted, names)} "
                    f"(tools: {', '.join(names)})"
                )
        chosen = [one for one in found if self.server.tools is None or one.name in self.server.tools]
        for one in chosen:
            self._check(one)
        return chosen

    def _check(self, tool: Listed) -> None:
        """Raise `ConfigError` for a schema that arguments cannot be held against."""
        where = f"MCP server {self.server.name!r}: tool {tool.name!r}: its inputSchema"
        if tool.input_schema.get("type") != "object":
            raise ConfigError(f"{where} has type {tool.input_schema.get('type')!r}, expected 'object'")
        try:
            jsonschema.validators.validator_for(
                tool.input_schema, default=jsonschema.Draft202012Validator
            ).check_schema(tool.input_schema)
        except jsonschema.exceptions.SchemaError as error:
            raise ConfigError(f"{where} is no JSON Schema: {error.message}") from error

    async def call(self, name: str, args: Mapping[str, Any]) -> ToolResult:
        """One call. Raises `TimeoutError`, and `ToolError` for whatever else the server is to blame for."""
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, REQUEST_TIMEOUT

        if self._client is None or self._lost:
            raise ToolError(f"MCP server {self.server.name!r} ({self._where()}) is gone{self._last_words()}")
        try:
            result = await self._client.call_tool(name, dict(args), read_timeout_seconds=self.server.timeout_s)
        except MCPError as error:
            if error.code == INVALID_PARAMS:  # what the agent gave, although its schema allows it
                return ToolResult(text=_cut(f"error: {error.message}", self.server.max_output), error=True)
            if error.code == REQUEST_TIMEOUT:
                raise TimeoutError(f"MCP server {self.server.name!r}: {error.message}") from error
            self._lost = error.code == CONNECTION_CLOSED
            raise self._failure(error, f"failed in {name!r}") from error
        except Exception as error:
            raise self._failure(error, f"failed in {name!r}") from error
        return ToolResult(text=_cut(text_of(result), self.server.max_output), error=result.is_error)

    async def close(self) -> None:
        """End the connection, and the process if there is one. Idempotent."""
        self._stop.set()
        owner, self._owner = self._owner, None
        if owner is not None:
            if self._client is None:
                owner.cancel()
            await asyncio.wait((owner,), timeout=_CLOSE_S)
            if not owner.done():
                owner.cancel()
                await asyncio.wait((owner,), timeout=1.0)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _failure(self, error: BaseException, what: str) -> Exception:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, ConfigError):
            return error
        said = f"{type(error).__name__}: {error}"
        return ToolError(f"MCP server {self.server.name!r} ({self._where()}) {what}: {said}{self._last_words()}")

    def _where(self) -> str:
        return self.server.url or shlex.join(self.server.command)

    def _last_words(self) -> str:
        """The end of what the server wrote to stderr."""
        if self._log is None or not self.server.command:
            return ""
        self._log.seek(0)
        words = self._log.read().strip()[-_LAST_WORDS:]
        return f"; its last words: {words}" if words else ""


def text_of(result: CallToolResult) -> str:
    """What a call gave, as text: what is no text is named in brackets."""
    from mcp_types import AudioContent, EmbeddedResource, ImageContent, TextContent, TextResourceContents

    parts = []
    for block in result.content:
        if isinstance(block, TextContent):
            parts.append(block.text)
        elif isinstance(block, ImageContent | AudioContent):
            parts.append(f"[{block.type}: {block.mime_type}, about {len(block.data) * 3 // 4} bytes]")
        elif isinstance(block, EmbeddedResource) and isinstance(block.resource, TextResourceContents):
            parts.append(f"[resource {block.resource.uri}]\n{block.resource.text}")
        elif isinstance(block, EmbeddedResource):
            parts.append(f"[resource {block.resource.uri}: {block.resource.mime_type or 'binary'}]")
        else:
            parts.append(f"[link {block.uri}: {block.name}]")
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + f"... [{len(text) - most} more characters]"
