"""Our tools for others: an MCP server, over stdio or streamable HTTP, of whatever can be called by name."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from askesis.types import MissingExtra, ToolSpec

if TYPE_CHECKING:
    from mcp.server import Server
    from starlette.types import ASGIApp, Receive, Scope, Send

Call = Callable[[str, Mapping[str, Any]], Awaitable[tuple[str, bool]]]
"""A call by name and arguments: the text that it gives, and whether that is an error."""


def mcp_server(name: str, *, instructions: str, tools: Sequence[ToolSpec], call: Call) -> Server[Any]:
    """A server that offers `tools`. instructions: what a client tells its model; also to be had as the prompt `task`.

    Raises `MissingExtra` where the SDK is not installed.
    """
    try:
        import mcp_types as wire
        from mcp.server import Server
    except ImportError as error:
        raise MissingExtra(
            "serving tools over MCP needs the package mcp, which is not installed: pip install 'askesis[mcp]'"
        ) from error
    from importlib.metadata import version

    async def list_tools(context: Any, params: Any) -> wire.ListToolsResult:
        listed = [
            wire.Tool(name=one.name, description=one.description, input_schema=dict(one.parameters)) for one in tools
        ]
        return wire.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: wire.CallToolRequestParams) -> wire.CallToolResult:
        text, failed = await call(params.name, params.arguments or {})
        return wire.CallToolResult(content=[wire.TextContent(text=text)], is_error=failed)

    async def list_prompts(context: Any, params: Any) -> wire.ListPromptsResult:
        return wire.ListPromptsResult(prompts=[wire.Prompt(name="task", description="What is to be done.")])

    async def get_prompt(context: Any, params: wire.GetPromptRequestParams) -> wire.GetPromptResult:
        said = wire.TextContent(text=instructions)
        return wire.GetPromptResult(messages=[wire.PromptMessage(role="user", content=said)])

    return Server(
        name,
        version=version("askesis"),
        instructions=instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )


async def serve_stdio(server: Server[Any]) -> None:
    """Serve on stdin and stdout until the client leaves."""
    from mcp import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


class _Locked:
    """An ASGI application for those who have the key: `Authorization: Bearer KEY`. Others get a 401."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._wanted = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import JSONResponse

        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                refusal = JSONResponse({"error": "missing or wrong key"}, 401, headers={"WWW-Authenticate": "Bearer"})
                return await refusal(scope, receive, send)
        return await self._app(scope, receive, send)


async def serve_http(
    server: Server[Any],
    host: str,
    port: int,
    *,
    stop: asyncio.Event,
    ready: Callable[[str], None],
    key: str | None = None,
) -> None:
    """Serve at /mcp until `stop`. port: 0 takes a free one. ready: is told the URL. key: what clients must send as a
    bearer token; None lets in all. Raises `OSError` for no port."""
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        shown = f"[{host}]" if ":" in host else host
        app: ASGIApp = server.streamable_http_app(host=host)
        config = uvicorn.Config(
            app if key is None else _Locked(app, key), log_level="error", lifespan="on", timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        work = asyncio.ensure_future(running.serve(sockets=[listening]))
        try:
            ready(f"http://{shown}:{listening.getsockname()[1]}/mcp")
            stopped = asyncio.ensure_future(stop.wait())
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        finally:
            running.should_exit = True
            await work
