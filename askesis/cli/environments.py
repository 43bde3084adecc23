"""`askesis envs`: list environments, check one, play one, make a new one, and serve an episode's tools over MCP."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from askesis.cli.repairing import make_repair
from askesis.types import ConfigError

if TYPE_CHECKING:
    from askesis.types import Env, Task, Trace

envs = typer.Typer(
    help="List environments, check or play one, make a new one.", no_args_is_help=True, rich_markup_mode=None
)
envs.command(name="make-repair")(make_repair)

Name = Annotated[
    str, typer.Argument(help="An environment: built-in name, prefix:name (see list), file.py:Class or module:Class.")
]
Options = Annotated[
    list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the environment; repeatable.")
]
TaskNumber = Annotated[int, typer.Option(min=0, help="Which task of the split.")]
Split = Annotated[str, typer.Option(metavar="heldout|train", help="Of which split.")]
Seed = Annotated[int, typer.Option(min=0, help="Which tasks the split has.")]
Save = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keep the trace in this store (SQLite).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@envs.command(name="list")
def list_environments(as_json: Json = False) -> None:
    """The environments that come with Askesis and the libraries that others come from; what is missing to use them."""
    from askesis.cli.families import adapters, families, print_families

    rows, others = families(), adapters()
    if as_json:
        _print_json({"environments": rows, "adapters": others})
    else:
        print_families(rows, others)


@envs.command()
def check(
    name: Name,
    options: Options = [],  # noqa: B006 - typer reads the default and never changes it
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks each scripted policy plays.")] = 40,
    seed: Seed = 0,
    secrets: Annotated[
        list[str],
        typer.Option("--secret", metavar="KEY", help="A key of Task.data that the agent must not be told; repeatable."),
    ] = [],  # noqa: B006 - as above
    as_json: Json = False,
) -> None:
    """Whether an environment keeps what its interface promises. Exit code 1 where it does not.

    Tasks: the same each time and in another process, disjoint splits, JSON data, limits. Episodes: set-up, tools,
    rewards; an oracle must always succeed, doing nothing and random calls should not.

    Example: `askesis envs check repair --tasks 200`.
    """
    from askesis.cli.families import check_line, print_policies
    from askesis.loop.checking import Checker

    checker = Checker(name, options=_options(options), tasks=tasks, seed=seed, secrets=secrets)
    if not as_json:
        checker.on_check = check_line
    report = asyncio.run(checker.run())
    if as_json:
        _print_json(report.to_json())
    else:
        print_policies(report)
    if not report.ok:
        raise typer.Exit(1)


@envs.command()
def play(
    name: Name,
    options: Options = [],  # noqa: B006 - as above
    task: TaskNumber = 0,
    split: Split = "heldout",
    seed: Seed = 0,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Play an episode in the terminal, with the tools that the agent has; at the end, what it is paid.

    Lines are calls: `replace line=2 text="    return a"`, `view`, or JSON. `/help` says more. Input may be a pipe.
    """
    from askesis.cli.playing import TerminalPlayer
    from askesis.loop.playing import play_episode

    player = TerminalPlayer(out=sys.stderr if as_json else sys.stdout)

    async def episode() -> Trace:
        env, chosen = _task(name, options, task, split, seed)
        try:
            player.open(f"{env.name}: task {task} of {split}", chosen)
            return await play_episode(env, chosen, player, name="person@1")
        finally:
            await env.close()

    trace = asyncio.run(episode())
    player.finish(trace)
    _kept(trace, save, as_json)


@envs.command()
def new(
    name: Annotated[str, typer.Argument(help="What it is called: a word in small letters, as in `my_task`.")],
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help="Where its folder is made.", show_default="here")
    ] = None,
) -> None:
    """Make a folder with a small environment that works, its test, its README and the recipes that train it.

    Example: `askesis envs new my_task && cd my_task && askesis envs check my_task.py:MyTask`.
    """
    from askesis.cli.scaffold import make

    made = make(name, folder or Path())
    print(made.told)


@envs.command(name="serve-mcp")
def serve_mcp(
    name: Name,
    options: Options = [],  # noqa: B006 - as above
    task: TaskNumber = 0,
    split: Split = "heldout",
    seed: Seed = 0,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve over HTTP, at /mcp, in place of stdio.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="ASKESIS_MCP_KEY", help="HTTP clients must send it as a bearer token.", show_default="no key"
        ),
    ] = None,
    save: Save = None,
    result: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what came of it as JSON.", show_default=False)
    ] = None,
) -> None:
    """Offer the tools of one episode to any MCP client. The reward is told here, on stderr, and never to the client.

    The task's prompt is the server's instructions, and its prompt `task`. The episode ends when a tool ends it, a limit
    is reached, or the client (stdio) or you (Ctrl-C) leave.

    Example: `askesis envs serve-mcp repair --http 127.0.0.1:8900`.
    """
    from askesis.cli.playing import print_end
    from askesis.loop.serving_tools import serve_episode

    def ended(trace: Trace) -> None:
        print_end(trace, sys.stderr)
        if result is not None:
            result.write_text(json.dumps(outcome_of(trace), indent=2) + "\n", encoding="utf-8")
        _kept(trace, save, as_json=False)

    async def episode() -> None:
        env, chosen = _task(name, options, task, split, seed)
        try:
            await serve_episode(env, chosen, http=http, key=key, note=_note, on_end=ended)
        finally:
            await env.close()

    asyncio.run(episode())


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options(options: list[str]) -> dict[str, Any]:
    from askesis.cli.app import env_option

    return dict(map(env_option, options))


def _task(name: str, options: list[str], number: int, split: str, seed: int) -> tuple[Env, Task]:
    """The environment and one of its tasks. Raises `ConfigError` for none such."""
    from askesis.envs import load_env
    from askesis.loop.stream import tasks_of

    if split not in ("train", "heldout"):
        raise ConfigError(f"--split {split!r}: expected heldout or train")
    env = load_env(name, **_options(options))
    tasks = tasks_of(env, cast(Literal["train", "heldout"], split), seed=seed, limit=number + 1)
    if number >= len(tasks):
        raise ConfigError(f"--task {number}: {env.name!r} has {len(tasks)} tasks in its {split} split")
    return env, tasks[number]


def outcome_of(trace: Trace) -> Mapping[str, Any]:
    """What became of an episode, as plain values."""
    return {
        "env": trace.task.env,
        "task": trace.task.id,
        "outcome": {"by": trace.outcome.by, "reason": trace.outcome.reason, "detail": trace.outcome.detail},
        "success": trace.success,
        "reward": trace.reward,
        "rewards": {term.name: {"value": term.value, "weight": term.weight} for term in trace.rewards},
        "turns": trace.turns,
        "calls": [
            {"tool": one.name, "status": one.status, "seconds": one.seconds}
            | ({"fault": one.fault} if one.fault else {})
            for one in trace.tool_events
        ],
        "trace": trace.id,
    }


def _kept(trace: Trace, save: Path | None, as_json: bool) -> None:
    if save is not None:
        from askesis.rollout import TraceStore

        save.parent.mkdir(parents=True, exist_ok=True)
        with TraceStore(save) as store:
            store.add([trace], label="play")
        print(f"trace: {save}", file=sys.stderr)
    if as_json:
        _print_json(dict(outcome_of(trace)))


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))
