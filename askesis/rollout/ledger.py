"""The ledger: which prompts were drawn, and what became of each, so that a resumed run can prove that it lost nothing.

A step begins, prompts are drawn while it lasts, their groups are emitted (`TraceStore.add`, label `train`), and it is
committed: the groups that it used are settled as trained or dropped, and the new version and checkpoint are entered, in
one transaction. Synchronous, that is all that was drawn in it; asynchronous, groups are settled in a later step than
the one they were drawn in, some are given up, and their prompts are drawn again, as another group. After a
kill, `rewind` goes back to the last committed step that has a checkpoint, and `open` tells which prompts were on their
way then, and are drawn again before any new one. Along the surviving lineage `check` then finds no prompt skipped and
none trained twice.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from askesis.rollout.database import Database, live
from askesis.types import StoreError

TRAIN = "train"  # the label of traces that are rolled out to be trained on; no other counts here
TRAINED = "trained"
GIVEN_UP = "stale"  # the fate of a group that was given up, as files have it; its prompt is drawn again


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A prompt that was drawn. position: its place in the run's stream of prompts, from 0, none left out."""

    position: int
    group: str
    task: str
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A prompt that was drawn and is neither trained nor dropped. draws: how often it was drawn so far."""

    position: int
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What became of the prompts of the surviving lineage. trained, dropped: prompts; given_up: groups; open: prompts
    on their way. staleness: most versions by which the oldest token of a trained group was behind the weights that it
    was trained into."""

    steps: int
    drawn: int
    trained: int
    dropped: int
    open: int
    given_up: int
    staleness: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A committed step. version: of the weights after it; checkpoint: its name, if one was written.

    began, made: fingerprints of the weights that it trained, and of those that it made; empty if they were not entered.
    """

    step: int
    version: int
    checkpoint: str | None
    began: str = ""
    made: str = ""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A draw of the surviving lineage, and what became of it; None: nothing yet."""

    position: int
    group: str
    at: tuple[int, int]  # lineage and step
    fate: str | None
    settled: tuple[int, int] | None

    def may_be_drawn_again(self, by: _Drawn, going: tuple[int, int] | None) -> bool:
        """Whether it was given up, or was on its way when a kill came. What the step that goes on has given up is drawn
        again in it, and settled by its commit."""
        return self.fate == GIVEN_UP or (self.fate is None and (self.at[0] < by.at[0] or by.at == going))


_PATIENCE = 2  # times the bound of staleness, in steps, after which a group that was drawn and not emitted is lost
_TRAINED = (TRAINED, TRAIN)
_TRAINED_GROUPS = (
    "FROM settled JOIN steps ON steps.lineage = settled.lineage AND steps.step = settled.step "
    "JOIN emitted ON emitted.group_id = settled.group_id "
    f"WHERE settled.fate = ? AND emitted.label = ? AND {live('settled')} AND {live('emitted')}"
)


class Ledger:
    """Part of a `TraceStore`. Steps count from 1. All methods raise `StoreError` for what contradicts the record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_step(self, step: int, draws: Iterable[Draw] = (), *, version: int, staleness: int = 0) -> None:
        """Enter that `step` goes on, and the prompts that it begins with drawing.

        version: of the weights as the step begins. staleness: most versions between a group's oldest token and the
        weights that are trained on it; 0 is synchronous.
        """
        lineage = self._database.lineage
        last = self.last_step()
        expected = 1 if last is None else last.step + 1
        if step != expected:
            raise StoreError(f"cannot begin step {step}: after the committed ones comes {expected}")
        with self._database.transaction(f"begin step {step}") as connection:
            connection.execute("INSERT INTO steps VALUES (?, ?, ?, ?, NULL, NULL)", (lineage, step, version, staleness))
            self._enter(connection, step, draws)

    def draw(self, step: int, draws: Iterable[Draw]) -> None:
        """Enter prompts that are drawn while `step` goes on, before any of their episodes starts."""
        with self._database.transaction(f"draw in step {step}") as connection:
            going = connection.execute(
                "SELECT 1 FROM steps WHERE lineage = ? AND step = ? AND version IS NULL", (self._database.lineage, step)
            )
            if going.fetchone() is None:
                raise StoreError(f"cannot draw in step {step}: it was not begun, or is committed already")
            self._enter(connection, step, draws)

    def _enter(self, connection: sqlite3.Connection, step: int, draws: Iterable[Draw]) -> None:
        lineage = self._database.lineage
        rows = [(lineage, step, draw.position, draw.group, draw.task, draw.mode) for draw in draws]
        connection.executemany("INSERT INTO draws VALUES (?, ?, ?, ?, ?, ?)", rows)

    def commit_step(
        self,
        step: int,
        version: int,
        *,
        trained: Sequence[str],
        dropped: Mapping[str, str] | None = None,
        checkpoint: str | None = None,
        fingerprints: tuple[str, str] | None = None,
    ) -> None:
        """Enter, all or nothing, that `step` trained these groups and made `version`.

        dropped: groups that were not trained, with the reason (`GIVEN_UP`: its prompt is drawn again). checkpoint: its
        name; it must be whole on disk before. fingerprints: of the weights that were trained, and of those that came
        of it.
        """
        fates = [(group, TRAINED) for group in trained] + list((dropped or {}).items())
        lineage = self._database.lineage
        with self._database.transaction(f"commit step {step}", durable=checkpoint is not None) as connection:
            changed = connection.execute(
                "UPDATE steps SET version = ?, checkpoint = ? WHERE lineage = ? AND step = ? AND version IS NULL",
                (version, checkpoint, lineage, step),
            ).rowcount
            if changed != 1:
                raise StoreError(f"cannot commit step {step}: it was not begun, or is committed already")
            connection.executemany(
                "INSERT INTO settled VALUES (?, ?, ?, ?)", [(lineage, step, group, fate) for group, fate in fates]
            )
            if fingerprints is not None:
                connection.execute("INSERT INTO weights VALUES (?, ?, ?, ?)", (lineage, step, *fingerprints))

    def mark_checkpoint(self, step: int, checkpoint: str) -> None:
        """Enter that the last committed step, which had no checkpoint, has one now: what an interrupted run does."""
        last = self.last_step()
        if last is None or last.step != step or last.checkpoint is not None:
            raise StoreError(f"cannot enter checkpoint {checkpoint!r} for step {step}: last committed was {last}")
        with self._database.transaction(f"enter the checkpoint of step {step}", durable=True) as connection:
            changed = connection.execute(
                f"UPDATE steps SET checkpoint = ? WHERE step = ? AND version IS NOT NULL AND {live('steps')}",
                (checkpoint, step),
            ).rowcount
            if changed != 1:
                raise StoreError(f"cannot enter checkpoint {checkpoint!r}: {changed} live steps are step {step}")

    def rewind(self, to_step: int) -> None:
        """Go on from the state after `to_step` (0: from the start). What came later is abandoned, and kept.

        Call it at every resume, with the step of the checkpoint that is loaded. Raises `StoreError` if that step is
        not committed in the surviving lineage.
        """
        if to_step and to_step not in {step.step for step in self.steps()}:
            raise StoreError(f"cannot rewind to step {to_step}: it is not among the committed steps")
        lineage = self._database.lineage + 1
        with self._database.transaction(f"rewind to step {to_step}") as connection:
            connection.execute("INSERT INTO lineages VALUES (?, ?)", (lineage, to_step))
        self._database.lineage = lineage

    def steps(self) -> list[Step]:
        """The committed steps of the surviving lineage."""
        rows = self._database.all(
            "SELECT steps.step, version, checkpoint, coalesce(began, ''), coalesce(made, '') FROM steps "
            "LEFT JOIN weights ON weights.lineage = steps.lineage AND weights.step = steps.step "
            f"WHERE version IS NOT NULL AND {live('steps')} ORDER BY steps.step"
        )
        return [
            Step(step=step, version=version, checkpoint=checkpoint, began=began, made=made)
            for step, version, checkpoint, began, made in rows
        ]

    def last_step(self, *, checkpointed: bool = False) -> Step | None:
        """The last committed step of the surviving lineage; with `checkpointed`, the last that can be resumed from."""
        steps = [step for step in self.steps() if step.checkpoint is not None or not checkpointed]
        return steps[-1] if steps else None

    def position(self) -> int:
        """How many prompts of the stream the surviving lineage has drawn: where the next step draws on."""
        return int(self._database.all(f"SELECT coalesce(max(position) + 1, 0) FROM draws WHERE {live('draws')}")[0][0])

    def open(self) -> list[Open]:
        """The prompts that a run which goes on from here has to draw again before any new one, by position."""
        counts = Counter(draw.position for draw in self._draws())
        return [
            Open(position=draw.position, draws=counts[draw.position])
            for draw in sorted(self._latest().values(), key=lambda draw: draw.position)
            if draw.fate in (None, GIVEN_UP)
        ]

    def standing(self) -> Standing:
        """What became of all that was drawn."""
        fates = Counter("open" if draw.fate in (None, GIVEN_UP) else draw.fate for draw in self._latest().values())
        (behind,) = self._database.all(f"SELECT max(base_version - oldest) {_TRAINED_GROUPS}", _TRAINED)[0]
        return Standing(
            steps=len(self.steps()),
            drawn=fates.total(),
            trained=fates[TRAINED],
            open=fates["open"],
            dropped=fates.total() - fates[TRAINED] - fates["open"],
            given_up=sum(draw.fate == GIVEN_UP for draw in self._draws()),
            staleness=int(behind or 0),
        )

    def _draws(self) -> list[_Drawn]:
        """What was drawn, in the order in which it was, with what became of it."""
        rows = self._database.all(f"SELECT group_id, fate, lineage, step FROM settled WHERE {live('settled')}")
        fates = {group: (fate, (lineage, step)) for group, fate, lineage, step in rows}
        rows = self._database.all(
            f"SELECT position, group_id, lineage, step FROM draws WHERE {live('draws')} "
            "ORDER BY lineage, step, length(group_id), group_id"  # what is drawn again has a number at its end
        )
        return [
            _Drawn(position, group, (lineage, step), *fates.get(group, (None, None)))
            for position, group, lineage, step in rows
        ]

    def _latest(self) -> dict[int, _Drawn]:
        """The last draw of each prompt."""
        return {draw.position: draw for draw in self._draws()}

    def check(self) -> list[str]:
        """What is wrong along the surviving lineage; empty if nothing is.

        Looks for prompts skipped, or drawn again though an earlier group of theirs was not given up; for prompts and
        groups trained twice, groups trained without having been drawn or emitted, never settled, or staler than
        allowed; for gaps in steps and versions, and for weights that changed between two steps.
        """
        return [
            *self._check_steps(),
            *self._check_weights(),
            *self._check_draws(),
            *self._check_fates(),
            *self._check_versions(),
        ]

    def _check_steps(self) -> Iterable[str]:
        rows = self._database.all(f"SELECT step, base_version, version FROM steps WHERE {live('steps')} ORDER BY step")
        made = None
        for expected, (step, base, version) in enumerate(rows, rows[0][0] if rows else 1):
            if step != expected:
                yield f"step {expected} is missing: the next one recorded is {step}"
                return
            if made is not None and base != made:
                yield f"step {step} began with version {base}, but the step before it made {made}"
            if version is None and step != rows[-1][0]:
                yield f"step {step} was never committed, though later ones were"
            if version is not None and version <= base:
                yield f"step {step} made version {version} out of {base}: versions must grow"
            made = version

    def _check_weights(self) -> Iterable[str]:
        for last, step in pairwise(self.steps()):
            if last.made and step.began and last.made != step.began:
                yield f"step {step.step} trained weights {step.began}, but step {last.step} had made {last.made}"

    def _check_draws(self) -> Iterable[str]:
        draws = self._draws()
        by_prompt: defaultdict[int, list[_Drawn]] = defaultdict(list)
        for draw in draws:
            by_prompt[draw.position].append(draw)
        skipped = set(range(max(by_prompt, default=-1) + 1)) - set(by_prompt)
        yield from (f"prompt {position} was skipped" for position in sorted(skipped))
        newest = max((found[0].at for found in by_prompt.values()), default=(0, 0))  # of those drawn for the first time
        open_steps = self._database.all(f"SELECT lineage, step FROM steps WHERE version IS NULL AND {live('steps')}")
        going = max(open_steps, default=None)
        for position, found in sorted(by_prompt.items()):
            if any(not one.may_be_drawn_again(following, going) for one, following in pairwise(found)):
                yield f"prompt {position} was drawn {len(found)} times"
            last = found[-1]
            if last.fate == GIVEN_UP and last.settled is not None and newest > last.settled:
                yield f"prompt {position} was skipped: {last.group} was given up, and nothing drawn for it"
            if last.fate is None and newest[0] > last.at[0]:
                yield f"prompt {position} was skipped: {last.group} was on its way at a kill, and nothing drawn for it"
        groups = Counter(draw.group for draw in draws)
        yield from (f"group {group} was drawn {n} times" for group, n in groups.items() if n > 1)

    def _check_fates(self) -> Iterable[str]:
        settled = self._database.all(f"SELECT group_id, fate, step FROM settled WHERE {live('settled')}")
        drawn = {draw.group: draw for draw in self._draws()}
        rows = self._database.all(
            f"SELECT group_id, oldest FROM emitted WHERE label = ? AND {live('emitted')}", (TRAIN,)
        )
        emitted: dict[str, int | None] = dict(rows)
        for group, n in Counter(group for group, _, _ in settled).items():
            if n > 1:
                yield f"group {group} was settled {n} times"
        prompts = Counter(drawn[group].position for group, fate, _ in settled if group in drawn and fate != GIVEN_UP)
        yield from (f"prompt {position} was trained or dropped {n} times" for position, n in prompts.items() if n > 1)
        for group, fate, step in settled:
            if group not in drawn:
                yield f"group {group} was {fate} in step {step}, but never drawn"
            elif fate == TRAINED and group not in emitted:
                yield f"group {group} was trained in step {step}, but never emitted"
        rows = self._database.all(
            f"SELECT step, staleness, base_version FROM steps WHERE version IS NOT NULL AND {live('steps')}"
        )
        last, staleness, base = max(rows, default=(0, 0, 0))
        latest = {draw.group for draw in self._latest().values()}
        for group, draw in drawn.items():
            if draw.fate is not None or group not in latest or draw.at[0] < self._database.lineage:
                continue
            oldest = emitted.get(group)
            late = draw.at[1] <= last - (_PATIENCE * (staleness + 1) if staleness else 0)
            if late or (oldest is not None and base - oldest > staleness):
                yield f"group {group} was drawn in step {draw.at[1]} and neither trained nor dropped since"

    def _check_versions(self) -> Iterable[str]:
        rows = self._database.all(
            "SELECT settled.group_id, settled.step, steps.base_version, steps.staleness, emitted.oldest, "
            f"emitted.newest {_TRAINED_GROUPS}",
            _TRAINED,
        )
        for group, step, base, staleness, oldest, newest in rows:
            if newest is not None and newest > base:
                yield f"group {group} has tokens of version {newest}, but step {step} trained it into version {base}"
            if oldest is not None and base - oldest > staleness:
                yield f"group {group} has tokens of version {oldest}, more than {staleness} older than {base}"
