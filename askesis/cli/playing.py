"""A person at a terminal (or a pipe) who plays an episode: lines in, observations out."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from askesis.types import Message, Session, Task, ToolCall, ToolSpec, Trace, assistant, nearest

HELP = """\
TOOL NAME=VALUE ...  call a tool; values as in a shell ("two words"), or JSON where no text is wanted
TOOL VALUE ...       the same, in the order of the tool's arguments
TOOL {"NAME": ...}   the same, as JSON
NAME=<<END           as a value: the lines that follow, up to END
/say TEXT            say something and call nothing, which ends the episode (a sub-agent's part: it is the report)
/tools, /task        what can be called; what is to be done
/quit                or Ctrl-D: stop here"""
_COMMANDS = ("help", "say", "tools", "task", "quit")


class BadLine(Exception):
    """A line that is no call; the message says why."""


class TerminalPlayer:
    """See `loop.playing.Player`. out: where everything goes that is meant for the person."""

    def __init__(self, *, out: TextIO) -> None:
        self._out = out
        self._console = Console(file=out, highlight=False, markup=False, soft_wrap=True)
        self._watched = sys.stdin.isatty()
        self._tools: Sequence[ToolSpec] = ()
        self._task: Task
        self._part: Task  # a sub-agent's, while it is played
        self._turn = 0

    def open(self, title: str, task: Task) -> None:
        """Say what is played."""
        self._task = self._part = task
        self._console.print(Text(title, style="bold"))

    async def begin(self, session: Session) -> None:
        """Show the task, or a sub-agent's, and the tools."""
        self._tools, self._part = session.tools, session.task
        if session.specialist:
            self._console.print(Text(f"\nnow as {session.specialist}, who knows only this:", style="bold"))
        self._console.print(Text(f"\n{session.task.prompt}\n"))
        self._show_tools()
        self._console.print(Text("/help: how to call them; /quit: stop", style="dim"))

    async def act(self) -> Message:
        """The next line that is a call, or the end."""
        self._turn += 1
        while True:
            line = await self._line(f"\n[{self._turn}/{self._task.limits.max_turns}] > ")
            if line is None:
                return assistant()
            if not line.strip():
                continue
            try:
                message = await self._understood(line.strip())
            except BadLine as error:
                self._console.print(Text(str(error), style="yellow"))
                continue
            if message is not None:
                return message

    async def hear(self, results: Sequence[Message], session: Session) -> None:
        """Show what a call gave."""
        self._tools, self._part = session.tools, session.task
        for result in results:
            self._console.print(Text(result.text))

    def finish(self, trace: Trace) -> None:
        """Show how it ended, and what it is paid."""
        print_end(trace, self._out)

    async def _understood(self, line: str) -> Message | None:
        """A message, or None where the line was for the terminal."""
        if not line.startswith("/"):
            return assistant(tool_calls=(await self._call(line),))
        command, _, rest = line[1:].partition(" ")
        if command == "say":
            return assistant(rest)
        if command == "quit":
            return assistant()
        if command not in _COMMANDS:
            raise BadLine(f"no command /{command}{nearest(command, _COMMANDS)}; /help lists them")
        if command == "tools":
            self._show_tools()
        else:
            self._console.print(Text(HELP if command == "help" else self._part.prompt))
        return None

    async def _call(self, line: str) -> ToolCall:
        if line.startswith("{"):
            given = parsed(line)
            if not isinstance(given.get("name"), str) or not isinstance(given.get("arguments", {}), dict):
                raise BadLine('expected {"name": "...", "arguments": {...}}')
            name, rest, arguments = given["name"], "", given.get("arguments", {})
        else:
            name, _, rest = line.partition(" ")
            arguments = None
        spec = next((tool for tool in self._tools if tool.name == name), None)
        if spec is None:
            names = [tool.name for tool in self._tools]
            raise BadLine(f"no tool {name!r}{nearest(name, names)} (tools: {', '.join(names)})")
        if arguments is None:
            arguments = read_arguments(spec, rest.strip())
        for key, value in arguments.items():
            if isinstance(value, str) and value.startswith("<<") and value[2:].isidentifier():
                arguments[key] = await self._here(value[2:])
        return ToolCall(id=f"call_{self._turn}", name=name, arguments=arguments)

    async def _here(self, end: str) -> str:
        lines: list[str] = []
        while (line := await self._line("... ")) is not None and line != end:
            lines.append(line + "\n")
        return "".join(lines)

    async def _line(self, prompt: str) -> str | None:
        """One line, without its end; None at the end of the input. The event loop goes on meanwhile."""
        if not self._watched:
            self._console.print(Text(prompt), end="")
        line = await _in_thread(self._read, prompt)
        if not self._watched:
            self._console.print(Text("" if line is None else line))
        return line

    def _read(self, prompt: str) -> str | None:
        if not self._watched:
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        try:
            return input(prompt)
        except EOFError:
            return None

    def _show_tools(self) -> None:
        for tool in self._tools:
            self._console.print(Text.assemble((signature(tool), "bold"), f"  {tool.description}"))


async def _in_thread(read: Callable[[str], str | None], prompt: str) -> str | None:
    """As `asyncio.to_thread`, in a thread that nobody waits for at the end: it may read for ever after Ctrl-C."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[str | None] = loop.create_future()

    def work() -> None:
        line = read(prompt)
        loop.call_soon_threadsafe(lambda: None if heard.done() else heard.set_result(line))

    threading.Thread(target=work, name="askesis-play", daemon=True).start()
    return await heard


def signature(tool: ToolSpec) -> str:
    """`replace(line: integer, text: string)`; what need not be given in brackets."""
    required = tool.parameters.get("required", ())
    said = []
    for name, schema in tool.parameters.get("properties", {}).items():
        kind = _kind(schema)
        said.append(f"{name}: {kind}" if name in required else f"[{name}: {kind}]")
    return f"{tool.name}({', '.join(said)})"


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return "|".join(map(_kind, schema["anyOf"]))
    kind = schema.get("type", "any")
    return "|".join(kind) if isinstance(kind, list) else str(kind)


def read_arguments(tool: ToolSpec, text: str) -> dict[str, Any]:
    """What stands after a tool's name, as its arguments. Raises `BadLine`."""
    if text.startswith("{"):
        return parsed(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadLine(f"{error}: put text with blanks or quotes between quotes") from None
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    found: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in properties:
            left = [name for name in properties if name not in found]
            if sign and key.isidentifier() and not (len(words) == 1 and left):
                raise BadLine(f"{tool.name} has no argument {key!r}{nearest(key, properties)}: {signature(tool)}")
            if not left:
                raise BadLine(f"{word!r} is one argument too many: {signature(tool)}")
            key, value = left[0], word
        found[key] = _value(properties[key], value)
    return found


def _value(schema: Any, text: str) -> Any:
    """Text where text is wanted, else JSON; what is neither stays text, and the tool says what it thinks of it."""
    if text in schema.get("enum", ()) or "string" in _kind(schema).split("|"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parsed(text: str) -> dict[str, Any]:
    """A JSON object. Raises `BadLine`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadLine(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadLine(f"not a JSON object: {text}")
    return value


def print_end(trace: Trace, out: TextIO) -> None:
    """How an episode ended and what it is paid."""
    console = Console(file=out, highlight=False, markup=False, soft_wrap=True)
    outcome = trace.outcome
    detail = f" ({outcome.detail})" if outcome.detail else ""
    turns = f"{trace.turns} turn{'s' * (trace.turns != 1)}"
    console.print(Text(f"\nended by {outcome.by}, {outcome.reason}{detail} after {turns}", style="bold"))
    if not outcome.learnable:
        console.print("the machinery ended it: nothing is paid, and no training would learn from it")
        return
    for term in trace.rewards:
        shown = f"{term.name:<20} {term.value:g}"
        console.print(Text(f"{shown:<32}" + (f"x {term.weight:g}" if term.weight else "reported only")))
        if term.evidence:
            console.print(Text(f"  {term.evidence}", style="dim"))
    console.print(Text(f"{'reward':<20} {trace.reward:g}", style="bold"))
