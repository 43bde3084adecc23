"""The commands. Each parses its flags, calls `askesis.loop`, and prints: JSON on stdout, all else on stderr."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from askesis import __version__
from askesis.cli.auditing import audit
from askesis.cli.chatting import chat
from askesis.cli.environments import envs
from askesis.cli.rescoring import rescore
from askesis.cli.serving import serve
from askesis.types import AskesisError, ConfigError

app = typer.Typer(
    name="askesis",
    help="Train agents: reinforcement learning of hybrid-thinking language models in measured environments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _Runs(typer.core.TyperGroup):
    """`runs` with what is no command for a run's id: it shows that run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As `click.Group.resolve_command`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


runs = typer.Typer(cls=_Runs, help="List runs, or show one.", invoke_without_command=True, rich_markup_mode=None)
app.add_typer(runs, name="runs")
app.add_typer(envs, name="envs")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a key of the recipe (TOML value); repeatable."),
]
Out = Annotated[Path, typer.Option(help="The folder that holds the runs.")]


class Modes(StrEnum):
    """Which thinking modes an evaluation asks for."""

    BOTH = "both"
    ON = "on"
    OFF = "off"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"askesis {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train agents: reinforcement learning of hybrid-thinking language models in measured environments."""


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name, or the path of a TOML file.")] = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default and never changes it
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run: its id, its folder, or 'latest'.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve everything, print it, sample nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train as a recipe says, and evaluate on held-out tasks before and after.

    Examples: `askesis train repair`, `askesis train repair --set run.minutes=1`, `askesis train --resume latest`.
    """
    if dry_run and (recipe is None or resume is not None):
        raise ConfigError("--dry-run needs a recipe, and goes without --resume")
    if recipe is None and resume is None:
        raise ConfigError("train what? Give a recipe (`askesis train repair`) or a run (`--resume latest`)")
    if recipe is not None and resume is not None:
        raise ConfigError("a run that goes on has its own recipe: give either a recipe or --resume, not both")
    from askesis.loop import load_recipe

    settings = None if recipe is None else load_recipe(recipe, overrides)  # what is wrong with it is soon said
    loop = load_loop()
    if dry_run and settings is not None:
        from askesis.cli.tables import print_plan

        settings, plan = loop.dry_run(settings)
        if as_json:
            _print_json({"recipe": loop.to_mapping(settings), "plan": loop.plain_values(plan)})
        else:
            print_plan(settings, plan)
        return
    result = loop.train(settings, overrides=() if settings else overrides, resume=resume)
    if as_json:
        _print_json(result.to_json())
    if result.state == "interrupted":
        raise typer.Exit(130)


@app.command(name="eval")
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="askesis-tiny, a Hugging Face folder, or a run's folder.")],
    env: Annotated[str, typer.Option(help="An environment: built-in name, file.py:Class or module:Class.")],
    tasks: Annotated[int, typer.Option(min=1, help="Held-out tasks in each mode.")] = 300,
    thinking: Annotated[Modes, typer.Option(help="Thinking modes.")] = Modes.BOTH,
    budget: Annotated[int | None, typer.Option(min=0, help="Most tokens a turn may think.")] = None,
    budgets: Annotated[
        str | None, typer.Option(metavar="0,8,32,none", help="Several budgets: success against thinking, as a picture.")
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(metavar="low,0.7,...", help="Think at these efforts, as the checkpoint's table has them."),
    ] = None,
    save_effort: Annotated[
        bool, typer.Option("--save-effort", help="With --budgets: write what efforts mean beside the checkpoint.")
    ] = False,
    picture: Annotated[Path, typer.Option(help="With --budgets: where the picture goes.")] = Path("thinking.html"),
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the sampling.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Sample greedily (temperature 0).")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Which tasks, and how they are sampled.")] = 1_000_003,
    agent: Annotated[
        str, typer.Option(help="The harness, as in compact@1.", show_default="what the environment wants")
    ] = "",
    agent_options: Annotated[
        list[str], typer.Option("--agent-option", metavar="KEY=VALUE", help="An option of the harness; repeatable.")
    ] = [],  # noqa: B006 - typer reads the default and never changes it
    context_length: Annotated[int, typer.Option(min=2, help="Most tokens of an episode.")] = 1024,
    options: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the environment; repeatable.")
    ] = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Success of a checkpoint on held-out tasks, by thinking mode, with 95% intervals.

    Examples: `askesis eval askesis-tiny --env repair --tasks 300`,
    `askesis eval askesis-tiny --env repair --budgets 0,4,8,16,32,64,none --save-effort`.
    """
    from askesis.chat import EFFORT_FILE
    from askesis.cli.tables import print_curve, print_evaluation

    if save_effort and budgets is None:
        raise ConfigError("--save-effort needs --budgets: what efforts mean is measured there")
    loop = load_loop()
    evaluation = loop.evaluate(
        checkpoint,
        env=env,
        env_options=dict(map(env_option, options)),
        tasks=tasks,
        thinking="both" if thinking is Modes.BOTH else thinking is Modes.ON,
        budget=budget,
        budgets=None if budgets is None else _budgets(budgets),
        efforts=() if effort is None else [one.strip() for one in effort.split(",")],
        keep_efforts=save_effort,
        temperature=0.0 if greedy else temperature,
        seed=seed,
        agent=agent,
        agent_options=dict(env_option(one, "--agent-option") for one in agent_options),
        context_length=context_length,
        display=True,
    )
    if as_json:
        _print_json(evaluation.to_json())
    elif budgets is None and effort is None:
        print_evaluation(evaluation)
    else:
        print_curve(evaluation)
    if save_effort:
        print(f"what efforts mean: {loop.resolve(checkpoint) / EFFORT_FILE}", file=sys.stderr)
    if budgets is not None:
        command = "askesis " + shlex.join(sys.argv[1:])
        facts = [("environment", evaluation.env), ("tasks", str(evaluation.tasks)), ("agent", evaluation.agent)]
        page = loop.render_curve([evaluation], title=checkpoint, facts=facts, command=command)
        picture.write_text(page, encoding="utf-8")
        print(f"picture: {picture}", file=sys.stderr)


app.command()(audit)
app.command()(rescore)
app.command()(serve)
app.command()(chat)


@app.command()
def models(as_json: Json = False) -> None:
    """The eight sizes of Qwen3: layers, heads, tying, experts, context, parameters."""
    from askesis.cli.tables import print_models, size_rows

    rows = size_rows()
    if as_json:
        _print_json({"models": rows})
    else:
        print_models(rows)


@runs.callback()
def list_runs(context: typer.Context, out: Out = Path("runs"), as_json: Json = False) -> None:
    """List runs, oldest first: state, steps, sampled success by mode."""
    if context.invoked_subcommand is not None:
        return
    from askesis import loop
    from askesis.cli.tables import print_runs

    rows = [{"id": run.id, "folder": str(run.path), **run.status()} for run in loop.runs_in(out)]
    if as_json:
        _print_json({"runs": rows})
    else:
        print_runs(rows, out)


@runs.command(name="show")
def show_run(
    run: Annotated[str, typer.Argument(help="A run's id, its folder, or 'latest'.")],
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """One run: its state, what came out, where things lie."""
    from askesis import loop
    from askesis.cli.tables import print_run

    folder = loop.find_run(run, out)
    result, status = _result(folder.result), folder.status()
    if as_json:
        _print_json({"id": folder.id, "folder": str(folder.path), "status": status, "result": result})
    else:
        print_run(folder, status, result)


@runs.command(name="check")
def check_run(
    run: Annotated[str, typer.Argument(help="A run's id, its folder, or 'latest'.")],
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Prove from a run's store that no prompt was skipped and none trained twice, whatever ended it on the way."""
    from askesis import loop
    from askesis.cli.tables import print_check
    from askesis.rollout import TraceStore

    folder = loop.find_run(run, out)
    with TraceStore(folder.traces, readonly=True) as store:
        standing, wrong = store.ledger.standing(), store.ledger.check()
    if as_json:
        _print_json({"id": folder.id, "folder": str(folder.path), **asdict(standing), "wrong": wrong})
    else:
        print_check(folder, standing, wrong)
    if wrong:
        raise typer.Exit(1)


def load_loop() -> ModuleType:
    """The room that does the work. It loads torch, which takes its seconds: say so where somebody looks on."""
    from askesis import loop

    watched = sys.stderr.isatty()
    if watched:
        print("loading torch ...", end="", flush=True, file=sys.stderr)
    importlib.import_module("askesis.loop.run")
    if watched:
        print("\r\x1b[K", end="", flush=True, file=sys.stderr)
    return loop


def _budgets(text: str) -> list[int | None]:
    """`0,8,none` as budgets."""
    found: list[int | None] = []
    for word in (part.strip() for part in text.split(",")):
        if word != "none" and not (word.isascii() and word.isdigit()):
            raise ConfigError(f"--budgets {text!r}: {word!r} is no budget; expected tokens or none, as in 0,8,32,none")
        found.append(None if word == "none" else int(word))
    return found


def env_option(text: str, flag: str = "--option") -> tuple[str, Any]:
    """`key=value` as a key and a value. Raises `ConfigError`."""
    from askesis import loop

    if "=" not in text:
        raise ConfigError(f"{flag} {text!r}: expected key=value, as in max_turns=12")
    return loop.parse_override(text)


def _result(path: Path) -> dict[str, Any] | None:
    """What came out of a run; None if it has not ended."""
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    return result


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Run a command. What is known to go wrong is one message on stderr and exit code 2, or with `--debug` raised."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # wherever it stands: a flag of all commands
    given = [argument for argument in arguments if argument != "--debug"]
    try:
        app(given, prog_name="askesis")
    except (AskesisError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
