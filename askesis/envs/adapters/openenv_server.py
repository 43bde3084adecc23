"""A server of OpenEnv's that we start: an application or an environment's class, on a port of this machine alone.

It may run in an interpreter of its own, since the package that it needs wants other versions of much else than we do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from askesis.types import EnvError

_LAST_WORDS = 400
_LOOK_S = 0.05
# The application, or one made of a class by what its `step` is annotated with; it ends with whoever started it.
_SERVE = """
import importlib, inspect, os, sys, threading, time, typing
sys.path.insert(0, os.getcwd())
def watch(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
place, name, port, sessions = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
app = getattr(importlib.import_module(place), name)
if inspect.isclass(app):
    from openenv.core.env_server.http_server import create_fastapi_app
    hints = typing.get_type_hints(app.step)
    action = next(hint for key, hint in hints.items() if key not in ("return", "timeout_s"))
    shared = getattr(app, "SUPPORTS_CONCURRENT_SESSIONS", False)
    app = create_fastapi_app(app, action, hints["return"], max_concurrent_envs=sessions if shared else 1)
import uvicorn
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
"""


class Served:
    """A server that is started when its address is first needed, and anew where it has ended.

    target: `package.module:app` or `package.module:Class`. python: the interpreter. folder: where it starts, and finds
    its modules. sessions: episodes at once, where we make the application.
    """

    def __init__(self, target: str, *, python: str, folder: str, sessions: int, start_s: float) -> None:
        self.what = f"openenv:{target}"
        self._target, self._python, self._folder = target, python or sys.executable, folder or "."
        self._sessions, self._start_s = sessions, start_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None
        self._url = ""
        self._turn = threading.Lock()  # many episodes ask at once

    def url(self) -> str:
        """Its address, once it answers. Raises `EnvError` where it does not within `start_s`, or ends before."""
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._start()
            return self._url

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place, _, name = self._target.partition(":")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        try:
            self._process = subprocess.Popen(
                [self._python, "-c", _SERVE, place, name, str(port), str(self._sessions)],
                cwd=Path(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            raise EnvError(f"{self.what}: its server could not be started with {self._python}: {error}") from error
        self._url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + self._start_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                said = self._last_words()
                code = self._process.returncode
                self.close()
                raise EnvError(f"{self.what}: its server ended with exit code {code}{said}")
            with contextlib.suppress(EnvError):
                fetched(f"{self._url}/health", 1.0)
                return
            time.sleep(_LOOK_S)
        said = self._last_words()
        self.close()
        raise EnvError(f"{self.what}: its server did not answer within {self._start_s:g} s{said}")

    def _last_words(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_WORDS))
        words = self._log.read().decode("utf-8", "replace").strip()
        return f"; its last words: {words}" if words else ""

    def close(self) -> None:
        """Kill it and all that it started. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None


def local(url: str) -> bool:
    """Whether an address is this machine's own, which no proxy stands before."""
    return (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")


def fetched(url: str, seconds: float) -> dict[str, Any]:
    """The JSON object at an address. Raises `EnvError`."""
    proxies = urllib.request.ProxyHandler({} if local(url) else None)
    try:
        with urllib.request.build_opener(proxies).open(url, timeout=seconds) as answer:
            found = json.loads(answer.read(2**24))
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise EnvError(f"{url}: {error}") from error
    if not isinstance(found, dict):
        raise EnvError(f"{url} gave a {type(found).__name__}, expected an object")
    return found
