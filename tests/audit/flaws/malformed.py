"""Environments whose own code breaks on an unusual argument, so that an episode ends as nobody's fault."""

import json
import re
from pathlib import Path

from base_answers import Called, Numbers, Records, Register, Sums, same, takes

from askesis.types import ToolResult, ToolSpec


class Searches(Sums):
    """A tool that searches by a pattern; not every text is one."""

    expected = ()

    def more(self, state):
        def search(pattern):
            try:
                return "found" if re.search(pattern, "see the tables of sums") else "not found"
            except self.expected as error:
                return ToolResult(text=f"error: {error}", error=True)

        spec = ToolSpec(name="search", description="Search the manual.", parameters=takes("string", "pattern"))
        return [Called(spec, search)]


class SearchesWell(Searches):
    expected = (re.error, RecursionError, OverflowError)


class Reads(Register):
    """A tool that opens what it is told; a NUL in a path is not an OSError."""

    def more(self, state):
        def read(path):
            try:
                return (Path("/nonexistent") / path).read_text(encoding="utf-8")
            except self.expected:
                return ToolResult(text="no such file", error=True)

        schema = takes("string", "path")
        return [
            *super().more(state),
            Called(ToolSpec(name="read", description="Read a file.", parameters=schema), read),
        ]

    expected = (OSError,)


class ReadsWell(Reads):
    expected = (OSError, ValueError)


class Indexes(Numbers):
    """The answer is turned into a number in the verdict; one too large, or none, raises there."""

    tool, argument, kind = "submit", "answer", {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "array"}]}

    def told(self, data):
        return data["answer"]

    def judge(self, said, data):
        value = self.number(said)
        return value == data["answer"]

    def number(self, said):
        return int(said)


class IndexesWell(Indexes):
    def number(self, said):
        try:
            return float(said)
        except (ValueError, TypeError, OverflowError):
            return None


class Parses(Records):
    """JSON within a string, nested as deep as anyone likes."""

    kind = "string"

    def told(self, data):
        return json.dumps(data["answer"])

    def judge(self, said, data):
        try:
            return same(json.loads(said), data["answer"])
        except (ValueError, RecursionError):
            return False


FLAWED = {"a": Searches, "b": Reads, "c": Indexes}
CLEAN = {"a": SearchesWell, "b": ReadsWell, "c": IndexesWell, "d": Parses}
