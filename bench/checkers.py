"""`askesis audit` beside falsepass, gradecheck and reward-doctor, on the same planted environments.

The environments are those that our own probes of validity were made for (`tests/audit/flaws`), so ours has the home
ground; what a peer cannot load is left out of its figures, and ours are shown on the same ones. Of an environment a
peer sees what it expects: a function from a completion and a reference to a reward, tasks and gold answers; gradecheck
also the tree of files and a command that grades it (`bench/checkers_peer.py`). It has found something where it would
fail a build: falsepass by the gate that its documentation shows, gradecheck and reward-doctor by their exit code, ours
where any probe of validity says low or more.

ratio: ours over the best peer, in recall where that peer could be run. Options: `clean` (which twins, `a`), `seconds`
(of a probe of ours, 15), `folder` (answers already there are not made again), `only` (checkers, with commas).
`make venv-checkers` installs the peers.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import probes
from bench.result import Options, Result

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-checkers" / "bin" / "python"
PEERS = ("falsepass", "gradecheck", "reward-doctor")
OURS = "askesis"
GOAL = "recall above each peer's on the environments that it can load, at no more false alarms"


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    chosen = fixtures(options.values.get("clean", "a"))
    folder = Path(options.values.get("folder") or tempfile.mkdtemp(prefix="answers-"))
    folder.mkdir(parents=True, exist_ok=True)
    only = [name for name in options.values.get("only", "").split(",") if name] or [*PEERS, OURS]
    answers = {name: asked(name, chosen, folder, options.number("seconds", 15)) for name in only}
    ours = answers.get(OURS, [])
    peers = {name: figures(chosen, answers[name], ours) for name in PEERS if name in answers}
    notes = []
    for name in peers:
        whys = sorted({answer["not_run"] for answer in answers[name] if "not_run" in answer})
        notes.append(f"{name} {_version(name)}; not run: {'; '.join(whys[:6])}")
    best = max((one["recall"] / max(one["ours_recall"], 1e-9) for one in peers.values()), default=0.0)
    ran = [one for one in peers.values() if one["run"]]
    met = all(one["ours_recall"] > one["recall"] and one["ours_alarms"] <= one["alarms"] for one in ran)
    return Result(
        name="checkers",
        command="python -m bench checkers",
        goal=GOAL,
        ours=figures(chosen, ours, ours) if ours else {},
        peers=peers,
        spread={},
        ratio=round(1 / best, 3) if best else 0.0,
        met=bool(ran) and bool(ours) and met,
        notes=notes,
    )


def fixtures(clean: str) -> list[probes.Fixture]:
    """Those of probes of validity: all with a flaw, and some clean twins."""
    from askesis.audit import known_probes

    known = known_probes()
    valid = [one for one in probes.fixtures() if known[one.probe].axis == "validity"]
    return [one for one in valid if one.flawed or one.kind in clean]


def asked(name: str, chosen: Sequence[probes.Fixture], folder: Path, seconds: float) -> list[dict[str, Any]]:
    """An answer for each fixture, from the folder as far as it has them."""
    file = folder / f"{name}.jsonl"
    kept = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(one["probe"], one["flawed"], one["kind"]): one for one in kept}
    left = [one for one in chosen if (one.probe, one.flawed, one.kind) not in done]
    with file.open("a") as out:
        for fixture, answer in zip(left, _answers(name, left, seconds), strict=True):
            told = {**asdict(fixture), **answer}
            print(json.dumps(told), file=out, flush=True)
            print(f"{name}: {told}"[:200], file=sys.stderr, flush=True)
            done[fixture.probe, fixture.flawed, fixture.kind] = told
    return [done[one.probe, one.flawed, one.kind] for one in chosen]


def _answers(name: str, left: Sequence[probes.Fixture], seconds: float) -> Iterator[dict[str, Any]]:
    """Of a process in an empty folder: some fixtures run what they are given."""
    program = sys.executable if name == OURS else str(PYTHON)
    if name != OURS and not PYTHON.exists():
        raise SystemExit(f"no {PYTHON.relative_to(ROOT)}: make venv-checkers")
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [program, "-m", "bench.checkers_peer", name, str(seconds)]
    at = 0
    while at < len(left):  # a checker that dies is started again behind the fixture at which it did
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
            process = subprocess.Popen(
                words,
                cwd=empty,
                env=variables,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdin is not None and process.stdout is not None
            while at < len(left):
                one = left[at]
                at += 1
                try:
                    print(json.dumps(asdict(one)), file=process.stdin, flush=True)
                    line = process.stdout.readline()
                except BrokenPipeError:
                    line = ""
                if not line:
                    yield {"not_run": "it ended its process"}
                    break
                yield json.loads(line)
            process.kill()
            process.wait()


def figures(
    chosen: Sequence[probes.Fixture], answers: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Of one checker, and of ours on the fixtures that it was run on."""
    ran = [place for place, answer in enumerate(answers) if "not_run" not in answer]
    flawed = [place for place in ran if chosen[place].flawed]
    clean = [place for place in ran if not chosen[place].flawed]
    found: dict[str, float] = {"fixtures": len(chosen), "run": len(ran), "flawed": len(flawed), "clean": len(clean)}
    for prefix, who in {"": answers, "ours_": ours}.items():
        hits = sum(bool(who[place].get("found")) for place in flawed) if who else 0
        wrong = sum(bool(who[place].get("found")) for place in clean) if who else 0
        found |= {f"{prefix}found": hits, f"{prefix}wrong": wrong}
        found |= {f"{prefix}recall": _share(hits, len(flawed)), f"{prefix}alarms": _share(wrong, len(clean))}
    found["seconds"] = round(statistics.median([answers[place]["seconds"] for place in ran]), 2) if ran else 0.0
    return found


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _version(package: str) -> str:
    told = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([str(PYTHON), "-c", told], capture_output=True, text=True, check=False).stdout.strip()


def table(kept: Mapping[str, Any]) -> str:
    """For docs/audit.md: a row for each checker."""
    rows = [
        "| checker | could be run on | flaws found there | false alarms there | seconds each | ours there |",
        "|---|---|---|---|---|---|",
    ]
    named = {note.split(" ")[0]: note.split(";")[0] for note in kept["notes"]}
    for name, one in {"`askesis audit`": kept["ours"], **kept["peers"]}.items():
        found = f"{one['found']:.0f} of {one['flawed']:.0f} ({one['recall']:.0%})"
        wrong = f"{one['wrong']:.0f} of {one['clean']:.0f} ({one['alarms']:.0%})"
        beside = f"{one['ours_found']:.0f} of {one['flawed']:.0f}; {one['ours_wrong']:.0f} of {one['clean']:.0f}"
        ours = beside if name in kept["peers"] else "–"
        ran = f"{one['run']:.0f} of {one['fixtures']:.0f}"
        rows.append(f"| {named.get(name, name)} | {ran} | {found} | {wrong} | {one['seconds']:.1f} | {ours} |")
    return "\n".join([*rows, "", f"Measured on {kept['date']} by `{kept['command']}`."])
