"""`askesis rescore`: another verifier over the traces of a run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

_SHOWN = 5


def rescore(
    run: Annotated[str, typer.Argument(help="A run's id, its folder, or 'latest'.")],
    verifier: Annotated[
        str, typer.Option(metavar="FILE.py:FUNCTION", help="A function of a trace: a number, or rewards. 1 is success.")
    ],
    label: Annotated[str, typer.Option(help="Which traces: train, or the name of an evaluation.")] = "train",
    parts: Annotated[int, typer.Option(min=1, help="Stretches of steps in the table.")] = 10,
    out: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Judge the stored traces of a run by another verifier: what of the paid holds, and since when it does not.

    Example: `askesis rescore latest --verifier checks.py:really_solved`.
    """
    from askesis import loop
    from askesis.loop.rescoring import rescore as judged

    rows, untrue = asyncio.run(judged(loop.find_run(run, out), verifier, label=label, parts=parts))
    if as_json:
        told = [{**asdict(row), "interval": list(row.interval)} for row in rows]
        print(json.dumps({"run": run, "verifier": verifier, "label": label, "rows": told, "untrue": untrue}, indent=2))
        return
    from askesis.cli.tables import plain_table

    table = plain_table("from step", "traces", "paid", "true", "paid, untrue", "true, unpaid", "failed")
    for row in rows:
        low, high = (100 * bound for bound in row.interval)
        share = f"{row.paid_untrue} [{low:.0f}, {high:.0f}%]" if row.paid else "–"
        table.add_row(
            *(str(row.step), str(row.n), f"{row.paid / row.n:.0%}", f"{row.true / row.n:.0%}", share),
            *(str(row.unpaid_true), str(row.failed)),
        )
    console = loop.make_console()
    console.print(table)
    console.print(Text("in brackets: the share of the paid that is untrue, 95% interval", style="dim"))
    if untrue:
        more = f" and {len(untrue) - _SHOWN} more" if len(untrue) > _SHOWN else ""
        console.print(f"paid and untrue: {', '.join(untrue[:_SHOWN])}{more}")
