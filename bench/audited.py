"""`askesis audit` on environments of other libraries, as they come: what it finds there, one command a row.

Each row of the table is one command that anyone can run; this runs them all. Libraries that cannot be installed beside
Askesis have a Python of their own (`make venv-verifiers`, `make venv-audited`); rows whose Python is not there are left
out, and named.

ratio: share of the audits that came to their end. Options: `only` (parts of names, with commas), `seconds` (of an
audit, 60), `jobs` (2), `seed` (0), `tasks` (12), `folder` (audits already there are not made again; each is written
there as `NAME.json`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.result import Options, Result

ROOT = Path(__file__).resolve().parent.parent
SCORES = "bench/reasoning_gym_scores.py:TheirScores"
GOAL = "every audit comes to its end, whatever the environment does"
SHOWN = ("high", "medium", "low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An environment. library: its package. python: the folder of its interpreter, below the project's; empty for ours.
    path: folders that its modules are in, below the project's."""

    library: str
    env: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = ""
    path: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What it is called in the table."""
        if self.env == SCORES:
            return f"{self.options['dataset']}"
        more = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.env}{f' ({more})' if more else ''}"

    @property
    def words(self) -> list[str]:
        """Of the command, without what all have in common."""
        given = [f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in self.options.items()]
        return ["audit", self.env, *(word for text in given for word in ("--option", text))]

    @property
    def program(self) -> Path:
        """Its interpreter."""
        return ROOT / self.python / "bin" / "python" if self.python else Path(sys.executable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited(Result):
    """rows: one for each environment: what it is, its version, the command, the verdict, and what was found."""

    rows: Sequence[Mapping[str, Any]] = ()


def gymnasium() -> list[Case]:
    """Gymnasium's own, and those of MiniGrid, which register themselves there."""
    own = (
        "FrozenLake-v1 FrozenLake8x8-v1 CliffWalking-v1 Taxi-v4 Blackjack-v1 CartPole-v1 MountainCar-v0 Acrobot-v1 "
        "Pendulum-v1 MountainCarContinuous-v0"
    ).split()
    grids = (
        "MiniGrid-Empty-Random-6x6-v0 MiniGrid-FourRooms-v0 MiniGrid-DoorKey-6x6-v0 MiniGrid-LavaGapS6-v0 "
        "MiniGrid-Fetch-6x6-N2-v0 MiniGrid-GoToDoor-6x6-v0 MiniGrid-MemoryS9-v0 MiniGrid-Dynamic-Obstacles-6x6-v0 "
        "BabyAI-GoToLocal-v0"
    ).split()
    return [
        *(Case(library="gymnasium", env=f"gymnasium:{name}") for name in own),
        *(Case(library="minigrid", env=f"gymnasium:minigrid:{name}", python=".venv-audited") for name in grids),
    ]


def reasoning_gym() -> list[Case]:
    """All its datasets, paid by its own scorers; those that cannot be made without options are none."""
    from reasoning_gym.factory import DATASETS

    return [
        Case(library="reasoning_gym", env=SCORES, options={"dataset": name})
        for name in sorted(DATASETS)
        if name not in ("composite", "propositional_logic")
    ]


def verifiers() -> list[Case]:
    """Packages of the index, and small ones made of verifiers' own classes; the second kind ships with our tests."""
    python = ".venv-audited-verifiers"
    where: dict[str, Any] = {"python": python, "path": ["tests/envs/verifiers_examples"]}
    packages = {"sophistry-bench-sprint": "sophistry_bench_sprint", "staros-stardata": "stardata.envs.constraint_gym"}
    kinds: list[dict[str, str]] = [{"kind": kind} for kind in ("multi", "tools", "stateful", "reasoning_gym")]
    kinds.append({"kind": "single", "oracle": "answer"})
    return [
        *(Case(library=name, env=f"verifiers:{module}", python=python) for name, module in packages.items()),
        *(Case(library="verifiers", env="verifiers:vf_examples", options=one, **where) for one in kinds),
        Case(library="verifiers", env="verifiers:vf_sums", **where),
    ]


def cases() -> list[Case]:
    """All of them, by library."""
    return [*gymnasium(), *verifiers(), *reasoning_gym()]


def run(options: Options) -> Audited:
    """The benchmark; see the module's text."""
    only = [part for part in options.values.get("only", "").split(",") if part]
    chosen = [one for one in cases() if not only or any(part in f"{one.library} {one.name}" for part in only)]
    kept = Path(options.values.get("folder") or tempfile.mkdtemp(prefix="audited-"))
    kept.mkdir(parents=True, exist_ok=True)
    settings = [f"--{key}={options.number(key, usual)}" for key, usual in SETTINGS.items()]
    rows, notes = [], []
    for case in chosen:
        if options.values.get("made") == "only" and not (kept / f"{_file(case)}.json").exists():
            notes.append(f"not audited: {case.name}")
            continue
        if not case.program.exists():
            notes.append(f"left out, without {case.python}: {case.name}")
            continue
        rows.append(_row(case, settings, kept / f"{_file(case)}.json"))
        print(f"{rows[-1]['name']}: {rows[-1]['verdict']}", file=sys.stderr, flush=True)
    ended = [row for row in rows if row["verdict"] != "none"]
    counts = Counter(found["severity"] for row in rows for found in row["findings"])
    return Audited(
        name="audited",
        command="python -m bench audited",
        goal=GOAL,
        ours={"environments": len(rows), "ended": len(ended), **{f"found {one}": counts[one] for one in SHOWN}},
        peers={},
        spread={},
        ratio=round(len(ended) / len(rows), 4) if rows else 0.0,
        met=len(ended) == len(rows) > 0,
        notes=notes,
        rows=rows,
    )


SETTINGS = {"seed": 0, "tasks": 12, "seconds": 60, "jobs": 2}


def _file(case: Case) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{case.library} {case.name}")


def _row(case: Case, settings: Sequence[str], file: Path) -> dict[str, Any]:
    """One audit, made or read."""
    if not file.exists():
        _audit(case, settings, file)
    row = {
        "library": case.library,
        "version": _version(case.program, case.library),
        "name": case.name,
        "command": shlex.join(["askesis", *case.words]),
        "python": case.python,
    }
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return row | {"verdict": "none", "findings": [], "counts": {}, "seconds": 0.0}
    lines = [line for line in found["probes"] if line["verdict"] == "found" and line["severity"] in SHOWN]
    lines.sort(key=lambda line: (SHOWN.index(line["severity"]), -line["rate"]))
    keys = ("probe", "severity", "rate", "n", "interval", "evidence")
    return row | {
        "verdict": found["verdict"],
        "seconds": found["seconds"],
        "findings": [{key: line[key] for key in keys} for line in lines],
        "counts": dict(Counter(line["verdict"] for line in found["probes"])),
    }


def _audit(case: Case, settings: Sequence[str], file: Path) -> None:
    """Write what the command says; its last words where it says nothing."""
    words = [str(case.program), "-m", "askesis", *case.words, *settings, "--fail-on=never", "--json"]
    paths = [str(ROOT), *(str(ROOT / one) for one in case.path), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    file.write_text(ran.stdout or ran.stderr[-4000:], encoding="utf-8")


@cache
def _version(program: Path, library: str) -> str:
    told = f"import importlib.metadata as m; print(m.version({library!r}))"
    return subprocess.run([str(program), "-c", told], capture_output=True, text=True, check=False).stdout.strip()


def table(kept: Mapping[str, Any]) -> str:
    """For docs/audited.md: a row for each environment with a finding, and how many have none."""
    rows = [f"Audited on {kept['date']} by `{kept['command']}`.", ""]
    for library in dict.fromkeys(row["library"] for row in kept["rows"]):
        own = [row for row in kept["rows"] if row["library"] == library]
        rows += [
            f"### {library} {own[0]['version']}",
            "",
            "| environment | verdict | found (share of n) |",
            "|---|---|---|",
        ]
        for row in own:
            found = "; ".join(f"{one['severity']} {one['probe']} ({_share(one)})" for one in row["findings"])
            rows.append(f"| `{row['name']}` | {row['verdict']} | {found or '–'} |")
        rows.append("")
    left = [note for note in kept["notes"] if note.startswith("not audited")]
    rows += [f"Not audited yet: {len(left)} more, mostly datasets of reasoning-gym."] if left else []
    return "\n".join(rows)


def _share(found: Mapping[str, Any]) -> str:
    return f"{found['rate']:.0%} of {found['n']}"
