"""What a program wrote to a terminal, as the plain text that a person would see.

`flat` is for output that runs downwards: carriage returns, backspaces and erased lines are carried out on their line,
colours and all else that only a screen can show is dropped. `Screen` is for programs that paint the whole screen.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from askesis.types import MissingExtra

_PARTS = re.compile(
    r"\x1b\[([0-?]*)[ -/]*([@-~])"  # CSI: parameters, final
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # OSC and other strings, up to their end
    r"|\x1b[ -/]*[0-~]?|\x1b\Z"  # two or three characters
    r"|[^\x00-\x1f\x7f\x1b\x80-\x9f]+"  # text
    r"|[\x00-\x1f\x7f\x80-\x9f]",  # one control character
    re.DOTALL,
)
_WIDEST = 1_000  # columns that a jump to the right can reach: a few bytes must not become megabytes
_ALTERNATE = re.compile(rb"\x1b\[\?(?:1049|1047|47)([hl])")
_BEGUN = re.compile(rb"\x1b(?:\[[?0-9;]{0,12})?\Z")  # a sequence whose end has not come


def flat(data: bytes) -> str:
    """The text of what came, lines divided by one newline, nothing in it that a screen would not show."""
    lines: list[str] = []
    line: list[str] = []
    column = 0
    for match in _PARTS.finditer(data.decode("utf-8", "replace")):
        part = match[0]
        if match[2] is not None:
            column = _moved(line, column, match[1], match[2])
        elif part == "\n":
            lines.append("".join(line).rstrip(" "))
            line, column = [], 0
        elif part == "\r":
            column = 0
        elif part == "\b":
            column = max(0, column - 1)
        elif part == "\t":
            column = _write(line, column, " " * (8 - column % 8) if column < len(line) else "\t")
        elif part[0] >= " " and not "\x7f" <= part[0] <= "\x9f":
            column = _write(line, column, part)
    return "\n".join([*lines, "".join(line).rstrip(" ")])


def _write(line: list[str], column: int, text: str) -> int:
    """Put `text` over what stands in the line from `column` on; the column behind it."""
    if column > len(line):
        line += " " * (column - len(line))
    line[column : column + len(text)] = text
    return column + len(text)


def _moved(line: list[str], column: int, parameters: str, final: str) -> int:
    """Carry out a CSI sequence within its line; the column afterwards."""
    first = parameters.partition(";")[0]
    number = min(int(first[:6]), _WIDEST) if first.isdecimal() else 0
    if final == "K":
        if number in (1, 2):
            line[:column] = " " * min(column, len(line))
        if number in (0, 2):
            del line[column:]
    elif final == "C":
        column = min(column + max(1, number), _WIDEST)
    elif final == "D":
        column = max(0, column - max(1, number))
    elif final == "G":
        column = max(0, number - 1)
    elif final == "P":
        del line[column : column + max(1, number)]
    return column


def bounded(text: str, most: int) -> str:
    """`text`, or its head and its tail and between them a line that says what was left out. most: characters kept."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 2], text[len(text) - (most - most // 2) :]
    if "\n" in head[most // 4 :]:  # whole lines, where lines are short
        head = head[: head.rindex("\n")]
    if "\n" in tail[: most // 4]:
        tail = tail[tail.index("\n") + 1 :]
    out = text[len(head) : len(text) - len(tail)]
    return f"{head}\n[... {len(out)} characters, {out.count(chr(10))} lines left out ...]\n{tail}"


class Screen:
    """What programs paint that take the whole screen. Follows which of the two screens of a terminal is shown.

    Raises `MissingExtra` where pyte is not installed.
    """

    def __init__(self, rows: int, columns: int) -> None:
        try:
            import pyte
        except ImportError:
            raise MissingExtra(
                "terminal: screens need the package pyte; install it with: pip install 'askesis[terminal]'"
            ) from None
        self._screen: Any = pyte.Screen(columns, rows)
        self._stream: Any = pyte.Stream(self._screen)
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self.shown = False

    def feed(self, data: bytes) -> None:
        """Take what came. Only the alternate screen, which such programs use, is painted."""
        data = self._held + data
        begun = _BEGUN.search(data)
        self._held = begun[0] if begun else b""
        data, at = data[: len(data) - len(self._held)], 0
        for match in _ALTERNATE.finditer(data):
            if self.shown:
                self._paint(data[at : match.start()])
            if match[1] == b"h" and not self.shown:
                self._screen.reset()
            self.shown, at = match[1] == b"h", match.end()
        if self.shown:
            self._paint(data[at:])

    def _paint(self, data: bytes) -> None:
        try:
            self._stream.feed(self._text.decode(data))
        except Exception:  # a sequence that the emulator does not bear: what it has painted so far stays
            self._stream = type(self._stream)(self._screen)

    def resize(self, rows: int, columns: int) -> None:
        """Another size."""
        self._screen.resize(rows, columns)

    def text(self) -> str:
        """What is to be seen, without the empty end of lines and of the screen; and where the cursor is."""
        lines = "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n")
        cursor = self._screen.cursor
        return f"{lines}\n[a full screen; the cursor is at line {cursor.y + 1}, column {cursor.x + 1}]"
