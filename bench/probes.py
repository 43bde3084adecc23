"""How often the probes of `askesis audit` find what was planted, and how often they find what is not there.

Each probe has environments with its flaw, written before it, in three ways or more, and their clean twins
(`tests/audit/flaws`). Way `c` of each is held out: it was run for the first time when the probe was done. A flaw counts
as found where its own probe says so, with a severity of low or more. A false alarm is any probe that says so of a clean
twin: all probes are run on all of them.

ratio: share of planted flaws that are found. Options: `clean` (`all`, or `own`: each twin by its own probe alone),
`kinds` (such as `ab`: only these ways), `jobs` (processes, 2), `seconds` (of a probe on one fixture, 20), `tasks` (8),
`only` (fixtures of these probes, with commas), `by` (only these probes, on theirs and on all clean twins).
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.result import Options, Result

FLAWS = Path(__file__).resolve().parent.parent / "tests" / "audit" / "flaws"
HELD_OUT = "c"
GOAL = "at least 95% of the planted flaws found, at most 2% false alarms on their clean twins"
SERIOUS = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Fixture:
    """One planted environment. probe: whose; flawed: or a clean twin."""

    probe: str
    flawed: bool
    kind: str


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    only = [name for name in options.values.get("only", "").split(",") if name]
    whole = options.values.get("clean", "all") == "all"
    seconds, tasks = options.number("seconds", 20), options.number("tasks", 8)
    kinds = options.values.get("kinds", "")
    by = [name for name in options.values.get("by", "").split(",") if name]
    chosen = [one for one in fixtures() if (not only or one.probe in only) and (not kinds or one.kind in kinds)]
    chosen = [one for one in chosen if not (by and one.flawed) or one.probe in by]
    context = multiprocessing.get_context("spawn")
    answers: list[tuple[Fixture, Mapping[str, Mapping[str, Any]]]] = []
    jobs = options.number("jobs", 2)
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = [
            pool.submit(probed, one, by if whole and not one.flawed else [one.probe], seconds, tasks) for one in chosen
        ]
        for fixture, future in zip(chosen, waiting, strict=True):
            found = future.result()
            answers.append((fixture, found))
            said = ", ".join(name for name, answer in found.items() if serious(answer)) or "nothing"
            which = "flawed" if fixture.flawed else "clean"
            print(f"{fixture.probe} {which} {fixture.kind}: {said}", file=sys.stderr, flush=True)
    ours, notes = counted(answers)
    command = "python -m bench probes" + ("" if whole else " --option clean=own")
    return Result(
        name="probes",
        command=command,
        goal=GOAL,
        ours=ours,
        peers={},
        spread={},
        ratio=round(ours["recall"], 4),
        met=ours["recall"] >= 0.95 and ours["false_alarms"] <= 0.02,
        notes=notes,
    )


def fixtures() -> list[Fixture]:
    """All of them, by probe."""
    found = []
    for file in sorted(FLAWS.glob("*.py")):
        if not file.stem.startswith("base_"):
            module = _module(file.stem)
            for table in ("FLAWED", "CLEAN"):
                name = file.stem.replace("_", "-")
                found += [Fixture(name, table == "FLAWED", kind) for kind in getattr(module, table)]
    return found


def _module(stem: str) -> Any:
    if str(FLAWS) not in sys.path:
        sys.path.append(str(FLAWS))  # their bases import each other by name
    spec = importlib.util.spec_from_file_location(f"planted_{stem}", FLAWS / f"{stem}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def probed(fixture: Fixture, by: Sequence[str], seconds: float, tasks: int) -> dict[str, Mapping[str, Any]]:
    """In a process of its own: what the probes that are named say, or all of them."""
    from askesis.audit import Ground, known_probes
    from askesis.audit.worker import run_probe

    stem = fixture.probe.replace("-", "_")
    module = _module(stem)
    kind = getattr(module, "FLAWED" if fixture.flawed else "CLEAN")[fixture.kind]
    known = known_probes()

    async def play() -> dict[str, Mapping[str, Any]]:
        env = kind()
        reference = str(getattr(module, "REFERENCE", ""))
        ground = Ground(env=env, count=tasks, name=f"{FLAWS / stem}.py:{kind.__name__}", reference=reference)
        try:
            return {name: await run_probe(known[name], ground, seconds) for name in by or known}
        finally:
            await env.close()

    return asyncio.run(play())


def serious(answer: Mapping[str, Any]) -> bool:
    """Whether it is a finding that counts."""
    return answer["verdict"] == "found" and answer["severity"] in SERIOUS


def counted(answers: Sequence[tuple[Fixture, Mapping[str, Mapping[str, Any]]]]) -> tuple[dict[str, float], list[str]]:
    """Figures in all and by probe, and what was missed or found wrongly."""
    by: dict[str, float] = defaultdict(float)
    notes = []
    for fixture, found in answers:
        for name, answer in found.items():
            hit = serious(answer)
            if fixture.flawed:
                for key in ("", " held out") if fixture.kind == HELD_OUT else ("",):
                    by[f"flawed{key}"] += 1
                    by[f"found{key}"] += hit
                by[f"flawed {name}"] += 1
                by[f"found {name}"] += hit
                if not hit:
                    notes.append(f"missed: {name} {fixture.kind}: {answer['verdict']} {answer.get('note', '')}"[:200])
            else:
                told = answer["verdict"] in ("clean", "found")
                by["clean"] += told
                by["alarms"] += hit
                by[f"clean {name}"] += told
                by[f"alarms {name}"] += hit
                by["untold"] += not told
                if hit:
                    evidence = str(answer.get("evidence", ""))
                    notes.append(f"false alarm: {name} on {fixture.probe} {fixture.kind}: {evidence}"[:200])
    ours = {"recall": _share(by["found"], by["flawed"]), "false_alarms": _share(by["alarms"], by["clean"])}
    ours["recall_held_out"] = _share(by["found held out"], by["flawed held out"])
    return {**ours, **by}, notes


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def table(kept: Mapping[str, Any]) -> str:
    """For docs/probes/README.md: by probe, and in all."""
    from askesis.audit import known_probes

    ours = kept["ours"]
    rows = [
        f"Measured on {kept['date']} by `{kept['command']}`.",
        "",
        "| probe | class of flaw | planted flaws found | false alarms |",
        "|---|---|---|---|",
    ]
    for name, probe in known_probes().items():
        if f"flawed {name}" in ours:
            found, flawed = ours[f"found {name}"], ours[f"flawed {name}"]
            alarms, clean = ours.get(f"alarms {name}", 0), ours.get(f"clean {name}", 0)
            rows.append(
                f"| [{name}]({name}.md) | {probe.flaw} | {found:.0f} of {flawed:.0f} | {alarms:.0f} of {clean:.0f} |"
            )
    rows.append(f"| **all** | | **{_part(ours, 'found', 'flawed')}** | **{_part(ours, 'alarms', 'clean')}** |")
    rows += ["", f"Of the flaws that no probe was tuned on (`c`): {_part(ours, 'found held out', 'flawed held out')}."]
    return "\n".join(rows)


def _part(ours: Mapping[str, float], part: str, whole: str) -> str:
    from askesis.rollout import wilson

    low, high = wilson(int(ours[part]), int(ours[whole]))
    return (
        f"{ours[part]:.0f} of {ours[whole]:.0f} ({ours[part] / ours[whole]:.1%}; 95% interval {low:.1%} to {high:.1%})"
    )
