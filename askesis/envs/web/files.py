"""A tree of files as a site: what an agent builds, served as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from askesis.tools.browser.network import Receive, Scope, Send

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
}


class Files:
    """Serves what `read` gives of a path, as `Sandbox.read` or `Snapshot.read` does."""

    def __init__(self, read: Callable[[str], Awaitable[bytes]]) -> None:
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = request.url.path.lstrip("/")
        path = f"{path}index.html" if path == "" or path.endswith("/") else path
        try:
            if request.method not in ("GET", "HEAD") or "\0" in path or ".." in path.split("/"):
                raise FileNotFoundError(path)
            data = await self._read(path)
        except (OSError, ValueError):  # it is the agent's tree: whatever there is in a file's place
            found = 204 if path == "favicon.ico" else 404  # which browsers ask for by themselves
            response = Response(None if found == 204 else "no such file", status_code=found, media_type="text/plain")
        else:
            kind = TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")
            response = Response(data, headers={"content-type": kind, "cache-control": "no-store"})
        await response(scope, receive, send)
