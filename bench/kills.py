"""SIGKILLs at random moments of asynchronous runs, resumed: is a prompt skipped, or one trained twice?

Runs of `repair` with askesis-tiny, `staleness` versions ahead, with real sandboxes, are started, killed and resumed
until each is finished and all kills are spent. What is killed: the `process` of the run alone (trainer and engine are
in it), the whole `machine` (the process and everything that it has started, at one moment), or a `worker` (something
that it has started, a sandbox's: the run has to go on by itself). Every run is judged by `askesis runs check`, and once
more by a reading of its store that shares no code with it. What of a killed run lives on is counted too (`left`): with
bubblewrap 0.8 an idle process where the kill fell between the two steps in which a sandbox is made.

Options: `kills` (100), `staleness` (4), `steps` (10, of a run), `seed` (0), `longest` (6 seconds from a start to its
kill, more where a machine is so busy that no checkpoint comes in that time), `state` (a folder that is kept; else a
temporary one).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.result import Options, Result

KINDS = ("process", "machine", "worker")
_WHAT = ("the process", "all at once", "a sandbox's worker")
TASKS = 3  # of a step
LEAST_S = 0.2  # from a start to its kill: before that nothing of ours runs
GONE_S = 10.0  # in which what a killed run had started has to go
GOAL = "0 prompts skipped, 0 trained twice"


def recipe(folder: Path, steps: int, staleness: int, seed: int) -> dict[str, Any]:
    """A small run of real episodes."""
    return {
        "run": {"name": "kills", "steps": steps, "seed": seed, "out": str(folder)},
        "env": {"name": "repair"},
        "rollout": {"tasks_per_step": TASKS, "group_size": 3, "staleness": staleness, "concurrency": 48},
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 2},
        "log": {"tensorboard": False},
    }


def _train(given: Mapping[str, Any]) -> None:
    import askesis

    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    askesis.train(display=False, **given)


@dataclass(slots=True)
class Tally:
    """What was killed and what came of it. redone: steps that were committed and had to be done again."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    redone: int = 0
    left: int = 0
    checked: list[dict[str, Any]] = field(default_factory=list)


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    wanted, steps = options.number("kills", 100), options.number("steps", 10)
    staleness, seed = options.number("staleness", 4), options.number("seed", 0)
    longest = float(options.values.get("longest", "6"))
    rng, tally, begun = random.Random(seed), Tally(), time.monotonic()
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload(["askesis.loop.training", "askesis.loop.plan", "askesis.envs.repair"])
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(options.values.get("state", scratch))
        number = 0
        while sum(tally.kills.values()) < wanted or not number:
            folder = out / f"run{seed}-{number}"
            settings = recipe(folder, steps, staleness, number)

            def start(given: Mapping[str, Any]) -> BaseProcess:
                child = clean.Process(target=_train, args=(given,))
                child.start()
                return child

            _until_finished(settings, folder, start, tally, rng, wanted, longest)
            tally.checked.append(_checked(folder))
            number += 1
            print(
                f"run {number}: {sum(tally.kills.values())} kills so far, {tally.checked[-1]}",
                file=sys.stderr,
                flush=True,
            )
    return _result(tally, wanted, staleness, time.monotonic() - begun)


def _until_finished(
    settings: Mapping[str, Any],
    out: Path,
    start: Callable[[Mapping[str, Any]], BaseProcess],
    tally: Tally,
    rng: random.Random,
    wanted: int,
    longest: float,
) -> None:
    """Start, kill and resume one run until it is finished."""
    patience = longest
    while True:
        folder = next(iter(sorted(out.glob("*/recipe.toml"))), None)
        child = start({"recipe": settings} if folder is None else {"resume": str(folder.parent)})
        tally.starts += 1
        until, stood = rng.uniform(LEAST_S, patience), _committed(out, checkpointed=True)
        while sum(tally.kills.values()) < wanted:
            child.join(until)
            if child.exitcode is not None:
                break
            before = _committed(out)
            kind, left = _kill(child, rng)
            tally.left += left
            if kind is None:
                until = 0.2
                continue
            tally.kills[kind] += 1
            if kind != "worker":
                kept = _committed(out, checkpointed=True)
                tally.redone += before - kept
                patience = longest if kept > stood else 1.3 * patience  # a busy machine gets nowhere in so few seconds
                break
            until = rng.uniform(LEAST_S, patience)  # it has to go on, and is killed again
        else:
            child.join()
        if child.exitcode == 0:
            return
        if child.exitcode not in (None, -signal.SIGKILL):
            raise SystemExit(f"bench kills: a run in {out} ended by itself with {child.exitcode}; see its log")


def _kill(child: BaseProcess, rng: random.Random) -> tuple[str | None, int]:
    """Kill something of a run: what (None where it has nothing of that kind yet), and how many processes it left."""
    assert child.pid is not None
    kind = rng.choice(KINDS)
    below = descendants(child.pid)
    if kind == "worker":
        if not below:
            return None, 0
        _end(rng.choice(below))
        return kind, 0
    if kind == "machine":
        os.kill(child.pid, signal.SIGSTOP)  # so that nothing new is started between two of these
        below = descendants(child.pid)
        for pid in below:
            _end(pid)
    child.kill()
    child.join()
    until = time.monotonic() + GONE_S
    while (left := [pid for pid in below if _lives(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        _end(pid)
    return kind, len(left)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """All that a process has started, and what that has, as it is now."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found, look = [], [pid]
    while look:
        children = parents.get(look.pop(), [])
        found += children
        look += children
    return found


# -- what is judged ------------------------------------------------------------------------------------------------


def _store(out: Path) -> sqlite3.Connection | None:
    path = next(iter(sorted(out.glob("*/traces.db"))), None)
    return None if path is None else sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)


_LINEAGE = "(SELECT max(lineage) FROM lineages)"


def _committed(out: Path, *, checkpointed: bool = False) -> int:
    """The last committed step (with a checkpoint); 0 if there is none."""
    column = "checkpoint" if checkpointed else "version"
    return _number(
        out,
        f"SELECT max(step) FROM (SELECT step FROM steps WHERE {column} IS NOT NULL AND lineage = {_LINEAGE} "
        f"UNION SELECT from_step FROM lineages WHERE lineage = {_LINEAGE})",
    )


def _number(out: Path, query: str) -> int:
    store = _store(out)
    if store is None:
        return 0
    with closing(store), suppress(sqlite3.Error):
        return int(store.execute(query).fetchone()[0] or 0)
    return 0


def _checked(out: Path) -> dict[str, Any]:
    """What the command says of a run, and what a second reading of its store does."""
    folder = next(iter(out.glob("*/recipe.toml"))).parent
    command = [sys.executable, "-m", "askesis", "runs", "check", str(folder), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode not in (0, 1):
        raise SystemExit(f"bench kills: {' '.join(command)} failed: {told.stderr[-500:]}")
    skipped, twice = second_reading(folder / "traces.db")
    said = json.loads(told.stdout)
    return {
        **{key: said[key] for key in ("trained", "dropped", "given_up", "staleness", "open", "steps")},
        "wrong": len(said["wrong"]),
        "skipped": skipped,
        "twice": twice,
    }


def second_reading(path: Path) -> tuple[int, int]:
    """(prompts skipped, prompts used twice) along the surviving lineage, straight from the tables."""
    with closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)) as store:
        lineages = dict(store.execute("SELECT lineage, from_step FROM lineages"))
        drawn = store.execute("SELECT lineage, step, position, group_id FROM draws").fetchall()
        settled = store.execute("SELECT lineage, step, group_id, fate FROM settled").fetchall()

    def survives(lineage: int, step: int) -> bool:
        return all(step <= start for later, start in lineages.items() if later > lineage)

    prompts = {group: position for lineage, step, position, group in drawn if survives(lineage, step)}
    used = Counter(
        prompts.get(group, -1)
        for lineage, step, group, fate in settled
        if fate != "given up" and survives(lineage, step)
    )
    last = max(prompts.values(), default=-1)
    return sum(position not in used for position in range(last + 1)), sum(n - 1 for n in used.values())


def _result(tally: Tally, wanted: int, staleness: int, seconds: float) -> Result:
    total = {key: sum(one[key] for one in tally.checked) for key in tally.checked[0]}
    killed = sum(tally.kills.values())
    met = killed >= wanted and total["wrong"] == total["skipped"] == total["twice"] == total["open"] == 0
    ours = {
        "kills": killed,
        **{f"kills_{kind}": tally.kills[kind] for kind in KINDS},
        "skipped": total["skipped"],
        "trained_twice": total["twice"],
        "wrong": total["wrong"],
        "prompts": total["trained"] + total["dropped"],
        "trained": total["trained"],
        "dropped": total["dropped"],
        "groups_given_up": total["given_up"],
        "staleness_max": max(one["staleness"] for one in tally.checked),
        "runs": len(tally.checked),
        "steps": total["steps"],
        "steps_done_again": tally.redone,
        "left": tally.left,
        "seconds": round(seconds, 1),
    }
    return Result(
        name="kills",
        command="python -m bench kills",
        goal=GOAL,
        ours=ours,
        peers={},
        spread={},
        ratio=float(met),
        met=met,
        notes=[
            f"{killed} kills of {len(tally.checked)} runs at staleness {staleness}, {tally.starts} starts; each was "
            "resumed until it was finished, then checked by `askesis runs check` and a second reading of its store",
            "the engine is the embedded one: it dies with the process of the run",
        ],
    )


def row(kept: Mapping[str, Any]) -> str:
    """The page's line."""
    ours = kept["ours"]
    goal = "met" if kept["met"] else "not met"
    killed = ", ".join(f"{ours[f'kills_{kind}']:.0f} of {what}" for kind, what in zip(KINDS, _WHAT, strict=True))
    return (
        f"- **{ours['kills']:.0f} SIGKILLs** at random moments of asynchronous runs ({killed}): of "
        f"{ours['prompts']:,.0f} prompts {ours['skipped']:.0f} skipped, {ours['trained_twice']:.0f} trained twice; "
        f"goal 0 and 0: {goal}. `{kept['command']}`"
    )
