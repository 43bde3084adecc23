"""Files of the working tree: list, view, search, edit, write. What is wrong with a call is said, and changes nothing.

A file is edited by a piece of its text that is in it once: a model sees what it replaces, and an edit that does not fit
any more fails and does no harm. Searching runs in the sandbox, since a regular expression can be made to run for ever.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from askesis.tools.rendering import bounded
from askesis.types import ConfigError, RunLimits, Sandbox, Session, Tool, ToolResult, ToolSpec

MOST_LISTED = 200  # lines of a listing
MOST_LINES = 200  # lines of a view that names none
MOST_COLUMNS = 400  # characters of a line
MOST_MATCHES = 50
_AROUND = 2  # lines around an edit that are shown
_SEARCH_LIMITS = RunLimits(wall_s=5.0, cpu_s=5.0, memory=512 * 2**20, processes=2, output=2**16)

# Runs in the sandbox: the pattern is the agent's. What it prints is read as text, and only by the agent.
SEARCH = f"""
import fnmatch, json, os, re, sys
asked = json.load(sys.stdin)
try:
    pattern = re.compile(asked["pattern"])
except (re.error, OverflowError, RecursionError) as error:
    print(f"not a regular expression: {{error}}", file=sys.stderr)
    sys.exit(2)
top, found, files = asked["path"] or ".", 0, 0
def below():
    if not os.path.isdir(top):
        yield top
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            yield os.path.join(folder, name)
for path in below():
    shown = os.path.normpath(path)
    if not os.path.isfile(path) or not (fnmatch.fnmatch(shown, asked["glob"]) or
                                        fnmatch.fnmatch(os.path.basename(shown), asked["glob"])):
        continue
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        continue
    if b"\\0" in data[:8192]:
        continue
    hit = False
    for number, line in enumerate(data.decode("utf-8", "replace").split("\\n"), 1):
        if pattern.search(line.rstrip("\\r")):
            found, hit = found + 1, True
            if found <= {MOST_MATCHES}:
                line = line.strip()
                print(f"{{shown}}:{{number}}: {{line[:{MOST_COLUMNS}]}}{{'...' if len(line) > {MOST_COLUMNS} else ''}}")
    files += hit
if found > {MOST_MATCHES}:
    print(f"[the first {MOST_MATCHES} of {{found}} matching lines in {{files}} files; narrow the pattern or the path]")
"""


def file_tools(sandbox: Sandbox, *, read_only: bool = False, output: int = 8_000) -> tuple[Tool, ...]:
    """`list_files`, `view`, `search`, `edit` and `write` on a sandbox's working tree.

    read_only: without the last two. output: characters of an answer. Raises `ConfigError` for fewer than 200.
    """
    if output < 200:
        raise ConfigError(f"files: output={output}: expected 200 characters at least")
    calls: list[tuple[ToolSpec, Callable[[Sandbox, Mapping[str, Any]], Awaitable[ToolResult]]]] = [
        (_spec("list_files", "List the files below a folder.", {"path": _TEXT}), _list),
        (
            _spec(
                "view",
                "Show a file with line numbers.",
                {"path": _TEXT, "start": _LINE, "end": _LINE},
                "path",
            ),
            _view,
        ),
        (
            _spec(
                "search",
                "Find lines that match a Python regular expression.",
                {"pattern": _TEXT, "path": _TEXT, "glob": _TEXT},
                "pattern",
            ),
            _search,
        ),
        (
            _spec(
                "edit",
                "Replace a text that is in a file exactly once.",
                {"path": _TEXT, "old": _TEXT, "new": _TEXT},
                *("path", "old", "new"),
            ),
            _edit,
        ),
        (
            _spec("write", "Make a file, or replace all of it.", {"path": _TEXT, "content": _TEXT}, "path", "content"),
            _write,
        ),
    ]
    return tuple(_FileTool(spec, sandbox, call, output) for spec, call in calls[: 3 if read_only else 5])


_TEXT: dict[str, Any] = {"type": "string"}
_LINE: dict[str, Any] = {"type": "integer", "minimum": 1}


def _spec(name: str, description: str, properties: dict[str, Any], *required: str) -> ToolSpec:
    parameters = {"type": "object", "properties": properties, "additionalProperties": False}
    return ToolSpec(
        name=name, description=description, parameters=parameters | ({"required": list(required)} if required else {})
    )


@dataclass(frozen=True, slots=True)
class _FileTool:
    spec: ToolSpec
    sandbox: Sandbox
    call: Callable[[Sandbox, Mapping[str, Any]], Awaitable[ToolResult]]
    output: int

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        path = str(args.get("path", ""))
        if "\0" in path:
            return _wrong("a path has no NUL in it")
        try:
            result = await self.call(self.sandbox, args)
        except OSError as error:  # what a file system says of the agent's own request
            return _wrong(f"{path or '.'}: {error.strerror or error}")
        return ToolResult(text=bounded(result.text, self.output), error=result.error)


def _wrong(text: str) -> ToolResult:
    return ToolResult(text=text, error=True)


async def _list(sandbox: Sandbox, args: Mapping[str, Any]) -> ToolResult:
    folder = _plain(str(args.get("path", "")))
    paths = [path for path in await sandbox.paths() if not folder or path.startswith(folder + "/")]
    if not paths:
        if folder and folder in await sandbox.paths():
            return ToolResult(text=folder)
        return _wrong(f"no files below {folder}") if folder else ToolResult(text="no files")
    if len(paths) <= MOST_LISTED:
        return ToolResult(text="\n".join(paths))
    inside = len(folder) + 1 if folder else 0
    found = Counter(path[: inside + len(path[inside:].partition("/")[0])] for path in paths)
    folders = {path[: inside + len(path[inside:].partition("/")[0])] for path in paths if "/" in path[inside:]}
    lines = [f"{name}/ [{number} files]" if name in folders else name for name, number in sorted(found.items())]
    rest = f"\n[{len(lines) - MOST_LISTED} more]" if len(lines) > MOST_LISTED else ""
    return ToolResult(text="\n".join(lines[:MOST_LISTED]) + rest)


async def _view(sandbox: Sandbox, args: Mapping[str, Any]) -> ToolResult:
    path, data = str(args["path"]), await sandbox.read(str(args["path"]))
    if b"\0" in data[:8192]:
        return _wrong(f"{path} is no text: {len(data)} bytes")
    lines = _lines(data.decode("utf-8", "replace"))
    start = int(args.get("start", 1))
    end = int(args.get("end", start + MOST_LINES - 1))
    if not lines:
        return ToolResult(text=f"[{path} is empty]")
    if start > len(lines) or end < start:
        return _wrong(f"no lines {start} to {end}: {path} has {len(lines)} lines")
    end = min(end, len(lines), start + 10 * MOST_LINES - 1)
    rest = f"\n[lines {start} to {end} of {len(lines)}]" if (start, end) != (1, len(lines)) else ""
    return ToolResult(text=numbered(lines[start - 1 : end], start) + rest)


async def _search(sandbox: Sandbox, args: Mapping[str, Any]) -> ToolResult:
    path = str(args.get("path", ""))
    if path.startswith("/") or ".." in path.split("/"):
        return _wrong(f"{path}: leads out of the working tree: expected a relative path without '..'")
    asked = {"pattern": str(args["pattern"]), "path": path, "glob": str(args.get("glob", "*"))}
    result = await sandbox.python(SEARCH, stdin=json.dumps(asked).encode(), limits=_SEARCH_LIMITS)
    if result.ended != "exit":
        return _wrong(f"the search was stopped ({result.ended}); make the pattern simpler or the path narrower")
    if result.exit_code:
        said = result.stderr.strip().splitlines()
        return _wrong(said[-1] if said else f"the search ended with {result.exit_code}")
    return ToolResult(text=result.stdout.rstrip("\n") or "no lines match")


async def _edit(sandbox: Sandbox, args: Mapping[str, Any]) -> ToolResult:
    path, old, new = str(args["path"]), str(args["old"]), str(args["new"])
    if not old:
        return _wrong("`old` is empty; to make a file, use write")
    text = (await sandbox.read(path)).decode("utf-8", "surrogateescape")
    if old not in text and "\r\n" in text:  # models write line feeds
        old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
    found = text.count(old)
    if found != 1:
        where = [str(text.count("\n", 0, at) + 1) for at in _places(text, old)]
        seen = f"it is there {found} times, from lines {', '.join(where)}: give more of the text around it"
        return _wrong(f"{path} not changed: " + (seen if found else "`old` is not in it; view it again"))
    if old == new:
        return _wrong(f"{path} not changed: `old` and `new` are the same")
    at = text.index(old)
    after = text[:at] + new + text[at + len(old) :]
    await sandbox.write(path, after.encode("utf-8", "surrogateescape" if _escaped(after) else "replace"))
    first = after.count("\n", 0, at)
    lines, begin = _lines(after), max(0, first - _AROUND)
    shown = [line.encode("utf-8", "replace").decode() for line in lines[begin : first + new.count("\n") + 1 + _AROUND]]
    return ToolResult(text=f"{path} changed:\n{numbered(shown, begin + 1)}")


async def _write(sandbox: Sandbox, args: Mapping[str, Any]) -> ToolResult:
    path, content = str(args["path"]), str(args["content"])
    await sandbox.write(path, content.encode("utf-8", "replace"))
    return ToolResult(text=f"{path} written: {len(_lines(content))} lines")


def numbered(lines: list[str], start: int) -> str:
    """Lines behind their numbers, each cut where it is very long."""
    width = len(str(start + len(lines) - 1))
    cut = (
        line if len(line) <= MOST_COLUMNS else f"{line[:MOST_COLUMNS]}... [{len(line)} characters]" for line in lines
    )
    return "\n".join(f"{number:{width}} {line}" for number, line in enumerate(cut, start))


def _lines(text: str) -> list[str]:
    """As editors count them: by line feeds alone, and the last one ends a line."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _places(text: str, part: str) -> list[int]:
    places: list[int] = []
    at = text.find(part)
    while at >= 0 and len(places) < 5:
        places.append(at)
        at = text.find(part, at + len(part))
    return places


def _escaped(text: str) -> bool:
    """Whether all surrogates in it stand for bytes of the file."""
    return all("\udc80" <= character <= "\udcff" for character in text if "\ud800" <= character <= "\udfff")


def _plain(path: str) -> str:
    """A folder as the tree's paths name it."""
    return "/".join(name for name in path.split("/") if name not in ("", "."))
