"""Notes: what an agent writes down outlives the conversation that it was written in.

Notes belong to whoever made the `Notes`: a harness makes one set for each session, so that they are there after a
restart of the conversation and gone with the episode. They are an agent's own words and reach nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from askesis.types import AskesisError, ConfigError, Session, Tool, ToolResult, ToolSpec, nearest

ACTIONS = ("write", "append", "read", "list", "delete")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class NoteError(AskesisError):
    """Something that cannot be done with a note; the agent reads why."""


class Notes:
    """Texts by name, in the order in which they were begun.

    most: characters of all notes and their names together. count: notes at most. Raises `ConfigError` for a bound
    below 1.
    """

    def __init__(self, *, most: int = 4_000, count: int = 20) -> None:
        if most < 1 or count < 1:
            raise ConfigError(f"notes: most={most}, count={count}: expected 1 or more of each")
        self._most, self._count = most, count
        self._texts: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def write(self, name: str, text: str) -> None:
        """Make a note, or replace it. Raises `NoteError` for a name that is none, and where there is no room."""
        if not _NAME.fullmatch(name):
            raise NoteError(f"name {name[:60]!r}: expected 1 to 40 letters, digits and _.-, the first no sign")
        if not text:
            raise NoteError(f"the text of {name!r} is empty; delete takes a note away")
        if name not in self._texts and len(self._texts) >= self._count:
            raise NoteError(f"there are {len(self._texts)} notes, and no more than {self._count}; delete one")
        others = sum(len(key) + len(value) for key, value in self._texts.items() if key != name)
        if (size := others + len(name) + len(text)) > self._most:
            raise NoteError(
                f"{name!r} would make it {size} characters in all, and there is room for {self._most}; "
                "write less, or delete a note"
            )
        self._texts[name] = text

    def append(self, name: str, text: str) -> None:
        """Add a line to a note, which is made if it is not there. Raises as `write`."""
        self.write(name, f"{self._texts[name]}\n{text}" if text and name in self._texts else text)

    def read(self, name: str) -> str:
        """A note. Raises `NoteError` where there is none."""
        if name not in self._texts:
            known = ", ".join(self._texts) or "none"
            raise NoteError(f"no note {name[:60]!r}{nearest(name, self._texts)} (notes: {known})")
        return self._texts[name]

    def delete(self, name: str) -> None:
        """Take a note away. Raises `NoteError` where there is none."""
        self.read(name)
        del self._texts[name]

    def listed(self) -> str:
        """A line for each: its name, its length and how it begins."""
        lines = []
        for name, text in self._texts.items():
            first = text.partition("\n")[0]
            lines.append(
                f"{name} ({len(text)}): {first[:60]}{'...' if len(first) > 60 or len(first) < len(text) else ''}"
            )
        return "\n".join(lines) or "no notes"

    def shown(self) -> str:
        """All of them, whole, as an agent is shown them after a compaction; empty for none."""
        return "\n".join(f"[{name}]\n{text}" for name, text in self._texts.items())


def notes_tool(notes: Notes, *, name: str = "notes") -> Tool:
    """`notes(action, name, text)` on a set of notes."""
    properties = {
        "action": {"enum": [*ACTIONS]},
        "name": {"type": "string"},
        "text": {"type": "string"},
    }
    return _NotesTool(
        ToolSpec(
            name=name,
            description="Keep notes. They stay when the conversation is shortened.",
            parameters={
                "type": "object",
                "properties": properties,
                "required": ["action"],
                "additionalProperties": False,
            },
        ),
        notes,
    )


@dataclass(frozen=True, slots=True)
class _NotesTool:
    spec: ToolSpec
    notes: Notes

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        try:
            return ToolResult(text=self._done(str(args["action"]), args))
        except NoteError as error:
            return ToolResult(text=f"error: {error}", error=True)

    def _done(self, action: str, args: Mapping[str, Any]) -> str:
        if action == "list":
            return self.notes.listed()
        for key in ("name", "text") if action in ("write", "append") else ("name",):
            if key not in args:
                raise NoteError(f"{action} needs {key!r}")
        name = str(args["name"])
        if action == "read":
            return self.notes.read(name)
        if action == "delete":
            self.notes.delete(name)
            return f"deleted {name}"
        {"write": self.notes.write, "append": self.notes.append}[action](name, str(args["text"]))
        return f"noted {name}"
