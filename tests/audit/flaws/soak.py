"""Environments that keep something of every episode."""

import collections
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from base_worlds import Accounts, Field, Letter


class Logs(Field):
    """Each episode opens a log, and nobody closes it."""

    def __init__(self):
        self.open = {}

    async def setup(self, task):
        state = self.State(task)
        state.log = self.open[id(state), len(self.open)] = os.open(os.devnull, os.O_WRONLY)
        state.close = lambda: self.closed(state)
        return state

    async def closed(self, state):
        """The log stays."""


class ClosedLogs(Logs):
    async def closed(self, state):
        if state.log is not None:
            os.close(state.log)
            state.log = None


class History(Accounts):
    """All that was ever judged is kept, in case somebody asks."""

    def __init__(self):
        self.judged = []

    def paid(self, trace, state):
        self.judged.append([node.message.text * 40 for node in trace.nodes] + list(range(500, 800)))
        return super().paid(trace, state)


class ShortHistory(History):
    def __init__(self):
        self.judged = collections.deque(maxlen=4)


class Folders(Letter):
    """A working folder for each episode; who would throw one away?"""

    class State(Letter.State):
        def __init__(self, task):
            super().__init__(task)
            self.folder = tempfile.mkdtemp(prefix="letter-")
            (Path(self.folder) / "letter.txt").write_text("\n".join(self.lines))

        async def close(self):
            self.clean()

        def clean(self):
            """Later."""


class NoFolders(Folders):
    class State(Folders.State):
        def clean(self):
            shutil.rmtree(self.folder, ignore_errors=True)


class Servers(Letter):
    """A process for each episode, which is not told that it is over."""

    class State(Letter.State):
        def __init__(self, task):
            super().__init__(task)
            self.server = subprocess.Popen(["sleep", "120"], stdin=subprocess.DEVNULL)
            self.kept.append(self.server)

        kept = []  # noqa: RUF012  the flaw

        async def close(self):
            self.stop()

        def stop(self):
            """It will find out."""


class StoppedServers(Servers):
    class State(Servers.State):
        def stop(self):
            self.server.kill()
            self.server.wait()
            if self.server in self.kept:
                self.kept.remove(self.server)


FLAWED = {"a": Logs, "b": History, "c": Folders, "d": Servers}
CLEAN = {"a": ClosedLogs, "b": ShortHistory, "c": NoFolders, "d": StoppedServers}
