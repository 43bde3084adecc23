"""A real MCP server of the official SDK, over stdio, or with a port over HTTP: for tests of the client."""

import asyncio
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Image

s = MCPServer("demo")
seen = []


@s.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@s.tool()
def remember(word: str) -> str:
    """Remember a word."""
    seen.append(word)
    return " ".join(seen)


@s.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("no such thing")


@s.tool()
def die() -> str:
    """Die."""
    print("I am dying", file=sys.stderr, flush=True)
    os._exit(3)


@s.tool()
async def hang() -> str:
    """Hang."""
    await asyncio.sleep(1000)
    return ""


@s.tool()
def picture() -> Image:
    """Draw."""
    return Image(data=b"\x89PNG" + b"0" * 96, format="png")


@s.tool()
def much() -> str:
    """Say much."""
    return "x" * 10000


if __name__ == "__main__":
    s.run("streamable-http", port=int(sys.argv[1])) if len(sys.argv) > 1 else s.run("stdio")
