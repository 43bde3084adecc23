"""The SQLite file behind the trace store and the ledger: its tables, its one writer, its lineages.

Nothing is ever deleted or changed. A rewind adds a lineage: rows of an older lineage are live only up to the step from
which the newer one went on; what lies beyond is abandoned, and stays to be looked at. An evaluation that was cut off is
played again at its step: of one label and step only the newest lineage's traces are live.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from askesis.types import StoreError

SCHEMA = 4
APPLICATION = 0x41534B45  # "ASKE" in SQLite's application_id: this file is ours

_WEIGHTS = """
CREATE {temporary} TABLE weights (
  lineage INTEGER NOT NULL, step INTEGER NOT NULL, began TEXT NOT NULL, made TEXT NOT NULL, PRIMARY KEY (lineage, step)
) WITHOUT ROWID;
"""
_ARTIFACTS = """
CREATE TABLE artifacts (
  trace TEXT NOT NULL, position INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (trace, position)
);
"""
_TABLES = """
CREATE TABLE lineages (lineage INTEGER PRIMARY KEY, from_step INTEGER NOT NULL);
INSERT INTO lineages VALUES (0, 0);
CREATE TABLE tasks (key INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body TEXT NOT NULL);
CREATE TABLE traces (
  id TEXT PRIMARY KEY, lineage INTEGER NOT NULL, label TEXT NOT NULL, step INTEGER NOT NULL,
  task_id TEXT NOT NULL, group_id TEXT NOT NULL, mode TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
  learnable INTEGER NOT NULL, success INTEGER NOT NULL, reward REAL, turns INTEGER NOT NULL,
  tokens INTEGER NOT NULL, thinking_tokens INTEGER NOT NULL, attempt INTEGER NOT NULL, final INTEGER NOT NULL,
  task INTEGER NOT NULL REFERENCES tasks(key), body TEXT NOT NULL,
  token_ids BLOB NOT NULL, mask BLOB NOT NULL, logprobs BLOB NOT NULL, versions BLOB NOT NULL
);
CREATE INDEX traces_by_step ON traces (label, step);
CREATE INDEX traces_by_group ON traces (group_id);
CREATE TABLE steps (
  lineage INTEGER NOT NULL, step INTEGER NOT NULL, base_version INTEGER NOT NULL, staleness INTEGER NOT NULL,
  version INTEGER, checkpoint TEXT, PRIMARY KEY (lineage, step)
) WITHOUT ROWID;
CREATE TABLE draws (
  lineage INTEGER NOT NULL, step INTEGER NOT NULL, position INTEGER NOT NULL, group_id TEXT NOT NULL,
  task_id TEXT NOT NULL, mode TEXT NOT NULL, PRIMARY KEY (lineage, group_id)
) WITHOUT ROWID;
CREATE TABLE emitted (
  lineage INTEGER NOT NULL, step INTEGER NOT NULL, label TEXT NOT NULL, group_id TEXT NOT NULL,
  size INTEGER NOT NULL, learnable INTEGER NOT NULL, oldest INTEGER, newest INTEGER,
  PRIMARY KEY (lineage, label, step, group_id)
) WITHOUT ROWID;
CREATE TABLE settled (
  lineage INTEGER NOT NULL, step INTEGER NOT NULL, group_id TEXT NOT NULL, fate TEXT NOT NULL,
  PRIMARY KEY (lineage, step, group_id)
) WITHOUT ROWID;
"""


def live(table: str) -> str:
    """The SQL condition under which a row of `table` belongs to the surviving lineage."""
    along = (
        f"NOT EXISTS (SELECT 1 FROM lineages WHERE lineages.lineage > {table}.lineage "
        f"AND {table}.step > lineages.from_step)"
    )
    return f"{along} AND {_NEWEST}" if table == "traces" else along


# Made once a query. Along a lineage a step is trained on once, so this takes nothing from what was rolled out for that.
_NEWEST = (
    "(traces.label, traces.step, traces.lineage) IN (SELECT label, step, max(lineage) FROM traces GROUP BY label, step)"
)


class Database:
    """An open file. Raises `StoreError` if it is unreadable, not ours, of another schema, or has a writer already.

    before_write: is asked in each transaction, with what it is for; an error of SQLite's that it raises is a write's.
    """

    def __init__(
        self, path: str | Path, *, readonly: bool = False, before_write: Callable[[str], None] | None = None
    ) -> None:
        self.path, self.readonly, self._before_write = Path(path), readonly, before_write
        if readonly and not self.path.is_file():
            raise StoreError(f"no trace store at {self.path}")
        self._lock = None if readonly else self._claim()
        try:
            with self._errors("open"):
                uri = f"{self.path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
                self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
                self._prepare()
                self.lineage = int(self.all("SELECT max(lineage) FROM lineages")[0][0])
        except StoreError:
            self._unlock()
            raise

    def _claim(self) -> int:
        """Hold a lock beside the file as long as this process lives: one run, one store, one writer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StoreError(
                f"{self.path} has a writer already: another run goes on in this folder; wait for it, or open read-only"
            ) from None
        return lock

    def _prepare(self) -> None:
        connection = self._connection
        if not self.readonly:
            connection.execute("PRAGMA journal_mode = WAL")
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        fresh = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if fresh and not self.readonly:
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; {_TABLES} "
                f"{_WEIGHTS.format(temporary='')} {_ARTIFACTS} COMMIT;"
            )
        elif application != APPLICATION:
            raise StoreError(f"{self.path} is an SQLite file, but no trace store of Askesis")
        elif schema == 1 and self.readonly:  # which had no fingerprints
            connection.executescript(_WEIGHTS.format(temporary="TEMPORARY"))
        elif schema in (1, 2, 3) and not self.readonly:  # 2 had no artifacts; in 3 every prompt was drawn once
            weights = _WEIGHTS.format(temporary="") if schema == 1 else ""
            artifacts = _ARTIFACTS if schema < 3 else ""
            connection.executescript(f"BEGIN; PRAGMA user_version = {SCHEMA}; {weights} {artifacts} COMMIT;")
        elif schema not in (2, 3, SCHEMA):
            raise StoreError(f"{self.path} has schema {schema}, this version of Askesis reads {SCHEMA}")

    @contextmanager
    def transaction(self, what: str, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """All or nothing. A kill takes back nothing that ended; a power cut nothing up to the last `durable` one."""
        if self.readonly:
            raise StoreError(f"{self.path} is open read-only: cannot {what}")
        with self._errors(what):
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if self._before_write is not None:
                    self._before_write(what)
                yield self._connection
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._errors("read"):
            return self._connection.execute(sql, values).fetchall()

    def each(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one by one."""
        with self._errors("read"):
            yield from self._connection.execute(sql, values)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise StoreError(f"{self.path}: cannot {what}: it contradicts what is recorded already: {error}") from error
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: cannot {what}: {error}") from error

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._connection.close()
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
