"""A conversation with a checkpoint: what `askesis chat` is underneath its terminal.

Every turn goes through the recorder that the gateway uses, so the conversation is a trace as well, to the token. The
messages are saved after every turn; the trace when the conversation is closed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from askesis.chat import failure_text, load_effort, resolve
from askesis.envs import load_env
from askesis.loop.bundle import Bundle
from askesis.rollout import (
    Answer,
    Ask,
    EngineSpeakers,
    EpisodeOptions,
    EpisodeSession,
    EpisodeSpec,
    Recorder,
    TraceStore,
)
from askesis.rollout.encoding import message_from_json, message_to_json
from askesis.types import (
    AskesisError,
    ConfigError,
    Delta,
    Engine,
    Env,
    Message,
    Outcome,
    Piece,
    State,
    Task,
    Thinking,
    ToolSpec,
    system,
    tool_result,
    user,
)

Hear = Callable[[Delta], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One turn of the model. seconds: that it took. forced: whether the budget ended its thinking.

    cut: whether a limit ended the turn before the model did.
    """

    message: Message
    tokens: int
    thinking_tokens: int
    seconds: float
    forced: bool
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The results of the calls of the last turn. ended: who ended the task, if a call did."""

    results: Sequence[Message]
    ended: Outcome | None = None


class Tools:
    """The tools of one held-out task of an environment, run as in an episode: same checks, same limits of time."""

    def __init__(self, env: Env, task: Task, state: State, session: EpisodeSession) -> None:
        self.env, self.task, self._state, self._session = env, task, state, session

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """What the model is told of them."""
        return self._session.tools

    async def run(self, message: Message) -> Heard:
        """Results of the calls in `message`, and what was wrong with those that could not be read."""
        results = await self._session.call(message.tool_calls)
        wrong = [tool_result(failure_text(failure)) for failure in message.failures]
        return Heard(results=[*results, *wrong], ended=self._session.outcome)

    async def close(self) -> None:
        """Free what the task and its environment hold."""
        await self._state.close()
        await self.env.close()


@dataclass(slots=True, kw_only=True, eq=False)
class Conversation:
    """Messages, a mode and perhaps tools; made by `converse`.

    thinking: of the next turn. sampling: fields of `Sampling` that replace those recommended for the mode. max_tokens:
    most tokens of one turn, None for what the context has room for. max_turns: most turns in a row that call tools.
    """

    bundle: Bundle
    engine: Engine
    recorder: Recorder
    folder: Path | None
    id: str
    messages: list[Message] = field(default_factory=list)
    thinking: Thinking = field(default_factory=Thinking)
    sampling: dict[str, float | int] = field(default_factory=dict)
    max_tokens: int | None = None
    max_turns: int = 16
    tools: Tools | None = None

    async def say(self, text: str, hear: Hear) -> AsyncIterator[Said | Heard]:
        """Say something and let the model answer, as often as it calls tools in between.

        A `/think` or `/no_think` in the text sets the mode from here on. What is heard on the way goes to `hear`.
        Raises what is wrong with the request (`ConfigError`, `TemplateError`, `ContextOverflow`), after which the
        conversation is as it was before. If it is cancelled, what was said so far stays part of it.
        """
        before = self.thinking, len(self.messages)
        self.thinking = self.bundle.renderer.mode_of([user(text)], self.thinking)
        self.messages.append(user(text))
        try:
            for _ in range(self.max_turns):
                said = await self._turn(hear)
                yield said
                if self.tools is None or not (said.message.tool_calls or said.message.failures):
                    return
                heard = await self.tools.run(said.message)
                self.messages.extend(heard.results)
                self.save()
                yield heard
                if heard.ended is not None:
                    return
        except AskesisError:
            if len(self.messages) == before[1] + 1:
                self.thinking = before[0]
                del self.messages[before[1] :]
            raise
        finally:
            self.save()

    async def _turn(self, hear: Hear) -> Said:
        thinking = resolve(self.thinking, load_effort(self.bundle.path), checkpoint=self.bundle.path)
        renderer, begun = self.bundle.renderer, time.perf_counter()
        how = renderer.sampling(thinking)
        if self.sampling:
            how = replace(how, **self.sampling)  # type: ignore[arg-type]
        specs = () if self.tools is None else tuple(self.tools.specs)
        ask = Ask(
            messages=tuple(self.messages), tools=specs, thinking=thinking, sampling=how, max_tokens=self.max_tokens
        )
        listener = _Listener(renderer.stream(thinking=thinking, tools=specs), hear)
        try:
            answer = await self.recorder.open(ask).speak(listener)
        except asyncio.CancelledError:
            if listener.heard:
                self.messages.append(listener.told())
            raise
        listener.finish()
        self.messages.append(answer.message)
        self.save()
        return _said(answer, time.perf_counter() - begun)

    def undo(self) -> str | None:
        """Take the last exchange back; the user's text of it, None if there is none. The trace keeps it as a branch."""
        place = next((i for i in range(len(self.messages) - 1, -1, -1) if self.messages[i].role == "user"), None)
        if place is None:
            return None
        text = self.messages[place].text
        del self.messages[place:]
        self.save()
        return text

    def clear(self, *, instructions: str | None = None) -> None:
        """Begin anew, with the same system text or another."""
        if instructions is None:
            self.messages = [message for message in self.messages[:1] if message.role == "system"]
        else:
            self.messages = [system(instructions)] if instructions else []
        self.id = _fresh_id()

    def save(self) -> None:
        """Write the messages to `ID.json` in the folder, if there is one and anything was said."""
        if self.folder is None or not any(message.role == "assistant" for message in self.messages):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "checkpoint": str(self.bundle.path),
            "thinking": asdict(self.thinking),
            "sampling": self.sampling,
            "messages": [message_to_json(message) for message in self.messages],
        }
        half = self.folder / f".{self.id}.json"
        half.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        half.replace(self.folder / f"{self.id}.json")

    async def take_tools(self, env: Env, task: Task) -> None:
        """Offer the tools of a task from now on.

        Raises `EnvError`, `SandboxError`, and `ConfigError` where some tools are sub-agents' alone: a chat has none.
        """
        await self.drop_tools()
        state = await env.setup(task)
        toolset, foresees = env.tools(task, state), getattr(env, "specialists", None)
        if foresees is not None and foresees(task, state):
            await state.close()
            raise ConfigError(
                f"environment {env.name!r} wants sub-agents, and a chat has none; you play it by `askesis envs play`, "
                "and a checkpoint by `askesis eval`"
            )
        spec = EpisodeSpec(task=task, thinking=self.thinking, group="chat", seed=0)
        session = EpisodeSession(
            spec=spec,
            speaker=EngineSpeakers(self.engine).open(spec, f"chat-{self.id}"),
            renderer=self.bundle.renderer,
            toolset=toolset,
            options=EpisodeOptions(),
            clock=asyncio.get_running_loop().time,
        )
        self.tools = Tools(env, task, state, session)

    async def drop_tools(self) -> None:
        """Offer none."""
        tools, self.tools = self.tools, None
        if tools is not None:
            await tools.close()


class _Listener:
    """Reads what is sampled, and passes it on."""

    def __init__(self, stream: Any, hear: Hear) -> None:
        self._stream, self._hear = stream, hear
        self.heard = self._finished = False

    def hear(self, piece: Piece) -> None:
        """More tokens."""
        self.heard = True
        for delta in self._stream.feed(piece.token_ids):
            self._hear(delta)

    def finish(self) -> None:
        """The turn is over."""
        if not self._finished:
            self._finished = True
            for delta in self._stream.finish():
                self._hear(delta)

    def told(self) -> Message:
        """The message as it is known here."""
        self.finish()
        message: Message = self._stream.message
        return message


def _said(answer: Answer, seconds: float) -> Said:
    return Said(
        message=answer.message,
        tokens=len(answer.completion.token_ids),
        thinking_tokens=answer.thinking_tokens,
        seconds=seconds,
        forced=bool(answer.completion.forced.any()),
        cut=answer.finish == "length",
    )


def _fresh_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@asynccontextmanager
async def converse(
    bundle: Bundle,
    *,
    thinking: Thinking | None = None,
    instructions: str = "",
    context_length: int | None = None,
    folder: str | Path | None = None,
    resume: str | None = None,
) -> AsyncIterator[Conversation]:
    """A conversation with a loaded checkpoint, its engine closed and its trace stored at the end.

    thinking: the mode, None for the family's default. instructions: the system text. folder: where it is saved, None
    for nowhere. resume: the id of a saved conversation in `folder`, or `latest`. Raises `ConfigError` where there is
    none, or it cannot be read.
    """
    target = None if folder is None else Path(folder)
    engine = bundle.engine(slots=1, context_length=context_length)
    recorder = Recorder(
        "chat", engine=engine, renderer=bundle.renderer, clock=time.monotonic, data={"checkpoint": str(bundle.path)}
    )
    conversation = Conversation(
        bundle=bundle,
        engine=engine,
        recorder=recorder,
        folder=target,
        id=_fresh_id(),
        messages=[system(instructions)] if instructions else [],
        thinking=thinking or Thinking(enabled=bundle.renderer.default),
    )
    try:
        if resume is not None:
            _take_up(conversation, resume, keep_mode=thinking is not None)
        yield conversation
    finally:
        await conversation.drop_tools()
        recorder.close()
        traces = recorder.seal(reason="the conversation was closed")
        if target is not None and traces:
            target.mkdir(parents=True, exist_ok=True)
            with TraceStore(target / "traces.db") as store:
                store.add(traces, label="chat")
        await engine.close()


def _take_up(conversation: Conversation, resume: str, *, keep_mode: bool) -> None:
    folder = conversation.folder
    if folder is None:
        raise ConfigError(f"resume {resume!r}: conversations are saved in no folder")
    saved = sorted(folder.glob("[0-9]*.json"))
    file = saved[-1] if resume == "latest" and saved else folder / f"{resume}.json"
    if not file.is_file():
        known = ", ".join(one.stem for one in saved[-3:]) or "there is none yet"
        raise ConfigError(f"no conversation {resume!r} in {folder} (the newest: {known})")
    try:
        content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        conversation.messages = [message_from_json(one) for one in content["messages"]]
        conversation.sampling = dict(content["sampling"])
        if not keep_mode:
            conversation.thinking = Thinking(**content["thinking"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no saved conversation: {type(error).__name__}: {error}") from error
    conversation.id = file.stem


def held_out_task(env: str, options: Mapping[str, Any], number: int) -> tuple[Env, Task]:
    """An environment, and one of its held-out tasks. Raises `ConfigError`, `EnvError`."""
    made = load_env(env, **options)
    tasks = made.tasks("heldout", limit=number + 1)
    if number >= len(tasks):
        raise ConfigError(f"{env} has {len(tasks)} held-out tasks; there is no task {number}")
    return made, tasks[number]


def check_sampling(name: str, text: str) -> float | int:
    """The value of a field of `Sampling` from a user's text. Raises `ConfigError`."""
    kinds: dict[str, type[float] | type[int]] = {"temperature": float, "top_p": float, "top_k": int, "min_p": float}
    if name not in kinds:
        raise ConfigError(f"there is no {name!r} to set: expected one of {', '.join(kinds)}")
    try:
        value = kinds[name](text)
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}, expected a number") from error
    low, high = {"temperature": (0, 100), "top_p": (0, 1), "top_k": (0, 2**31), "min_p": (0, 1)}[name]
    if not low <= value <= high:
        raise ConfigError(f"{name} is {text}, expected {low} to {high}")
    return value
