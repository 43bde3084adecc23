"""Traces in one SQLite file, with their tokens, masks, log-probabilities, versions, rewards and timings."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from askesis.rollout.database import Database, live
from askesis.rollout.encoding import arrays_to_bytes, body_to_json, task_from_json, task_to_json, trace_from
from askesis.rollout.ledger import GIVEN_UP, TRAIN, TRAINED, Ledger
from askesis.rollout.statistics import version_range
from askesis.types import Group, StoreError, Task, Trace

_LOADED = "traces.id, tasks.body, traces.body, token_ids, mask, logprobs, versions"
_LEFT = "SELECT data FROM artifacts WHERE trace = ? ORDER BY position"
_COLUMNS = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """Figures of the final attempts of one label, step and thinking mode; means over the learnable ones."""

    label: str
    step: int
    mode: str
    episodes: int
    learnable: int
    success: float
    reward: float
    turns: float
    tokens: float
    thinking_tokens: float


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens that the policy said in each episode, in order. taken: of the groups that steps were made of; trained: of
    those of them that taught something; sampled: of all that were taken or given up, the latter with what they had."""

    sampled: Sequence[int]
    taken: Sequence[int]
    trained: Sequence[int]


class TraceStore:
    """A file of traces and the `ledger` of what was trained. One writer, any number of readers (`readonly`).

    before_write: for tests, is called with what each write is for, and may raise what SQLite would.
    Raises `StoreError`, here and in every method, for a file that is unreadable or contradicts itself.
    """

    def __init__(
        self, path: str | Path, *, readonly: bool = False, before_write: Callable[[str], None] | None = None
    ) -> None:
        self._database = Database(path, readonly=readonly, before_write=before_write)
        self.ledger = Ledger(self._database)

    def add(self, traces: Sequence[Trace], *, label: str = "", step: int = 0, group: Group | None = None) -> None:
        """Keep `traces` in one transaction, under a label (`train`, `eval:before`, ...) and the step they belong to.

        group: if they make it whole, it is entered as emitted; attempts that are not in it were played again.
        """
        finals = None if group is None else {trace.id for trace in group.traces}
        with self._database.transaction(f"add {len(traces)} traces") as connection:
            keys = {id(trace.task): trace.task for trace in traces}
            tasks = {at: self._task(connection, task) for at, task in keys.items()}
            rows = [
                self._row(trace, label, step, tasks[id(trace.task)], finals is None or trace.id in finals)
                for trace in traces
            ]
            connection.executemany(f"INSERT INTO traces VALUES ({', '.join('?' * _COLUMNS)})", rows)
            left = [(trace.id, at, one.data) for trace in traces for at, one in enumerate(trace.artifacts)]
            connection.executemany("INSERT INTO artifacts VALUES (?, ?, ?)", left)
            if group is not None:
                oldest, newest = version_range(group.traces) or (None, None)
                entry = (self._database.lineage, step, label, group.id, len(group.traces), len(group.learnable))
                connection.execute("INSERT INTO emitted VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*entry, oldest, newest))

    def _task(self, connection: sqlite3.Connection, task: Task) -> int:
        """The key of a task, which is stored once, however many traces have it."""
        body = task_to_json(task)
        digest = hashlib.blake2b(body.encode(), digest_size=16).digest()
        connection.execute("INSERT OR IGNORE INTO tasks (hash, body) VALUES (?, ?)", (digest, body))
        return int(connection.execute("SELECT key FROM tasks WHERE hash = ?", (digest,)).fetchone()[0])

    def _row(self, trace: Trace, label: str, step: int, task: int, final: bool) -> tuple[Any, ...]:
        return (
            trace.id,
            self._database.lineage,
            label,
            step,
            _plain(trace.task.id),
            _plain(trace.group),
            trace.thinking.mode,
            trace.outcome.by,
            _plain(trace.outcome.reason),
            trace.outcome.learnable,
            trace.success,
            trace.reward,
            trace.turns,
            sum(len(node.token_ids) for node in trace.nodes if node.sampled),
            trace.thinking_tokens,
            trace.attempt,
            final,
            task,
            body_to_json(trace),
            *arrays_to_bytes(trace),
        )

    def get(self, id: str) -> Trace:
        """The trace of that id. Raises `StoreError` if there is none."""
        rows = self._database.all(
            f"SELECT {_LOADED} FROM traces JOIN tasks ON tasks.key = traces.task WHERE id = ?", (id,)
        )
        if not rows:
            raise StoreError(f"{self._database.path} has no trace {id!r}")
        return self._load(rows[0])

    def traces(
        self,
        *,
        label: str | None = None,
        step: int | None = None,
        group: str | None = None,
        mode: str | None = None,
        learnable: bool | None = None,
        final: bool | None = None,
        abandoned: bool = False,
    ) -> Iterator[Trace]:
        """Traces in the order in which they were added, filtered. Of the surviving lineage unless `abandoned`."""
        wanted = {
            "label": label,
            "step": step,
            "group_id": group,
            "mode": mode,
            "learnable": learnable,
            "final": final,
        }
        given = {column: value for column, value in wanted.items() if value is not None}
        conditions = [f"traces.{column} = ?" for column in given] + ([] if abandoned else [live("traces")])
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"SELECT {_LOADED} FROM traces JOIN tasks ON tasks.key = traces.task{where} ORDER BY traces.rowid"
        for row in self._database.each(sql, tuple(given.values())):
            yield self._load(row)

    def latest(self, *, group: str, task_id: str, most: int) -> list[Trace]:
        """The newest traces of a task in a group, the newest first."""
        rows = self._database.all(
            f"SELECT {_LOADED} FROM traces JOIN tasks ON tasks.key = traces.task "
            "WHERE group_id = ? AND task_id = ? ORDER BY traces.rowid DESC LIMIT ?",
            (_plain(group), _plain(task_id), most),
        )
        return [self._load(row) for row in rows]

    def _load(self, row: tuple[Any, ...]) -> Trace:
        id, task, body, *arrays = row
        try:
            return trace_from(id, task_from_json(task), body, arrays, lambda: self._artifacts(id))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self._database.path}: trace {id} is damaged: {error}") from error

    def _artifacts(self, id: str) -> list[bytes]:
        return [data for (data,) in self._database.all(_LEFT, (id,))]

    def summary(self, *, label: str | None = None) -> list[StepSummary]:
        """Figures by label, step and mode, in that order, of the surviving lineage."""
        means = ", ".join(
            f"avg(CASE WHEN learnable THEN {column} END)"
            for column in ("success", "reward", "turns", "tokens", "thinking_tokens")
        )
        rows = self._database.all(
            f"SELECT label, step, mode, count(*), sum(learnable), {means} FROM traces "
            f"WHERE final AND (? IS NULL OR label = ?) AND {live('traces')} "
            "GROUP BY label, step, mode ORDER BY label, step, mode",
            (label, label),
        )
        return [
            StepSummary(
                label=row[0],
                step=row[1],
                mode=row[2],
                episodes=row[3],
                learnable=row[4],
                success=_number(row[5]),
                reward=_number(row[6]),
                turns=_number(row[7]),
                tokens=_number(row[8]),
                thinking_tokens=_number(row[9]),
            )
            for row in rows
        ]

    def outcomes(self, *, label: str | None = None) -> dict[str, int]:
        """How often each `who:reason` ended an attempt, retried ones included, in the surviving lineage."""
        rows = self._database.all(
            "SELECT outcome || ':' || reason, count(*) FROM traces "
            f"WHERE (? IS NULL OR label = ?) AND {live('traces')} GROUP BY 1 ORDER BY 2 DESC, 1",
            (label, label),
        )
        return dict(rows)

    def lengths(self) -> Lengths:
        """Of the episodes that were rolled out to be trained on, in the surviving lineage."""
        rows = self._database.all(
            "SELECT traces.tokens, settled.fate FROM traces JOIN settled ON settled.group_id = traces.group_id "
            f"WHERE traces.label = ? AND traces.final AND {live('traces')} AND {live('settled')} "
            "AND (traces.learnable OR (settled.fate = ? AND traces.outcome = 'cancelled'))",
            (TRAIN, GIVEN_UP),
        )
        return Lengths(
            sampled=sorted(tokens for tokens, _ in rows),
            taken=sorted(tokens for tokens, fate in rows if fate != GIVEN_UP),
            trained=sorted(tokens for tokens, fate in rows if fate == TRAINED),
        )

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._database.close()

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plain(text: str) -> str:
    """Text for a column that is searched: SQLite takes no half characters. The body keeps the text as it is."""
    return text.encode(errors="replace").decode()


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
