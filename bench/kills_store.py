"""What the store of a run that was killed says: where the kill hit, and whether a prompt was lost or trained twice."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LINEAGE = "(SELECT coalesce(max(lineage), 0) FROM lineages)"
START, PLAYING, TRAINING, CHECKPOINT, END = "at_start", "while_playing", "while_training", "at_checkpoint", "at_end"
PLACES = (START, PLAYING, TRAINING, CHECKPOINT, END)
COUNTED = (PLAYING, TRAINING, CHECKPOINT)  # a step is open, and prompts were drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a kill hit. place: `while_training` if so many groups were whole as a step takes: the trainer computes, or
    waits for one that is due. flying, whole: groups on their way and not taken; redrawn: prompts of the open step that
    were drawn again since their group was given up."""

    place: str
    flying: int = 0
    whole: int = 0
    redrawn: int = 0


def lineage(out: Path) -> int:
    """The number of the last start that got as far as its store; -1 if there is none."""
    store = _store(out)
    return -1 if store is None else _number(store, f"SELECT {_LINEAGE}")


def has_drawn(out: Path, before: int) -> bool:
    """Whether a start has drawn prompts. before: the lineage of the start before it."""
    store = _store(out)
    return store is not None and _number(store, f"SELECT count(*) FROM draws WHERE lineage > {before}") > 0


def committed(out: Path, *, checkpointed: bool = False) -> int:
    """The last committed step (with a checkpoint); 0 if there is none."""
    store, column = _store(out), "checkpoint" if checkpointed else "version"
    if store is None:
        return 0
    return _number(
        store,
        f"SELECT max(step) FROM (SELECT step FROM steps WHERE {column} IS NOT NULL AND lineage = {_LINEAGE} "
        f"UNION SELECT from_step FROM lineages WHERE lineage = {_LINEAGE})",
    )


def checkpoints(out: Path) -> set[int]:
    """The folders of checkpoints, whole or not, by their numbers on the disk."""
    found = set()
    for folder in (*out.glob("*/checkpoints/.step-*"), *out.glob("*/checkpoints/step-*")):
        with suppress(OSError):
            found.add(folder.stat().st_ino)
    return found


def moment(out: Path, before: int, known: Collection[int], *, steps: int, per_step: int) -> Moment:
    """Where a start is. before: the lineage of the start before it; known: the checkpoints that there were."""
    if not has_drawn(out, before):
        return Moment(place=START)
    done = committed(out)
    if done >= steps:
        return Moment(place=END)
    path = _path(out)
    assert path is not None
    with closing(_opened(path)) as store:
        draws = store.execute(
            f"SELECT position, group_id FROM draws WHERE lineage = {_LINEAGE} ORDER BY step, length(group_id), group_id"
        ).fetchall()
        whole = {name for (name,) in store.execute(f"SELECT group_id FROM emitted WHERE lineage = {_LINEAGE}")}
        settled = {name for (name,) in store.execute(f"SELECT group_id FROM settled WHERE lineage = {_LINEAGE}")}
    latest = dict(draws)
    waiting = set(latest.values()) - settled
    moment = Moment(
        place=TRAINING if len(waiting & whole) >= per_step else PLAYING,
        flying=len(waiting - whole),
        whole=len(waiting & whole),
        redrawn=sum(latest[position] != group and group not in settled for position, group in draws),
    )
    if _unfinished(out, done, known):
        return Moment(place=CHECKPOINT, flying=moment.flying, whole=moment.whole, redrawn=moment.redrawn)
    return moment


def _unfinished(out: Path, done: int, known: Collection[int]) -> bool:
    """Whether a checkpoint is written, or is there and its step not committed yet."""
    for folder in (*out.glob("*/checkpoints/.step-*"), *out.glob("*/checkpoints/step-*")):
        with suppress(OSError):
            if int(folder.name.rpartition("-")[2]) > done and folder.stat().st_ino not in known:
                return True
    return False


# -- what is judged ------------------------------------------------------------------------------------------------


def wrong_now(out: Path) -> int:
    """What the ledger finds wrong in a run that was just killed."""
    from askesis.rollout import TraceStore
    from askesis.types import StoreError

    path = _path(out)
    if path is None:
        return 0
    try:
        with TraceStore(path, readonly=True) as store:
            found = store.ledger.check()
    except StoreError as error:
        if has_drawn(out, -1):
            raise
        print(f"a store that was only begun: {error}", file=sys.stderr)
        return 0
    for line in found:
        print(f"WRONG in {path}: {line}", file=sys.stderr, flush=True)
    return len(found)


def checked(out: Path) -> dict[str, Any]:
    """What the command says of a finished run, and what a second reading of its store does."""
    folder = next(iter(out.glob("*/recipe.toml"))).parent
    command = [sys.executable, "-m", "askesis", "runs", "check", str(folder), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode not in (0, 1):
        raise SystemExit(f"bench kills: {' '.join(command)} failed: {told.stderr[-500:]}")
    skipped, twice = second_reading(folder / "traces.db")
    said = json.loads(told.stdout)
    return {
        **{key: said[key] for key in ("trained", "dropped", "given_up", "staleness", "open", "steps")},
        "again": drawn_again(folder / "traces.db"),
        "wrong": len(said["wrong"]),
        "skipped": skipped,
        "twice": twice,
    }


def second_reading(path: Path) -> tuple[int, int]:
    """(prompts skipped, prompts used twice) along the surviving lineage, straight from the tables."""
    with closing(_opened(path)) as store:
        lineages = dict(store.execute("SELECT lineage, from_step FROM lineages"))
        drawn = store.execute("SELECT lineage, step, position, group_id FROM draws").fetchall()
        settled = store.execute("SELECT lineage, step, group_id, fate FROM settled").fetchall()

    def survives(lineage: int, step: int) -> bool:
        return all(step <= start for later, start in lineages.items() if later > lineage)

    prompts = {group: position for lineage, step, position, group in drawn if survives(lineage, step)}
    used = Counter(
        prompts.get(group, -1) for lineage, step, group, fate in settled if fate != "stale" and survives(lineage, step)
    )
    last = max(prompts.values(), default=-1)
    return sum(position not in used for position in range(last + 1)), sum(n - 1 for n in used.values())


def drawn_again(path: Path) -> int:
    """Groups that were given up and settled so, in whichever lineage: also those that a kill has undone."""
    with closing(_opened(path)) as store:
        return int(store.execute("SELECT count(*) FROM settled WHERE fate = 'stale'").fetchone()[0])


def _path(out: Path) -> Path | None:
    return next(iter(sorted(out.glob("*/traces.db"))), None)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)


def _store(out: Path) -> sqlite3.Connection | None:
    path = _path(out)
    return None if path is None else _opened(path)


def _number(store: sqlite3.Connection, query: str) -> int:
    """0 also where there is no such table yet."""
    with closing(store), suppress(sqlite3.Error):
        return int(store.execute(query).fetchone()[0] or 0)
    return 0
