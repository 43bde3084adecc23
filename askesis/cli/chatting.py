"""`askesis chat`: a conversation in the terminal. The answer goes to stdout, all else to stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from askesis.types import (
    AskesisError,
    ConfigError,
    Delta,
    Reasoning,
    Text,
    Thinking,
    nearest,
)

if TYPE_CHECKING:
    from askesis.loop.conversation import Conversation, Heard, Said

HELP = """\
/think, /no_think     think or not, from here on (also inside a message)
/budget N, none       most tokens that a turn may think
/effort low, 0.7 ...  as much thinking as the checkpoint's table has for it
/fold, /unfold        hide or show thinking while it is thought
/show                 the thinking of the last turn
/tools on, off        offer the tools of --env, or not
/task, /task N        say what the environment's task says; take another task
/set NAME VALUE       temperature, top_p, top_k, min_p; without a value: as recommended
/retry, /undo         have the last message answered again; take it back
/system TEXT          begin anew with this system text
/new                  begin anew
/quit                 or Ctrl-D; Ctrl-C stops an answer
A line that ends in \\ goes on in the next."""
_COMMANDS = ("think", "no_think", "budget", "effort", "fold", "unfold", "show", "tools", "task", "set", "retry", "undo")
COMMANDS = (*_COMMANDS, "system", "new", "help", "quit", "exit")


def chat(
    checkpoint: Annotated[str, typer.Argument(help="askesis-tiny, a Hugging Face folder, or a run's folder.")],
    no_thinking: Annotated[bool, typer.Option("--no-thinking", help="Answer without thinking.")] = False,
    budget: Annotated[
        int | None, typer.Option(min=0, help="Most tokens a turn may think.", show_default="no bound")
    ] = None,
    effort: Annotated[
        str | None, typer.Option(metavar="low|medium|high|0.7", help="How much to think.", show_default=False)
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="The system text.", show_default=False)] = "",
    env: Annotated[
        str | None,
        typer.Option(metavar="ENV", help="Offer the tools of one of this environment's tasks.", show_default=False),
    ] = None,
    task: Annotated[int, typer.Option(min=0, help="With --env: which held-out task.")] = 0,
    options: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the environment; repeatable.")
    ] = [],  # noqa: B006 - typer reads the default and never changes it
    fold: Annotated[bool, typer.Option("--fold", help="Hide thinking; /show prints it.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of one turn.", show_default="what the context holds")
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=2, help="Most tokens of all.", show_default="the model's, to 4096")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with a saved conversation, or 'latest'.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where conversations are saved.")] = Path("runs/chat"),
    no_save: Annotated[bool, typer.Option("--no-save", help="Save nothing.")] = False,
) -> None:
    """Talk to a checkpoint: streaming, with its thinking dimmed, under a budget, with tools where wanted.

    Examples: `askesis chat askesis-tiny --env repair`, `echo "What is 2 + 2?" | askesis chat runs/mine --budget 64`.
    """
    from askesis.chat import effort_value
    from askesis.cli.app import env_option

    if env is None and (options or task):
        raise ConfigError("--option and --task are for --env, which is not given")
    if no_save and resume is not None:
        raise ConfigError("--resume needs what was saved: leave out --no-save")
    thinking = None
    if no_thinking or budget is not None or effort is not None:
        if no_thinking and (budget is not None or effort is not None):
            raise ConfigError("--no-thinking leaves nothing to bound: leave out --budget and --effort")
        value = None if effort is None else effort_value(effort)
        thinking = Thinking(enabled=not no_thinking, budget=budget, effort=value)
    given = {
        "thinking": thinking,
        "instructions": system,
        "context_length": context_length,
        "folder": None if no_save else out,
        "resume": resume,
    }
    place = None if env is None else (env, dict(map(env_option, options)), task)
    Terminal(fold=fold, max_tokens=max_tokens).run(checkpoint, given, place)


class Terminal:
    """The loop of reading a line and doing what it says."""

    def __init__(self, *, fold: bool, max_tokens: int | None) -> None:
        self.out = Console(highlight=False, markup=False, soft_wrap=True)
        self.note = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.watched = sys.stdin.isatty() and sys.stderr.isatty()
        self.fold, self.max_tokens = fold, max_tokens
        self.talk: Conversation
        self.place: tuple[str, dict[str, Any], int] | None = None
        self.runner: asyncio.Runner
        self.shown = ""  # the last thinking

    def run(self, checkpoint: str, given: dict[str, Any], place: tuple[str, dict[str, Any], int] | None) -> None:
        """Until the input ends. An error ends it where nobody looks on, else it is shown."""
        from askesis.cli.app import load_loop

        bundle = load_loop().load(checkpoint)
        from askesis.loop.conversation import converse

        with asyncio.Runner() as self.runner:
            stack = AsyncExitStack()
            self.talk = self.runner.run(stack.enter_async_context(converse(bundle, **given)))
            self.talk.max_tokens = self.max_tokens
            try:
                if place is not None:
                    self._take_task(place)
                self._greet(checkpoint)
                for line in self._lines():
                    if self._do(line) is False:
                        break
            finally:
                self.runner.run(stack.aclose())
        if self.talk.folder is not None and (file := self.talk.folder / f"{self.talk.id}.json").is_file():
            self._say(f"saved: {file}; go on with --resume {self.talk.id}")

    # -- lines -------------------------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[str]:
        """What is typed, continued lines joined; nothing empty."""
        with _line_editing(self.watched):
            whole = ""
            while True:
                try:
                    line = input(self._prompt(whole)) if self.watched else next(sys.stdin).rstrip("\n")
                except (EOFError, StopIteration):
                    if self.watched:
                        self.note.print()
                    if whole.strip():
                        yield whole
                    return
                except KeyboardInterrupt:
                    self.note.print()
                    whole = ""
                    continue
                if line.endswith("\\"):
                    whole += line[:-1] + "\n"
                    continue
                whole += line
                if whole.strip():
                    yield whole
                whole = ""

    def _prompt(self, whole: str) -> str:
        return "... " if whole else f"{self.talk.thinking.mode}> "

    def _do(self, line: str) -> bool:
        """One line; false if it was the last."""
        try:
            word, _, rest = line.strip().partition(" ")
            if word in ("/quit", "/exit"):
                return False
            if word.startswith("/") and (word[1:].isidentifier() and not (rest and word in ("/think", "/no_think"))):
                self._command(word[1:], rest.strip())
            else:
                self._answer(line)
        except AskesisError as error:
            if not self.watched:
                raise
            self.note.print(f"error: {error}", style="red")
        return True

    def _command(self, name: str, rest: str) -> None:
        if name not in COMMANDS:
            raise ConfigError(f"no command /{name}{nearest(name, COMMANDS)}; /help lists them")
        getattr(self, f"_on_{name}")(rest)

    def _say(self, text: str) -> None:
        self.note.print(text, style="dim")

    def _greet(self, checkpoint: str) -> None:
        if self.watched:
            self._say(f"{checkpoint}, {self.talk.bundle.renderer.name}; /help lists the commands, Ctrl-D ends")
            for message in self.talk.messages:
                if message.role in ("user", "assistant") and message.text:
                    self._say(f"{'you' if message.role == 'user' else 'model'}: {message.text}")

    # -- an answer ---------------------------------------------------------------------------------------------------

    def _answer(self, text: str) -> None:
        """Say it, and show what comes. Ctrl-C ends the answer, not the conversation."""
        voice = _Voice(self)

        async def whole() -> None:
            async for event in self.talk.say(text, voice.hear):
                voice.event(event)

        try:
            self.runner.run(whole())
        except KeyboardInterrupt:
            voice.end()
            self._say("stopped")
        finally:
            voice.end()
            self.shown = voice.thought or self.shown

    # -- commands ----------------------------------------------------------------------------------------------------

    def _on_think(self, rest: str) -> None:
        self._set(replace(self.talk.thinking, enabled=True))

    def _on_no_think(self, rest: str) -> None:
        self._set(Thinking(enabled=False))

    def _on_budget(self, rest: str) -> None:
        if rest != "none" and not (rest.isascii() and rest.isdigit()):
            raise ConfigError(f"/budget {rest}: expected tokens or none, as in /budget 64")
        self._set(Thinking(budget=None if rest == "none" else int(rest)))

    def _on_effort(self, rest: str) -> None:
        from askesis.chat import effort_value, load_effort, resolve

        wanted = Thinking(effort=effort_value(rest))
        meant = resolve(wanted, load_effort(self.talk.bundle.path), checkpoint=self.talk.bundle.path)
        self._set(wanted)
        self._say(f"that is {meant.mode}")

    def _set(self, thinking: Thinking) -> None:
        self.talk.bundle.renderer.thinks(thinking)  # raises where the family has no such mode
        self.talk.thinking = thinking
        if not self.watched:
            self._say(f"thinking: {thinking.mode}")

    def _on_fold(self, rest: str) -> None:
        self.fold = True

    def _on_unfold(self, rest: str) -> None:
        self.fold = False

    def _on_show(self, rest: str) -> None:
        self._say(self.shown or "nothing was thought yet")

    def _on_set(self, rest: str) -> None:
        from askesis.loop.conversation import check_sampling

        name, _, value = rest.partition(" ")
        if value:
            self.talk.sampling[name] = check_sampling(name, value)
        elif name:
            check_sampling(name, "1")
            self.talk.sampling.pop(name, None)
        self._say(", ".join(f"{key} {one:g}" for key, one in self.talk.sampling.items()) or "as recommended")

    def _on_tools(self, rest: str) -> None:
        if rest == "off":
            self.runner.run(self.talk.drop_tools())
        elif rest == "on":
            if self.place is None:
                raise ConfigError("there are no tools: start with --env ENV")
            self._take_task(self.place)
        elif rest:
            raise ConfigError(f"/tools {rest}: expected on, off, or nothing")
        specs = () if self.talk.tools is None else self.talk.tools.specs
        self._say("\n".join(f"{spec.name}: {spec.description}" for spec in specs) or "no tools")

    def _on_task(self, rest: str) -> None:
        if self.place is None:
            raise ConfigError("there is no task: start with --env ENV")
        if not rest:
            if self.talk.tools is None:
                self._take_task(self.place)
            assert self.talk.tools is not None
            self._say(self.talk.tools.task.prompt)
            self._answer(self.talk.tools.task.prompt)
            return
        if not (rest.isascii() and rest.isdigit()):
            raise ConfigError(f"/task {rest}: expected a number, or nothing")
        self._take_task((*self.place[:2], int(rest)))
        self.talk.clear()

    def _take_task(self, place: tuple[str, dict[str, Any], int]) -> None:
        from askesis.loop.conversation import held_out_task

        env, task = held_out_task(*place)
        self.runner.run(self.talk.take_tools(env, task))
        self.place = place
        self._say(f"task {place[2]} of {place[0]}: {task.prompt.splitlines()[0]}\n/task says it to the model")

    def _on_undo(self, rest: str) -> None:
        text = self.talk.undo()
        self._say("there is nothing to take back" if text is None else f"taken back: {text}")

    def _on_retry(self, rest: str) -> None:
        text = self.talk.undo()
        if text is None:
            raise ConfigError("there is nothing to try again")
        self._answer(text)

    def _on_system(self, rest: str) -> None:
        self.talk.clear(instructions=rest)

    def _on_new(self, rest: str) -> None:
        self.talk.clear()

    def _on_help(self, rest: str) -> None:
        self._say(HELP)


class _Voice:
    """Shows the deltas of one answer: thinking dimmed or folded into a line, text as it comes, calls and results."""

    def __init__(self, terminal: Terminal) -> None:
        self._out, self._note, self._fold = terminal.out, terminal.note, terminal.fold
        self._live = terminal.fold and terminal.note.is_terminal  # the line that shows that something is thought
        self._at: type | None = None  # what is being shown
        self.thought = ""

    def hear(self, delta: Delta) -> None:
        if isinstance(delta, Reasoning):
            self._turn_to(Reasoning)
            self.thought += delta.text
            if not self._fold:
                self._note.print(delta.text, style="dim italic", end="")
            elif self._live:
                tail = self.thought[-(max(self._note.width - 16, 8)) :].replace("\n", " ")
                self._note.file.write(f"\r\x1b[K\x1b[2mthinks ... {tail}\x1b[0m")
            self._note.file.flush()
        elif isinstance(delta, Text):
            self._turn_to(Text)
            self._out.print(delta.text, end="")
            self._out.file.flush()

    def _turn_to(self, kind: type | None) -> None:
        if self._at is kind:
            return
        if self._at is Text:
            self._out.print()
        elif self._at is Reasoning:
            if self._live:
                self._note.file.write("\r\x1b[K")
            elif not self._fold:
                self._note.print()
        elif kind is Reasoning:
            self.thought = ""
        self._at = kind

    def event(self, event: Said | Heard) -> None:
        """A turn is over, or calls have been answered."""
        from askesis.loop.conversation import Said

        self.end()
        if isinstance(event, Said):
            self._said(event)
            return
        for result in event.results:
            self._note.print(_indented(result.text), style="green")
        if event.ended is not None:
            self._note.print(f"the task has ended: {event.ended.reason}; /task N takes another", style="dim")

    def _said(self, said: Said) -> None:
        for call in said.message.tool_calls:
            shown = ", ".join(f"{key}={value!r}" for key, value in call.arguments.items())
            self._note.print(f"> {call.name}({shown})", style="cyan")
        for failure in said.message.failures:
            self._note.print(f"> a call that cannot be read ({failure.kind}): {failure.raw.strip()}", style="red")
        if not (said.message.text or said.message.tool_calls or said.message.failures):
            self._note.print("(it said nothing)", style="dim")
        thought = f"{said.thinking_tokens} of them thought" if said.thinking_tokens else "none thought"
        ends = ", thinking ended by the budget" if said.forced else ""
        cut = ", cut off by the limit" if said.cut else ""
        self._note.print(f"[{said.tokens} tokens, {thought}{ends}{cut}, {said.seconds:.1f} s]", style="dim")

    def end(self) -> None:
        """Close the line that is open."""
        self._turn_to(None)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()) or "  (nothing)"


class _line_editing:
    """Line editing and a history of lines, where there is a terminal and Python has readline."""

    def __init__(self, wanted: bool) -> None:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        self._file = state / "askesis" / "chat_history"
        self._wanted = wanted
        self._write: Callable[[str], None] | None = None

    def __enter__(self) -> None:
        if not self._wanted:
            return
        with suppress(ImportError):
            import readline

            with suppress(OSError):
                readline.read_history_file(self._file)
            readline.set_history_length(1000)
            self._write = readline.write_history_file

    def __exit__(self, *_: object) -> None:
        if self._write is not None:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._write(str(self._file))
