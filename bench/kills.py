"""SIGKILLs at random moments of asynchronous runs, resumed: is a prompt skipped, or one trained twice?

Runs of `repair` with askesis-tiny, up to `staleness` versions ahead, with real sandboxes, are started, killed and
resumed until each is finished and all kills are spent. Some calls of tools are slow, and a group that holds the trainer
back is given up soon, so that prompts are drawn again under kills, too. What is killed:

- `process`: the process of the run alone (in most runs trainer and engine are in it);
- `machine`: the process and everything that it has started, at one moment;
- `worker`: something that it has started, a sandbox's: the run has to go on by itself;
- `engine`: in a Ray cluster of two further nodes on this machine (`bench/kills_cluster.py`), the process of one of two
  engines: the run goes on by itself, or ends with an error that says why, and is resumed;
- `node`: there, one of the nodes, with what it holds; another is added.

The delay of a kill counts from the first prompt that a start draws, and a kill counts if a step is open then; others
(before that; after the last step) are told apart. Where it hit is read from the store: see `kills_store.Moment`. After
every kill that ends a run its ledger is checked as it stands, and every run at its end by `askesis runs check`, and
once more by a reading of its store that shares no code with it. What of a killed run lives on is counted (`left`).

Options: `kills` (100), `cluster` (30 of them in the cluster; 0: none), `staleness` (4; each second run has 1, where
slow groups are late at once), `steps` (10, of a run), `seed` (0), `longest` (5 seconds from the first draw to a kill,
more where a machine is so busy that no checkpoint comes in that time), `state` (a folder that is kept; else a temporary
one).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench import kills_store as store
from bench.kills_cluster import Machines, ray_is_there
from bench.result import Options, Result

ALONE = ("process", "machine", "worker")
CLUSTERED = ("engine", "engine", "engine", "engine", "node", "process")  # as often
KINDS = (*ALONE, "engine", "node")
ENDING = ("process", "machine")
_WHAT = ("the process", "all at once", "a sandbox's worker", "an engine", "a node of a cluster")
TASKS = 3  # of a step
LEAST_S = 0.2  # from a start to a kill before its first draw: before that nothing of ours runs
EARLY = 0.05  # share of the kills that are to hit before the first draw
STARTED_S = 180.0  # in which a start must have drawn something
GONE_S = 10.0  # in which what a killed run had started has to go
SAID = 3  # the exit code of a run that ended with an error of its own
GOAL = "0 prompts skipped, 0 trained twice"


def recipe(folder: Path, steps: int, staleness: int, seed: int) -> dict[str, Any]:
    """A small run of real episodes, of which some have to wait for a tool."""
    return {
        "run": {"name": "kills", "steps": steps, "seed": seed, "out": str(folder)},
        "env": {"name": "repair"},
        "rollout": {
            **{"tasks_per_step": TASKS, "group_size": 3, "concurrency": 48},
            **{"staleness": staleness, "spare": 0.2},
        },
        "faults": {"seed": seed, "inject": [{"site": "tool", "kind": "slow", "rate": 0.1, "slow_s": 3.0}]},
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 2},
        "log": {"tensorboard": False},
    }


def _train(given: Mapping[str, Any], said: Path) -> None:
    import askesis
    from askesis.types import AskesisError

    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        askesis.train(display=False, **given)
    except AskesisError as error:
        said.write_text(f"{type(error).__name__}: {error}")
        sys.exit(SAID)
    except BaseException:
        said.write_text(traceback.format_exc())
        raise


@dataclass(slots=True)
class Tally:
    """What was killed and what came of it. kills: those that count, by kind; places: all, by where they hit; flying:
    groups on their way at those that count; redrawn: of these, those under which a prompt was drawn again in the open
    step; redone: steps that were committed and had to be done again; ended: runs that ended by themselves, with an
    error that says why; first_s: seconds from a start to its first draw."""

    kills: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    flying: list[int] = field(default_factory=list)
    redrawn: int = 0
    starts: int = 0
    redone: int = 0
    left: int = 0
    wrong: int = 0
    ended: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=lambda: [3.0])
    checked: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, moment: store.Moment) -> None:
        """A kill."""
        self.places[moment.place] += 1
        if moment.place in store.COUNTED:
            self.kills[kind] += 1
            self.flying.append(moment.flying)
            self.redrawn += moment.redrawn > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A run, and what is done to it. out: the folder that its own is in; wanted: kills after which it is left alone;
    machines: the cluster that it is in, if any."""

    settings: Mapping[str, Any]
    out: Path
    steps: int
    wanted: int
    longest: float
    begin: Callable[[Mapping[str, Any], Path], BaseProcess]
    machines: Machines | None = None

    def start(self) -> BaseProcess:
        """Start it, or go on with it."""
        folder = next(iter(sorted(self.out.glob("*/recipe.toml"))), None)
        given = {"recipe": self.settings} if folder is None else {"resume": str(folder.parent)}
        return self.begin(given, self.out.with_suffix(".said"))

    def moment(self, before: int, known: Collection[int]) -> store.Moment:
        """Where it is now."""
        return store.moment(self.out, before, known, steps=self.steps, per_step=TASKS)


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    wanted, steps = options.number("kills", 100), options.number("steps", 10)
    staleness, seed = options.number("staleness", 4), options.number("seed", 0)
    in_cluster = min(wanted, options.number("cluster", 30)) if ray_is_there() else 0
    longest = float(options.values.get("longest", "5"))
    rng, tally, begun = random.Random(seed), Tally(), time.monotonic()
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload(["askesis.loop.training", "askesis.loop.plan", "askesis.envs.repair"])

    def begin(given: Mapping[str, Any], said: Path) -> BaseProcess:
        child = clean.Process(target=_train, args=(given, said))
        child.start()
        return child

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as after:
        out = Path(options.values.get("state", scratch))
        out.mkdir(parents=True, exist_ok=True)
        machines = after.enter_context(Machines()) if in_cluster else None
        number = 0
        while sum(tally.kills.values()) < wanted or not number:
            folder = out / f"run{seed}-{number}"
            settings = recipe(folder, steps, staleness if number % 2 == 0 else 1, number)
            bound = wanted
            if machines is not None:
                if sum(tally.kills.values()) < in_cluster:
                    settings["cluster"], bound = machines.settings(), in_cluster
                else:
                    after.close()
                    machines = None
            played = Played(
                settings=settings,
                out=folder,
                steps=steps,
                wanted=bound,
                longest=longest,
                begin=begin,
                machines=machines,
            )
            _until_finished(played, tally, rng)
            tally.checked.append(store.checked(folder))
            number += 1
            done = f"{sum(tally.kills.values())} kills so far, {dict(tally.kills)}, {dict(tally.places)}"
            print(f"run {number}: {done}, {tally.checked[-1]}", file=sys.stderr, flush=True)
    return _result(tally, wanted, staleness, time.monotonic() - begun)


def _until_finished(played: Played, tally: Tally, rng: random.Random) -> None:
    """Start, kill and resume one run until it is finished."""
    patience = played.longest
    while True:
        before, known = store.lineage(played.out), store.checkpoints(played.out)
        stood = store.committed(played.out, checkpointed=True)
        child = played.start()
        tally.starts += 1
        _spend(played, child, tally, rng, patience, before, known)
        kept = store.committed(played.out, checkpointed=True)
        patience = played.longest if kept > stood else 1.3 * patience  # a busy machine gets nowhere in so few seconds
        if child.exitcode == 0:
            return
        if child.exitcode == SAID:
            tally.ended.append(played.out.with_suffix(".said").read_text())
            print(f"ended by itself: {tally.ended[-1]}", file=sys.stderr, flush=True)
        elif child.exitcode != -signal.SIGKILL:
            said = played.out.with_suffix(".said")
            why = said.read_text() if said.exists() else "it said nothing"
            raise SystemExit(f"bench kills: a run in {played.out} ended by itself with {child.exitcode}: {why}")


def _spend(
    played: Played,
    child: BaseProcess,
    tally: Tally,
    rng: random.Random,
    patience: float,
    before: int,
    known: Collection[int],
) -> None:
    """Kill in one start of a run until that has ended. before, known: the lineage and the checkpoints before it."""
    kinds = ALONE if played.machines is None else CLUSTERED
    if sum(tally.kills.values()) < played.wanted:
        early = rng.random() < EARLY
        if early:
            child.join(rng.uniform(LEAST_S, max(2 * LEAST_S, statistics.median(tally.first_s))))
        else:
            _until_drawn(played, child, tally, before)
            child.join(rng.uniform(0.0, patience))
        while child.exitcode is None and sum(tally.kills.values()) < played.wanted:
            kind = rng.choice(ENDING if early and played.machines is None else ("process",) if early else kinds)
            hit = _kill(played, kind, child, rng, tally, before, known)
            if hit is None:  # nothing of that kind is there yet
                child.join(0.2)
                continue
            tally.add(kind, hit)
            if kind in ENDING:
                tally.wrong += store.wrong_now(played.out)
                return
            child.join(rng.uniform(LEAST_S, patience))  # it has to go on, and is killed again
    child.join()


def _until_drawn(played: Played, child: BaseProcess, tally: Tally, before: int) -> None:
    """Wait until a start has drawn something, or is over."""
    begun = time.monotonic()
    while not store.has_drawn(played.out, before):
        child.join(0.02)
        if child.exitcode is not None:
            return
        if time.monotonic() - begun > STARTED_S:
            raise SystemExit(f"bench kills: a run in {played.out} has drawn nothing within {STARTED_S:g} s")
    tally.first_s.append(time.monotonic() - begun)


def _kill(
    played: Played,
    kind: str,
    child: BaseProcess,
    rng: random.Random,
    tally: Tally,
    before: int,
    known: Collection[int],
) -> store.Moment | None:
    """Kill something of a run. Where that hit; None where the run has nothing of that kind now."""
    assert child.pid is not None
    machines = played.machines
    if kind in ("engine", "node"):
        assert machines is not None
        return machines.kill(kind, rng, lambda: played.moment(before, known))
    below = descendants(child.pid)
    if kind == "worker":
        if not below:
            return None
        hit = played.moment(before, known)
        _end(rng.choice(below))
        return hit
    if kind == "machine":
        os.kill(child.pid, signal.SIGSTOP)  # so that nothing new is started between two of these
        below = descendants(child.pid)
        for pid in below:
            _end(pid)
    child.kill()
    child.join()
    if child.exitcode != -signal.SIGKILL:
        return None  # it had just come to its end
    hit = played.moment(before, known)
    redone = store.committed(played.out) - store.committed(played.out, checkpointed=True)
    tally.redone += redone
    tally.left += _left(below, machines)
    return hit


def _left(below: Sequence[int], machines: Machines | None) -> int:
    """How many processes of a killed run do not go by themselves, which are ended then."""
    until, left = time.monotonic() + GONE_S, list(below)
    while time.monotonic() < until:
        left = [pid for pid in below if _lives(pid)] + ([] if machines is None else machines.actors())
        if not left:
            return 0
        time.sleep(0.05)
    for pid in left:
        _end(pid)
    return len(left)


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


# -- what came of it -----------------------------------------------------------------------------------------------


def _result(tally: Tally, wanted: int, staleness: int, seconds: float) -> Result:
    total = {key: sum(one[key] for one in tally.checked) for key in tally.checked[0]}
    killed, wrong = sum(tally.kills.values()), total["wrong"] + tally.wrong
    never = [kind for kind in KINDS if not tally.kills[kind]]
    met = killed >= wanted and not never and total["given_up"] > 0
    met = met and wrong == total["skipped"] == total["twice"] == total["open"] == 0
    ours = {
        "kills": killed,
        **{f"kills_{kind}": tally.kills[kind] for kind in KINDS},
        **{f"kills_{place}": tally.places[place] for place in store.PLACES},
        "kills_redrawn": tally.redrawn,
        "flying": statistics.mean(tally.flying) if tally.flying else 0.0,
        "skipped": total["skipped"],
        "trained_twice": total["twice"],
        "wrong": wrong,
        "prompts": total["trained"] + total["dropped"],
        "trained": total["trained"],
        "dropped": total["dropped"],
        "groups_given_up": total["given_up"],
        "groups_given_up_and_undone": total["again"] - total["given_up"],
        "staleness_max": max(one["staleness"] for one in tally.checked),
        "runs": len(tally.checked),
        "starts": tally.starts,
        "first_draw_s": round(statistics.median(tally.first_s), 2),
        "steps": total["steps"],
        "steps_done_again": tally.redone,
        "ended_by_themselves": len(tally.ended),
        "left": tally.left,
        "seconds": round(seconds, 1),
    }
    notes = [
        f"{killed} kills of {len(tally.checked)} runs at staleness {staleness} and 1, {tally.starts} starts; each was "
        "resumed until it was finished, then checked by `askesis runs check` and a second reading of its store; the "
        "ledger was checked after each kill that ended a run, too",
        f"{tally.places[store.START]} further kills hit before the first draw of a start, {tally.places[store.END]} "
        "after the last step: they do not count",
    ]
    if never:
        why = "" if ray_is_there() else " (Ray is not installed, which the last two need)"
        notes.append(f"left out: {', '.join(never)}{why}")
    return Result(
        name="kills",
        command="python -m bench kills",
        goal=GOAL,
        ours=ours,
        peers={},
        spread={},
        ratio=float(met),
        met=met,
        notes=notes + sorted(set(tally.ended)),
    )


def row(kept: Mapping[str, Any]) -> str:
    """The page's line."""
    ours = kept["ours"]
    goal = "met" if kept["met"] else "not met"
    figures = ((ours.get(f"kills_{kind}", 0), what) for kind, what in zip(KINDS, _WHAT, strict=True))
    killed = ", ".join(f"{count:.0f} of {what}" for count, what in figures if count)
    hit = ""
    if f"kills_{store.PLAYING}" in ours:
        playing, training, checkpoint = (ours[f"kills_{place}"] for place in store.COUNTED)
        hit = (
            f"{playing:.0f} hit while episodes were played, {training:.0f} while a step's groups were whole, "
            f"{checkpoint:.0f} in a checkpoint, with {ours['flying']:.1f} groups on their way; "
            f"{ours['groups_given_up']:.0f} groups were given up and drawn again. "
        )
    return (
        f"- **{ours['kills']:.0f} SIGKILLs** at random moments of asynchronous runs ({killed}): {hit}Of "
        f"{ours['prompts']:,.0f} prompts {ours['skipped']:.0f} skipped, {ours['trained_twice']:.0f} trained twice; "
        f"goal 0 and 0: {goal}. `{kept['command']}`"
    )
