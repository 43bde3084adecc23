"""`askesis audit`: measure an environment before anything is trained in it."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.text import Text

from askesis import __version__
from askesis.types import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from askesis.audit import Audit, Line

_TONES = {"high": "bold red", "medium": "yellow", "low": "cyan", "info": "dim"}
_WIDTH = 100


def audit(
    env: Annotated[
        str, typer.Argument(help="An environment: built-in name, prefix:name, file.py:Class or module:Class.")
    ] = "",
    options: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the environment; repeatable.")
    ] = [],  # noqa: B006 - typer reads the default and never changes it
    names: Annotated[list[str], typer.Option("--probe", help="Only this probe; repeatable.")] = [],  # noqa: B006
    leave_out: Annotated[list[str], typer.Option("--skip", help="Not this probe; repeatable.")] = [],  # noqa: B006
    tasks: Annotated[int, typer.Option(min=2, help="How many tasks each probe plays.")] = 12,
    split: Annotated[str, typer.Option(metavar="heldout|train", help="Of which split.")] = "heldout",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    seconds: Annotated[float, typer.Option(min=5.0, help="For all of it.")] = 60.0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 2,
    fail_on: Annotated[
        str, typer.Option(metavar="SEVERITY", help="Exit with 1 at such a finding: info, low, medium, high or never.")
    ] = "high",
    suppress: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML: findings that are known, each with its reason.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, help="Texts that its tasks should not repeat.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write audit.json, audit.html and audit.sarif there.")
    ] = None,
    list_probes: Annotated[bool, typer.Option("--list", help="List the probes, and do nothing else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Measure an environment: what it pays that it should not, whether it is stable, what it covers; with no model.

    Every probe gives a rate with its 95% interval, evidence, and a command that replays it. It runs in processes of its
    own: an environment that hangs, forks, floods or dies is a finding. Exit code 1 at a finding as grave as --fail-on.

    Examples: `askesis audit repair`, `askesis audit my_task.py:MyTask --out audit --fail-on medium`.
    """
    from askesis import audit as room
    from askesis.cli.app import env_option

    console = _console()
    if list_probes:
        _print_probes(console, as_json)
        return
    if not env:
        raise ConfigError("audit what? Give an environment, as in `askesis audit repair`, or --list")
    if split not in ("train", "heldout"):
        raise ConfigError(f"--split {split!r}: expected heldout or train")
    if fail_on != "never":
        room.severity_of(fail_on)
    reasons = {} if suppress is None else room.read_suppressions(suppress, room.known_probes())
    found = asyncio.run(
        room.audit(
            env,
            options=dict(map(env_option, options)),
            names=names,
            leave_out=leave_out,
            tasks=tasks,
            split=cast(Literal["train", "heldout"], split),
            seed=seed,
            seconds=seconds,
            jobs=jobs,
            reference="" if reference is None else str(reference),
            reasons=reasons,
            on_line=lambda line: _progress(line) if not as_json else None,
        )
    )
    if out is not None:
        _write(found, out)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_audit(console, found)
    if out is not None:
        print(f"written: {out}/audit.json, audit.html, audit.sarif", file=sys.stderr)
    if found.fails(fail_on):
        raise typer.Exit(1)


def _console() -> Console:
    from askesis.loop import make_console

    return make_console()


def _progress(line: Line) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line.probe} ...", end="", flush=True, file=sys.stderr)


def _print_probes(console: Console, as_json: bool) -> None:
    from askesis.audit import known_probes

    if as_json:
        keys = ("name", "axis", "flaw", "severity", "about")
        print(json.dumps([{key: getattr(one, key) for key in keys} for one in known_probes().values()], indent=2))
        return
    axis = ""
    for one in known_probes().values():
        if one.axis != axis:
            axis = one.axis
            console.print(Text(f"\n{axis}", style="bold"))
        console.print(Text.assemble((f"  {one.name:<20}", ""), (f"{one.severity:<8}", _TONES[one.severity]), one.about))


def print_audit(console: Console, found: Audit) -> None:
    """A line for each probe by axis, the findings with their evidence, and the verdict."""
    from askesis.audit import SEVERITIES

    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    axis = ""
    for line in found.lines:
        if line.axis != axis:
            axis = line.axis
            console.print(Text(f"\n{axis}", style="bold"))
        console.print(_row(line))
    for line in found.findings:
        console.print()
        console.print(Text.assemble((line.severity, _TONES[line.severity]), f"  {line.probe}: {line.flaw}"))
        for part in line.evidence.splitlines() or [""]:
            console.print(Text(textwrap.fill(part, _WIDTH, initial_indent="  ", subsequent_indent="  ")))
        console.print(Text(f"  again: {line.repro}", style="dim"), soft_wrap=True)
    counts = {severity: found.count_of(severity) for severity in reversed(SEVERITIES)}
    told = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "no findings"
    unsure = sum(line.verdict == "inconclusive" for line in found.lines)
    shown = Text.assemble(
        ("\nverdict: ", "bold"),
        (found.verdict, _TONES.get(found.verdict, "bold green" if found.verdict == "clean" else "bold yellow")),
        f" ({told}; {unsure} of {len(found.lines)} probes inconclusive; {found.seconds:.0f} s)",
    )
    console.print(shown)


def _row(line: Line) -> Text:
    if line.verdict == "found":
        tone, told = _TONES[line.severity], f"{line.severity}: {_rate(line)}"
    elif line.verdict == "clean":
        tone, told = "green", f"clean: {_rate(line)}"
    elif line.verdict == "suppressed":
        tone, told = "dim", f"suppressed ({line.severity}, {100 * line.rate:.0f}% of {line.n}): {line.reason}"
    else:
        tone, told = "dim", f"{line.verdict}: {line.note}"
    note = f"  {line.note}" if line.note and line.verdict in ("found", "clean") else ""
    return Text.assemble(f"  {line.probe:<20}", (told, tone), (note, "dim"))


def _rate(line: Line) -> str:
    low, high = (100 * bound for bound in line.interval)
    return f"{100 * line.rate:.0f}% [{low:.0f}, {high:.0f}] of {line.n}"


def _write(found: Audit, folder: Path) -> None:
    from askesis.view import render_audit

    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "audit.json": json.dumps(found.to_json(), indent=2) + "\n",
        "audit.sarif": json.dumps(found.to_sarif(__version__), indent=2) + "\n",
        "audit.html": render_audit(page_of(found)),
    }
    for name, text in values.items():
        (folder / name).write_text(text, encoding="utf-8")


def page_of(found: Audit) -> Any:
    """As the web page is drawn."""
    from askesis.audit.report import command_of
    from askesis.view import AuditPage, Mark, Probed

    facts = [
        ("environment", found.env),
        ("verdict", found.verdict),
        ("tasks", f"{found.count} ({found.tasks})"),
        ("code", found.code or "–"),
        ("seed", str(found.seed)),
        ("took", f"{found.seconds:.0f} s"),
        ("date", found.date),
    ]
    rows = [
        Probed(
            probe=line.probe,
            axis=line.axis,
            flaw=line.flaw,
            about=line.about,
            verdict=line.verdict,
            severity=line.severity,
            rate=Mark(x=0.0, y=line.rate, low=line.interval[0], high=line.interval[1]) if line.n else None,
            n=line.n,
            evidence=line.evidence,
            note=line.reason or line.note,
            repro=line.repro,
        )
        for line in found.lines
    ]
    command = command_of(found.name, found.options, seed=found.seed, tasks=found.count, split=found.split)
    return AuditPage(title=found.name, verdict=found.verdict, facts=facts, rows=rows, command=command)
