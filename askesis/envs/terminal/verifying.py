"""The verdict on a task of `terminal`: what was found in a sandbox that no agent has touched, compared here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from askesis.envs.terminal.guest import ASK, EXAMINE
from askesis.sandbox import LazyPool
from askesis.types import RunLimits, RunResult, Sandbox, SandboxError, Snapshot, VerifierError

LIMITS = RunLimits(wall_s=30.0, cpu_s=15.0, memory=512 * 2**20, processes=32, file_size=2**23, output=2**19)


def answered(check: Mapping[str, Any], said: str) -> bool:
    """Whether exactly the wanted values were said: in order, with commas between, blanks around them ignored."""
    values = [value.strip() for value in said.split(",")]
    return bool([value.removeprefix("./") if check["paths"] else value for value in values] == check["want"])


async def left(check: Mapping[str, Any], snapshot: Snapshot, sandboxes: LazyPool) -> bool:
    """Whether a tree is as it should be. Raises `VerifierError` where the machinery fails."""
    paths = [*check["files"], *check["gone"], *check["links"]]
    asked = json.dumps({"paths": paths, "archives": [*check["archives"]]}).encode()
    try:
        fresh = await sandboxes.acquire(snapshot)
        try:
            result = await fresh.python(EXAMINE, stdin=asked, limits=LIMITS)
        finally:
            await fresh.close()
    except SandboxError as error:
        raise VerifierError(f"terminal: the verifier's sandbox failed: {error}") from error
    found = _lines(result)
    if len(found) != len(paths) + len(check["archives"]):
        return False
    by_path = dict(zip((*paths, *check["archives"]), found, strict=True))
    return (
        all(_is_file(by_path[path], want, check["modes"].get(path)) for path, want in check["files"].items())
        and all(by_path[path][0] == "missing" for path in check["gone"])
        and all(by_path[path][0] == "link" and _leads(by_path[path][1], to) for path, to in check["links"].items())
        and all(by_path[path] == ["tar", inside] for path, inside in check["archives"].items())
    )


def _is_file(found: list[Any], digest: str, mode: str | None) -> bool:
    return found[0] == "file" and found[2] == digest and mode in (None, found[1])


def _leads(target: object, place: str) -> bool:
    """Whether a link at the top of the tree leads to `place`, however that is written."""
    written = str(target).removeprefix("/home/agent/").rstrip("/")
    return "/".join(part for part in written.split("/") if part != ".") == place


async def served(check: Mapping[str, Any], snapshot: Snapshot, sandboxes: LazyPool) -> bool:
    """Whether the service in a tree, started anew on other data, answers as it should.

    Raises `VerifierError` where the machinery fails.
    """
    asked = {key: check[key] for key in ("start", "port", "protocol", "queries")}
    try:
        fresh = await sandboxes.acquire(snapshot)
        try:
            if not await _replaced(fresh, check["replaced"]):
                return False
            command = ["python3", "-I", "-c", ASK]
            result = await fresh.run(command, stdin=json.dumps(asked).encode(), limits=LIMITS)
        finally:
            await fresh.close()
    except SandboxError as error:
        raise VerifierError(f"terminal: the verifier's sandbox failed: {error}") from error
    end = "\n" if check["protocol"] == "line" else ""
    return _lines(result) == [want + end for want in check["want"]]


async def _replaced(sandbox: Sandbox, files: Mapping[str, str]) -> bool:
    """Put the data in place that nobody has seen; False where the agent's tree has no place for it."""
    try:
        for path, content in files.items():
            await sandbox.write(path, content.encode())
    except OSError:
        return False
    return True


def _lines(result: RunResult) -> list[Any]:
    """What a program printed, a value a line; nothing where it did not come to its end."""
    if result.ended != "exit" or result.exit_code != 0 or result.truncated:
        return []
    try:
        return [json.loads(line) for line in result.stdout.splitlines()]
    except (ValueError, RecursionError):
        return []
