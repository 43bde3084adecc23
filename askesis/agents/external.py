"""A program that we did not write: it runs in the task's sandbox and asks for its turns by URL."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from askesis.types import ConfigError, Outcome, RunLimits, RunResult, SandboxError, Session

PLACES = ("python", "prompt", "url", "key")
KEY = "askesis"  # SDKs demand one; who comes through the door needs none
MODEL = "policy"
_DAY_S = 86_400.0  # the sandbox's wall limit: the episode's own is kept by the session, which knows the engine's share
_LOG = 4000  # characters of stdout and of stderr that are kept


class ExternalAgent:
    """Start `command` in the working tree; its requests become the episode's turns, its exit is the end.

    command: a list, or a string that is split as a shell would. In it, and in `env`, `{python}` is the interpreter
    that runs Askesis, `{prompt}` the task's prompt (which is also what the program reads on standard input), `{url}`
    the episode's endpoint and `{key}` a key for it. files: copied into the working tree before: names there by paths
    here, or a list of paths, each under its own name. env: variables on top of the usual ones for OpenAI's and
    Anthropic's SDKs. policy_exits: exit codes by which the program says that the policy, not the program, has failed.
    memory: bytes, cpu_s: seconds of all its processes, processes: most at once (threads count), output: bytes of
    stdout and of stderr. How long it may take in all is the task's limit `wall_s`, without the time in the engine.

    Raises `ConfigError` for senseless options. Its name has a hash of the command, the files and the variables.
    """

    def __init__(
        self,
        *,
        command: str | Sequence[str],
        files: Mapping[str, str] | Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        policy_exits: Sequence[int] = (),
        memory: int = 1024 * 2**20,
        cpu_s: float = 120.0,
        processes: int = 64,
        output: int = 64 * 2**10,
    ) -> None:
        try:
            words = shlex.split(command) if isinstance(command, str) else [*command]
        except ValueError as error:
            raise ConfigError(f"agent external: command {command!r} cannot be split: {error}") from None
        if not words or not all(isinstance(word, str) for word in words):
            raise ConfigError(f"agent external: command={command!r}: expected a program and its arguments, as texts")
        if any(code not in range(1, 256) for code in policy_exits):
            raise ConfigError(f"agent external: policy_exits={list(policy_exits)}: expected exit codes from 1 to 255")
        for key, value in (("memory", memory), ("cpu_s", cpu_s), ("processes", processes), ("output", output)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"agent external: {key}={value!r}: expected a number above 0")
        self._command, self._env = words, _texts(env or {}, "env")
        named = files if isinstance(files, Mapping) else {Path(file).name: file for file in files}
        self._files = {name: _content(path) for name, path in _texts(named, "files").items()}
        self._policy_exits = frozenset(policy_exits)
        self._limits = RunLimits(
            wall_s=_DAY_S, cpu_s=cpu_s, memory=memory, processes=processes, file_size=2**26, output=output
        )
        digest = hashlib.sha256(json.dumps([words, sorted(self._env.items())]).encode())
        for name, content in sorted(self._files.items()):
            digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
        self.name = f"external@1+{digest.hexdigest()[:8]}"

    async def run(self, session: Session) -> None:
        """Play one episode. The program is killed when the episode ends by a limit or a failure; its tree is kept."""
        sandbox, values = session.sandbox, self._values(session)
        for name, content in self._files.items():
            await sandbox.write(name, content)
        env = _variables(session.url) | {key: _filled(text, values) for key, text in self._env.items()}
        stop = asyncio.Event()
        watching = asyncio.create_task(_watch(session, stop), name="askesis-external-watch")
        try:
            result = await sandbox.run(
                [_filled(word, values) for word in self._command],
                stdin=session.task.prompt.encode(),
                limits=self._limits,
                env=env,
                door=session.door,
                stop=stop,
            )
        except SandboxError as error:
            session.end(Outcome(by="sandbox", reason="error", detail=str(error)))
            return
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        session.end(self._outcome(result), log=_log(result))

    def _values(self, session: Session) -> dict[str, str]:
        prompt = session.task.prompt.replace("\0", "")
        return dict(zip(PLACES, (sys.executable, prompt, f"{session.url}/v1", KEY), strict=True))

    def _outcome(self, result: RunResult) -> Outcome | None:
        """Who ended a program that nobody stopped; None where it left of itself and all was well."""
        code = result.exit_code
        if result.ended in ("wall", "cpu", "memory"):
            reason = {"wall": "wall_s", "cpu": "cpu_s", "memory": "memory"}[result.ended]
            return Outcome(by="limit", reason=reason, detail=f"the program went beyond its {result.ended} limit")
        if result.ended == "killed":
            return Outcome(by="agent", reason="killed", detail="the program was killed by a signal that was not ours")
        if code == 0:
            return None
        if code in self._policy_exits:
            return Outcome(by="policy", reason=f"exit_{code}", detail="the program says that the policy has failed")
        last = (result.stderr.strip() or result.stdout.strip()).rpartition("\n")[2][-300:]
        reason = "not_started" if code in (126, 127) else "crashed"
        return Outcome(
            by="agent", reason=reason, detail=f"{self._command[0]} exited with {code}: {last or 'no output'}"
        )


async def _watch(session: Session, stop: asyncio.Event) -> None:
    await session.over()
    stop.set()


def _variables(url: str) -> dict[str, str]:
    """Where SDKs look for the endpoint. Anthropic's adds `/v1` itself."""
    return {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": MODEL,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_MODEL": MODEL,
        "PYTHONUNBUFFERED": "1",  # what it has printed when it is killed is there to be read
    }


def _filled(text: str, values: Mapping[str, str]) -> str:
    for place, value in values.items():
        text = text.replace("{" + place + "}", value)
    return text


def _texts(values: Any, what: str) -> dict[str, str]:
    if not isinstance(values, Mapping) or not all(isinstance(word, str) for pair in values.items() for word in pair):
        raise ConfigError(f"agent external: {what}={values!r}: expected texts by name")
    return dict(values)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"agent external: files: cannot read {path} (from {Path.cwd()}): {reason}") from error


def _log(result: RunResult) -> str:
    """What it wrote, the ends of it, and how it ended."""
    parts = [f"[{result.ended}, exit code {result.exit_code}, {result.wall_s:.1f} s]"]
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        if text:
            cut = f"[{len(text) - _LOG} characters left out]\n" if len(text) > _LOG else ""
            parts.append(f"--- {name}\n{cut}{text[-_LOG:]}")
    return "\n".join(parts)
