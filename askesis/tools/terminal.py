"""A persistent terminal: a shell on a pty in the sandbox, which lives from call to call with all that it started.

A command has ended when the shell's next prompt is there. The prompt is nothing that a person would see: an escape
sequence with the exit code and a number that counts up, which is cut out of what the agent reads. Who prints such a
sequence himself ends his own call early, with an exit code of his making, and deceives nobody else: no reward and no
outcome depends on it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from askesis.tools.rendering import Screen, bounded, flat
from askesis.types import ConfigError, RunLimits, Sandbox, Session, Terminal, Tool, ToolResult, ToolSpec

SHELL = ("/bin/bash", "--norc", "--noprofile", "--noediting", "-i")
# The prompt: the last exit code, a terminal as it should be but for echo, which programs get back, and nothing of this
# in their environment.
_PROMPT = (
    "_status=$?; export -n PROMPT_COMMAND PS0 PS1 PS2 HISTFILE HISTCONTROL; stty sane -echo iutf8; "
    r"printf '\033]7331;%d;%d\007' $_status $((_prompts += 1))"
)
_MARKER = re.compile(rb"\x1b\]7331;(\d{1,3});(\d{1,15})\x07")
_KEYS = {
    "enter": b"\n",
    "tab": b"\t",
    "escape": b"\x1b",
    "backspace": b"\x7f",
    "up": b"\x1b[A",
    "down": b"\x1b[B",
    "right": b"\x1b[C",
    "left": b"\x1b[D",
    "home": b"\x1b[H",
    "end": b"\x1b[F",
    "page_up": b"\x1b[5~",
    "page_down": b"\x1b[6~",
    "delete": b"\x1b[3~",
} | {f"ctrl-{chr(letter)}": bytes([letter - 96]) for letter in range(ord("a"), ord("z") + 1)}
_PATTERN = f"^({'|'.join(key for key in _KEYS if not key.startswith('ctrl-'))}|ctrl-[a-z])$"
_ERASE = b"\x15"  # what was typed at the prompt and never sent
_LINE = 3_000  # bytes of a line that we type: the kernel cuts those of 4096
_KEPT = 2**15  # bytes of a call's output that are kept from its beginning, and as many from its end
_LOOK_S = 0.1  # the longest time between two looks at a terminal
_START_S = 10.0

State = Literal["prompt", "running", "gone"]


@dataclass(slots=True)
class _Output:
    """What came in one call: the head and the tail of it."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    lost: int = 0

    def add(self, data: bytes) -> None:
        room = _KEPT - len(self.head)
        self.head += data[:room] if room > 0 else b""
        self.tail += data[max(0, room) :]
        if len(self.tail) > 2 * _KEPT:
            self.lost += len(self.tail) - _KEPT
            del self.tail[:-_KEPT]

    def text(self) -> str:
        if not self.lost:
            return flat(bytes(self.head + self.tail))
        return f"{flat(bytes(self.head))}\n[... {self.lost} bytes left out ...]\n{flat(bytes(self.tail))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a call showed. state: the prompt is back, the program still runs, or the shell is gone (and how it ended).

    exit_code: of the command, where the prompt is back. refused: what was typed was not taken, for want of a reader.
    """

    text: str
    state: State
    exit_code: int | None = None
    gone: str = ""
    refused: bool = False


class LiveShell:
    """One episode's terminal, opened when it is first used, and anew after its shell has ended.

    rows, columns: its size. limits: of the shell with all that it starts (None: the sandbox's). output: characters of a
    call's text. quiet_s: how long nothing may come until what keys brought about counts as finished. screens: programs
    that paint the screen (an editor, a pager) are shown as they look; without it they are told that the terminal is
    dumb. Raises `ConfigError` for senseless values, `MissingExtra` for `screens` without pyte.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        rows: int = 24,
        columns: int = 80,
        limits: RunLimits | None = None,
        output: int = 4_000,
        quiet_s: float = 0.3,
        screens: bool = False,
    ) -> None:
        if rows < 2 or columns < 10 or output < 100 or quiet_s <= 0:
            raise ConfigError(
                f"terminal: rows={rows}, columns={columns}, output={output}, quiet_s={quiet_s}: expected at least 2, "
                "10, 100, and more than 0"
            )
        self._sandbox, self._limits, self._output, self._quiet_s = sandbox, limits, output, quiet_s
        self._rows, self._columns = rows, columns
        self._screen = Screen(rows, columns) if screens else None
        self._terminal: Terminal | None = None
        self._pending = b""  # bytes that may be the beginning of a marker
        self._prompts = 0  # seen so far
        self._dropped = 0  # bytes that the terminal has not kept
        self._turn = asyncio.Lock()
        self.running = ""  # the command whose prompt has not come back

    async def run(self, command: str, *, timeout_s: float) -> Said:
        """Run a command line, or several lines, and wait for the prompt. One that still runs is not waited for twice.

        Raises `RuntimeError` where a program runs in the foreground: it would get the command as its input.
        """
        async with self._turn:
            terminal = await self._opened()
            await self._passed(terminal)
            if self.running:
                raise RuntimeError(self.running)
            self.running = command
            deadline = asyncio.get_running_loop().time() + timeout_s
            for line in typed(command):
                await self._type(terminal, _ERASE + line)
                said = await self._wait(terminal, deadline, quiet_s=None)
                if said.state != "prompt":
                    break
            return said

    async def press(self, data: bytes, *, wait_s: float) -> Said:
        """Type, and wait until the prompt is back, nothing more comes, or `wait_s` are over. b"" only waits."""
        async with self._turn:
            terminal = await self._opened()
            taken = True
            if data == _KEYS["ctrl-c"]:
                await terminal.interrupt()
            elif data:
                taken = await self._type(terminal, data)
            if not self.running and b"\n" in data:  # a command that was typed
                self.running = data.decode(errors="replace")
            deadline = asyncio.get_running_loop().time() + wait_s
            said = await self._wait(terminal, deadline, quiet_s=self._quiet_s, patient=not data)
            return said if taken else replace(said, refused=True)

    async def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        async with self._turn:
            self._rows, self._columns = rows, columns
            if self._screen is not None:
                self._screen.resize(rows, columns)
            if self._terminal is not None and self._terminal.alive:
                await self._terminal.resize(rows, columns)

    async def close(self) -> None:
        """End the shell and all that runs in it. Idempotent."""
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            await terminal.close()

    async def _type(self, terminal: Terminal, data: bytes) -> bool:
        """Whether it could be typed. A program that reads nothing, or is gone, is no failure of ours."""
        try:
            await terminal.send(data)
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    async def _opened(self) -> Terminal:
        """The terminal; a new one with its first prompt where there is none that lives."""
        if self._terminal is not None and self._terminal.alive:
            return self._terminal
        await self.close()
        environment = {
            "TERM": "xterm" if self._screen is not None else "dumb",
            "PS1": "",
            "PS2": "",
            "PS0": "$(stty echo)",
            "PROMPT_COMMAND": _PROMPT,
            "HISTFILE": "",
            "HISTCONTROL": "ignorespace",
            "PAGER": "cat",
        }
        terminal = await self._sandbox.terminal(
            SHELL, rows=self._rows, columns=self._columns, limits=self._limits, env=environment
        )
        self._terminal, self._pending, self._prompts, self.running = terminal, b"", 0, ""
        self._dropped = 0
        await self._wait(terminal, asyncio.get_running_loop().time() + _START_S, quiet_s=None)
        return terminal

    async def _passed(self, terminal: Terminal) -> None:
        """Take what came since the last call: the next command does not show it, but prompts in it count."""
        if self.running:
            await self._wait(terminal, 0.0, quiet_s=None)
        else:
            self._take(terminal, await terminal.read(wait_s=0.0, quiet_s=0.0), _Output())

    async def _wait(self, terminal: Terminal, deadline: float, *, quiet_s: float | None, patient: bool = False) -> Said:
        """Read until the prompt comes, the time is over, or (with `quiet_s`) nothing more comes.

        patient: nothing more can only come after something.
        """
        clock, output, look_s = asyncio.get_running_loop().time, _Output(), 0.002
        last, code = math.inf if patient else clock(), None
        state: State = "running"
        while state == "running":
            left_s = deadline - clock()
            data = await terminal.read(wait_s=max(0.0, min(left_s, look_s)), quiet_s=look_s)
            if data:
                last, look_s = clock(), 0.002
                code = self._take(terminal, data, output)
            now = clock()
            if code is not None:
                state = "prompt"
            elif not terminal.alive:
                self._take(terminal, await terminal.read(wait_s=0.0, quiet_s=0.0), output)
                state = "gone"
            elif now >= deadline or (quiet_s is not None and now - last >= quiet_s):
                break
            look_s = min(_LOOK_S, 2 * look_s)
        if state != "running":
            self.running = ""
        how = "" if state != "gone" or terminal.ended in (None, "exit") else str(terminal.ended)
        return Said(text=self._shown(output), state=state, exit_code=code, gone=how)

    def _take(self, terminal: Terminal, data: bytes, output: _Output) -> int | None:
        """Add to a call's output what is no prompt; the exit code that a prompt which is due came with.

        Due is the next one by its number; where the terminal has dropped output, a later one.
        """
        data, code, at = self._pending + data, None, 0
        skipped, self._dropped = terminal.dropped != self._dropped, terminal.dropped
        for match in _MARKER.finditer(data):
            output.add(data[at : match.start()])
            at = match.end()
            number = int(match[2])
            if number == self._prompts + 1 or (skipped and number > self._prompts):
                self._prompts, code = number, int(match[1])
        rest = data[at:]
        begun = rest.rfind(b"\x1b", max(0, len(rest) - 64))
        held = begun >= 0 and re.fullmatch(rb"\x1b(?:\][0-9;]*)?", rest[begun:]) is not None
        self._pending = rest[begun:] if held and code is None else b""
        rest = rest[: len(rest) - len(self._pending)]
        output.add(rest)
        if self._screen is not None:
            self._screen.feed(data[: len(data) - len(self._pending)][-(2**18) :])
        return code

    def _shown(self, output: _Output) -> str:
        if self._screen is not None and self._screen.shown:
            return self._screen.text()
        return bounded(output.text().strip("\n"), self._output)


def typed(command: str) -> list[bytes]:
    """The lines that make the shell run `command`, none longer than a terminal takes.

    `eval` of a quoted text: so a missing quote is an error and not a shell that waits for the rest, a command of many
    lines has one prompt, and what is typed is never a key (control characters become what they stand for in the text).
    """
    quoted, parts, size = "", [], 0
    for character in command:
        piece = _QUOTED.get(character) or (f"\\x{ord(character):02x}" if character < " " else character)
        size += len(piece.encode(errors="replace"))
        if size > _LINE:
            parts.append(quoted)
            quoted, size = "", len(piece.encode(errors="replace"))
        quoted += piece
    if not parts:
        lines = [f" eval $'{quoted}'\n"]
    else:
        parts.append(quoted)
        lines = [f" _command{'+' if number else ''}=$'{part}'\n" for number, part in enumerate(parts)]
        lines.append(' eval "$_command"\n')
    return [line.encode(errors="replace") for line in lines]


_QUOTED = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\x7f": "\\x7f", "\0": ""}


# -- the tools -------------------------------------------------------------------------------------------------------


def terminal_tools(shell: LiveShell, *, timeout_s: float = 10.0, longest_s: float = 60.0) -> tuple[Tool, Tool]:
    """`run` and `keys` on one terminal.

    timeout_s: how long `run` waits where the agent does not say; longest_s: the longest that it may say. An episode's
    `Limits.tool_s` must be longer than that, or the call counts as a failure of the tool. Raises `ConfigError` for
    times that do not fit.
    """
    if not 0 < timeout_s <= longest_s:
        raise ConfigError(
            f"terminal: timeout_s={timeout_s}, longest_s={longest_s}: expected 0 < timeout_s <= longest_s"
        )
    seconds = {"type": "number", "minimum": 0, "maximum": longest_s}
    run = ToolSpec(
        name="run",
        description="Run a command in the terminal and wait until it ends.",
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string"}, "timeout": seconds},
            "required": ["command"],
        },
    )
    keys = ToolSpec(
        name="keys",
        description="Type text, then press a key, in the program that runs in the terminal; or only wait.",
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string"}, "key": {"type": "string", "pattern": _PATTERN}, "wait": seconds},
        },
    )
    return _Run(shell, run, timeout_s), _Keys(shell, keys, min(2.0, longest_s))


@dataclass(frozen=True, slots=True)
class _Run:
    shell: LiveShell
    spec: ToolSpec
    timeout_s: float

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        timeout_s = float(args.get("timeout", self.timeout_s))
        try:
            said = await self.shell.run(str(args["command"]), timeout_s=timeout_s)
        except RuntimeError as error:
            text = f"not run: {_short(str(error))} is still running; press ctrl-c to end it, or wait for it with keys"
            return ToolResult(text=text, error=True)
        return ToolResult(text=_told(said, f"after {timeout_s:g} s"))


@dataclass(frozen=True, slots=True)
class _Keys:
    shell: LiveShell
    spec: ToolSpec
    wait_s: float

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        data = str(args.get("text", "")).encode(errors="replace")
        data += _KEYS[str(args["key"])] if "key" in args else b""
        said = await self.shell.press(data, wait_s=float(args.get("wait", self.wait_s)))
        return ToolResult(text=_told(said, "" if self.shell.running else "at the prompt"))


def _told(said: Said, when: str) -> str:
    """What the agent reads."""
    how = f" by its {said.gone} limit" if said.gone in ("wall", "cpu", "memory") else ""
    notes = {
        "prompt": f"[exit code {said.exit_code}]" if said.exit_code else "",
        "running": "" if when == "at the prompt" else f"[still running{' ' + when if when else ''}]",
        "gone": f"[the shell has ended{how}; the next command starts a new one]",
    }
    refused = "[the program does not read what is typed]" if said.refused else ""
    parts = [said.text, refused, notes[said.state]]
    return "\n".join(part for part in parts if part) or "[no output]"


def _short(command: str) -> str:
    line = command.strip().partition("\n")[0]
    return repr(line if len(line) <= 60 else line[:60] + "...")
