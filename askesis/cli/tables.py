"""What the commands print for people."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from askesis.loop import Evaluation, Plan, Recipe, RunFolder
    from askesis.rollout import Standing

_COLUMNS = 80


def plain_table(*headings: str, left: int = 1) -> Table:
    """A table without a frame. left: how many of the first columns hold words, not numbers."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right", no_wrap=True)
    return table


def size_rows() -> list[dict[str, Any]]:
    """The eight sizes as plain values."""
    from askesis.models import CONTEXT, SIZES, count_parameters

    rows = []
    for name, config in SIZES.items():
        counts = count_parameters(config)
        rows.append(
            {
                "name": name,
                "layers": config.num_hidden_layers,
                "query_heads": config.num_attention_heads,
                "kv_heads": config.num_key_value_heads,
                "hidden": config.hidden_size,
                "tied": config.tie_word_embeddings,
                "experts": config.num_experts,
                "active_experts": config.num_experts_per_tok if config.is_moe else 0,
                "context": CONTEXT[name],
                "parameters": counts.total,
                "non_embedding": counts.non_embedding,
                "active": counts.active,
            }
        )
    return rows


def print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a size."""
    from askesis.loop import make_console

    table = plain_table("Qwen3", "layers", "heads", "width", "tied", "experts", "context", "parameters", "active")
    for row in rows:
        experts = f"{row['experts']}/{row['active_experts']}" if row["experts"] else "–"
        table.add_row(
            row["name"],
            str(row["layers"]),
            f"{row['query_heads']}/{row['kv_heads']}",
            str(row["hidden"]),
            "yes" if row["tied"] else "no",
            experts,
            f"{row['context'] // 1024}K",
            f"{row['parameters']:,}",
            f"{row['active'] / 1e9:.2f}B" if row["experts"] else "–",
        )
    make_console().print(table)


def print_check(folder: RunFolder, standing: Standing, wrong: Sequence[str]) -> None:
    """What became of all prompts, and what is wrong with that."""
    from askesis.loop import make_console

    console, one = make_console(), standing
    console.print(
        f"{folder.path}: {one.steps} steps; of {one.drawn} prompts drawn {one.trained} were trained, {one.dropped} "
        f"dropped for a reason, {one.open} on their way; {one.given_up} groups given up and drawn again; "
        f"trained at most {one.staleness} version{'s' * (one.staleness != 1)} behind",
        markup=False,
    )
    for line in wrong or ["nothing skipped, nothing trained twice, nothing older than allowed"]:
        console.print(f"  {line}", markup=False, style="bold red" if wrong else "")


def print_runs(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """One line a run."""
    from askesis.loop import make_console

    if not rows:
        make_console().print(f"no runs in {out}")
        return
    table = plain_table("run", "state", "success", "step", left=3)
    for row in rows:
        table.add_row(row["id"], row["state"], _score(row.get("score")), str(row.get("step", "–")))
    make_console().print(table)


def _score(score: Mapping[str, float] | None) -> str:
    return ", ".join(f"{mode} {100 * rate:.1f}%" for mode, rate in (score or {}).items()) or "–"


def print_run(folder: RunFolder, status: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
    """One run."""
    from askesis.loop import Evaluation, evaluation_table, from_plain, make_console, read_evaluations

    console = make_console()
    console.print(f"run         {folder.path}")
    console.print(f"state       {status['state']}" + (f": {status['error']}" if status.get("error") else ""))
    console.print(f"step        {status.get('step', '–')}")
    if result is not None:
        console.print(f"stopped by  {result['stopped_by']}, after {result['seconds']:.0f} s of training")
        console.print(f"checkpoint  {result['checkpoint'] or '–'}")
        console.print(f"report      {result['report'] or '–'}")
        for alarm in result["alarms"]:
            times = f"step {alarm['first']}"
            if alarm["count"] > 1:
                times = f"{alarm['count']} of the steps {alarm['first']} to {alarm['last']}"
            console.print(Text(f"alarm       {alarm['kind']} ({times}): {alarm['message']}"))
        evaluations = [from_plain(Evaluation, raw) for raw in result["evaluations"]]
    else:
        if "seconds" in status:
            console.print(f"trained     {status['seconds']:.0f} s")
        evaluations = read_evaluations(folder.evaluations)
    if evaluations:
        console.print(evaluation_table(evaluations))
    if status["state"] in ("killed", "interrupted", "failed"):
        console.print(f"go on with: askesis train --resume {folder.path}")


def print_evaluation(evaluation: Evaluation) -> None:
    """Success by mode."""
    from askesis.loop import evaluation_table, make_console

    make_console().print(evaluation_table([evaluation]))


def print_curve(evaluation: Evaluation) -> None:
    """Success against thinking, a line a mode; 80 columns."""
    from askesis.loop import budgeted, hybrid_line, make_console, row_name

    console = make_console()
    console.print(
        Text(f"\nsuccess on {evaluation.tasks} held-out tasks of {evaluation.env}, with 95% interval", style="bold")
    )
    table = plain_table("", "success", "tokens", "think", "self", "budget", "error")
    for row in budgeted(evaluation):
        summary, (low, high) = row.summary, row.summary.interval
        shares = (summary.triggered, summary.closed_by_itself, summary.closed_by_budget, summary.budget_error)
        table.add_row(
            row_name(row, evaluation.efforts),
            f"{100 * summary.success:.1f}% [{100 * low:.0f}, {100 * high:.0f}]",
            f"{summary.thinking_tokens:.1f}",
            *("–" if math.isnan(share) else f"{100 * share:.0f}%" for share in shares),
        )
    console.print(table)
    about = (
        "tokens: thought an episode. think: turns that do. self, budget: turns whose thinking the model ended, the "
        "budget cut off. error: how far from its budget a thinking turn ends."
    )
    for line in (about, hybrid_line(evaluation)):
        console.print(Text(textwrap.fill(line, _COLUMNS), style="dim"))
    beyond = max(row.summary.over_budget for row in evaluation.rows)
    if beyond > 0:
        console.print(Text(f"budgets were not kept: up to {beyond} tokens beyond", style="bold red"))


def print_plan(recipe: Recipe, plan: Plan) -> None:
    """A resolved recipe, and what it comes to."""
    from askesis.loop import make_console, to_mapping, to_toml

    console = make_console()
    console.print(Text(to_toml(to_mapping(recipe), comment="the recipe, resolved")))
    memory = plan.memory
    lines = {
        "model": f"{plan.model}, {plan.parameters:,} parameters",
        "messages": f"as {plan.renderer} writes them",
        "environment": f"{plan.env}, played by {plan.agent}",
        "audit": plan.audit.removeprefix("audit: "),
        "tools": ", ".join(tool.name for tool in plan.tools) or "none",
        "prompts": f"longest {plan.longest_prompt} tokens (of {plan.prompts} looked at)",
        "episode": f"up to {plan.max_turns} turns of {plan.max_turn_tokens} tokens, {plan.context_length} in all",
        "step": f"{plan.episodes_per_step} episodes",
        "threads": str(plan.threads),
        "memory": f"about {_mib(memory.total)}: weights {_mib(memory.weights)}, gradients and optimiser "
        f"{_mib(memory.training)}, cache {_mib(memory.cache)}, activations {_mib(memory.activations)}",
    }
    for name, text in lines.items():
        console.print(Text(f"{name:<12}{text}"))
    for warning in plan.warnings:
        console.print(Text(f"note        {warning}", style="yellow"))
    console.print(Text("\nthe first prompt:"))
    console.print(Text(plan.first_prompt, style="dim"))


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
