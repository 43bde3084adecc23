"""vLLM's own server as a child of this process, in the environment in which vLLM is installed."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from askesis.inference.parents import end_with_parent
from askesis.inference.vllm.local import INSTALL
from askesis.inference.vllm.remote import Remote
from askesis.inference.vllm.settings import ENVIRONMENT, VLLMSettings
from askesis.inference.vllm.transport import Ask, Part
from askesis.types import ConfigError, EngineError, EngineGone

SERVED = ("--enable-scale-out", "--disable-log-stats", "--disable-uvicorn-access-log")
"""Flags of a server, beside `VLLMSettings.flags`: the first opens the routes for tokens."""
_LAST_WORDS = 4000
_GRACE_S = 15.0
_DYING_S = 0.2  # between a connection that fails and the end of the process that had it


class Server:
    """A `Transport` that starts vLLM's server on a port of its own on this machine and stops it at the end.

    python: of the environment that has vLLM; what it lacks of Askesis is found on its path. start_s: seconds until it
    must answer. env: further variables. log: where its output goes (default: a file that is removed).
    """

    def __init__(
        self,
        settings: VLLMSettings,
        *,
        python: str | Path,
        start_s: float = 600.0,
        env: Mapping[str, str] | None = None,
        log: str | Path | None = None,
    ) -> None:
        self._settings, self._python, self._start_s = settings, Path(python).expanduser(), start_s
        self._env, self._log_path = dict(env or {}), None if log is None else Path(log)
        self._process: subprocess.Popen[bytes] | None = None
        self._remote: Remote | None = None
        self._log: Any = None
        self._url = self._key = ""

    @property
    def where(self) -> str:
        """For messages."""
        return self._remote.where if self._remote is not None else "the vLLM server"

    @property
    def url(self) -> str:
        """Where it answers, once it was started."""
        return self._url

    @property
    def key(self) -> str:
        """What it wants to hear from who asks for tokens."""
        return self._key

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Of the server."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises `EngineError`, `ConfigError`."""
        if self._remote is not None:
            return
        if not self._python.is_file():
            raise ConfigError(
                f"vLLM: {self._python} is no file; expected the python of an environment with vLLM (python -m venv "
                f".venv-vllm; .venv-vllm/bin/{INSTALL})"
            )
        port, key = _free_port(), secrets.token_hex(16)
        where = self._log_path
        self._log = tempfile.TemporaryFile() if where is None else where.open("a+b")  # noqa: SIM115
        # the module, since `vllm serve` wants a distribution of that name, which the builds for CPUs do not have
        command = [str(self._python), "-m", "vllm.entrypoints.openai.api_server", "--model", self._settings.checkpoint]
        command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", key, *SERVED]
        self._process = self._spawn([*command, *self._settings.flags()])
        self._url, self._key = f"http://127.0.0.1:{port}", key
        remote = Remote(self._url, key=key)
        try:
            await self._answers(remote)
        except BaseException:
            await remote.close()
            await self.close()
            raise
        self._remote = remote

    async def restart(self) -> None:
        """End what is left of it, and start another."""
        await self.close()
        await self.start()

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,  # and its workers with it (`worker`)
        )

    async def _answers(self, remote: Remote) -> None:
        deadline = time.monotonic() + self._start_s
        while True:
            if self.process.poll() is not None:
                raise EngineError(f"vLLM server ended with {self.process.returncode} while it started:\n{self._said()}")
            try:
                await remote.start()
                return
            except EngineError as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"vLLM server did not answer within {self._start_s:.0f} s ({error}):\n{self._said()}"
                    ) from error
            await asyncio.sleep(0.5)

    def _environment(self) -> dict[str, str]:
        home = str(Path(__file__).parents[3])  # where the package lies, which workers import from
        path = os.pathsep.join(one for one in (home, os.environ.get("PYTHONPATH", "")) if one)
        return ENVIRONMENT | dict(os.environ) | {"PYTHONPATH": path, "VLLM_SERVER_DEV_MODE": "1"} | self._env

    def _said(self) -> str:
        self._log.flush()
        self._log.seek(0)
        text: str = self._log.read().decode(errors="replace")
        return text[-_LAST_WORDS:].strip() or "(it wrote nothing)"

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Say so where a request failed because the server has ended."""
        try:
            yield
        except EngineError as error:
            process = self._process
            if process is None or isinstance(error, EngineGone):
                raise
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DYING_S)
                raise EngineGone(f"the vLLM server ended with {process.returncode}:\n{self._said()}") from error
            raise

    def _alive(self) -> Remote:
        if self._remote is None:
            raise EngineError("the vLLM server is not running: it was not started, or was closed")
        if self._process is not None and self._process.poll() is not None:
            raise EngineGone(f"the vLLM server ended with {self._process.returncode}:\n{self._said()}")
        return self._remote

    async def sample(self, ask: Ask, *, name: str, stream: bool) -> AsyncGenerator[Part, None]:
        """See `Transport.sample`."""
        with self._blamed():
            async with aclosing(self._alive().sample(ask, name=name, stream=stream)) as parts:
                async for part in parts:
                    yield part

    async def _ask(self, method: str, *args: Any) -> Any:
        with self._blamed():
            return await getattr(self._alive(), method)(*args)

    async def pause(self) -> None:
        """See `Transport.pause`."""
        await self._ask("pause")

    async def resume(self) -> None:
        """See `Transport.resume`."""
        await self._ask("resume")

    async def init_transfer(self, info: Mapping[str, Any]) -> None:
        """See `Transport.init_transfer`."""
        await self._ask("init_transfer", info)

    async def begin_update(self) -> None:
        """See `Transport.begin_update`."""
        await self._ask("begin_update")

    async def update(self, info: Mapping[str, Any]) -> None:
        """See `Transport.update`."""
        await self._ask("update", info)

    async def finish_update(self) -> None:
        """See `Transport.finish_update`."""
        await self._ask("finish_update")

    async def set_version(self, version: str) -> None:
        """See `Transport.set_version`."""
        await self._ask("set_version", version)

    async def call(self, method: str, *args: str) -> list[Any]:
        """See `Transport.call`."""
        answers: list[Any] = await self._ask("call", method, *args)
        return answers

    async def close(self) -> None:
        """Stop the server and all that it started."""
        remote, self._remote = self._remote, None
        if remote is not None:
            await remote.close()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process)
        if self._log is not None:
            self._log.close()
            self._log = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started is in its session
