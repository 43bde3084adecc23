"""Environments that take a failing machine for a failing agent."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from base_worlds import Accounts, Field, Letter

from askesis.types import SandboxError, VerifierError

CHECK = "import json, sys; one, other = json.load(sys.stdin); sys.exit(one != other)"


class Checker(Letter):
    """A program compares; whatever ends it but 0 is a no."""

    def paid(self, trace, state):
        if trace.outcome.reason != "submitted":
            return False
        told = json.dumps([state.lines, state.data["wanted"]])
        done = subprocess.run([sys.executable, "-I", "-S", "-c", CHECK], input=told, text=True, check=False)
        return self.passed(done.returncode)

    def passed(self, code):
        return code == 0


class CheckerThatKnows(Checker):
    def passed(self, code):
        if code not in (0, 1):
            raise VerifierError(f"letter: the checker exited with {code}")
        return code == 0


class Swallowed(Accounts):
    """The verdict goes through a file, and where anything is wrong with that, there is no pay."""

    def paid(self, trace, state):
        try:
            return self.through_file(trace, state)
        except Exception:
            return False

    def through_file(self, trace, state):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            report.write_text(json.dumps({"passed": super().paid(trace, state)}))
            return json.loads(report.read_text())["passed"]


class NotSwallowed(Swallowed):
    def paid(self, trace, state):
        return self.through_file(trace, state)


class OnDisk(Field):
    """Where one stands is kept in a file; who cannot be moved is told that there is a wall."""

    class State(Field.State):
        def __init__(self, task):
            self.folder = tempfile.TemporaryDirectory()
            self.file = Path(self.folder.name) / "at.json"
            super().__init__(task)

        @property
        def at(self):
            return tuple(json.loads(self.file.read_text()))

        @at.setter
        def at(self, place):
            other = self.file.with_suffix(".new")
            other.write_text(json.dumps(place))
            other.rename(self.file)

        def move(self, way: str, steps: int = 1):
            """Go north, south, west or east."""
            try:
                return super().move(way, steps)
            except OSError as error:
                return self.failed(error)

        def failed(self, error):
            return "you cannot go there"

        async def close(self):
            self.folder.cleanup()


class OnDiskAndSaysSo(OnDisk):
    class State(OnDisk.State):
        def failed(self, error):
            raise SandboxError(f"field: the place could not be kept: {error}")


FLAWED = {"a": Checker, "b": Swallowed, "c": OnDisk}
CLEAN = {"a": CheckerThatKnows, "b": NotSwallowed, "c": OnDiskAndSaysSo}
