"""The protocols between rooms: what each offers at its door, and nothing about how."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

from askesis.types.messages import Message, ParseFailure, Reasoning, Text, Thinking, ToolCall, ToolSpec
from askesis.types.tokens import Completion, OnTokens, Sampling, ThinkingLimit, TokenIds
from askesis.types.traces import Artifact, Finding, Limits, Outcome, Reward, Split, Task, Trace


class Engine(Protocol):
    """Token in, token out."""

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        ...

    async def generate(
        self,
        token_ids: TokenIds,
        sampling: Sampling,
        *,
        session: str | None = None,
        on_tokens: OnTokens | None = None,
    ) -> Completion:
        """Sample a continuation of `token_ids` [n]. Requests of one `session` may reuse each other's KV cache.

        on_tokens: called with every token exactly once and in order, some at a time, before the completion is given;
        a call that is cancelled has told of all that it sampled.
        """
        ...

    async def update_weights(self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "") -> None:
        """Sample under `weights` from now on, and say so in `Completion.policy_versions`. Empty: already in place.

        fingerprint: of the weights that are meant (`models.fingerprint`). Raises `EngineError` if others are there.
        """
        ...

    def release(self, session: str) -> None:
        """Forget what is cached for `session`; unknown sessions are no error."""
        ...

    async def close(self) -> None:
        """Stop; requests in flight get an `EngineError`."""
        ...


Delta = Reasoning | Text | ToolCall | ParseFailure
"""A piece of a message that is on its way: some characters of reasoning or text, or a whole call."""


class CompletionStream(Protocol):
    """A completion read as it is sampled. All deltas, joined, are what `Renderer.parse` gives of the whole."""

    def feed(self, tokens: Sequence[int] | TokenIds) -> list[Delta]:
        """What is certain after these tokens."""
        ...

    def finish(self) -> list[Delta]:
        """What was held back until the end of the turn, and the calls."""
        ...

    @property
    def message(self) -> Message:
        """All of it, after `finish`."""
        ...

    @property
    def thinking_tokens(self) -> int:
        """As `Renderer.thinking_tokens`, so far."""
        ...


class Renderer(Protocol):
    """Messages to tokens and back, for one model family and one tokenizer."""

    @property
    def name(self) -> str:
        """Which family it is."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an assistant's turn."""
        ...

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> TokenIds:
        """The whole conversation as the family's template writes it, with a generation prompt if `generate`."""
        ...

    def extend(
        self,
        tokens: TokenIds,
        messages: Sequence[Message],
        *,
        thinking: Thinking | None = None,
        generate: bool = True,
        history: Sequence[Message] = (),
        tools: Sequence[ToolSpec] = (),
    ) -> TokenIds:
        """Only the NEW tokens that append `messages` to `tokens` (which end in a sampled turn). Never re-renders.

        history, tools: what `tokens` were rendered from; a renderer of an unknown template needs them. Raises
        `PrefixChanged` where the template would change what was sampled, so that only a branch can go on.
        """
        ...

    def render_completion(self, message: Message, *, thinking: Thinking | None = None) -> TokenIds:
        """The tokens that a model would have sampled to say `message` from the generation prompt."""
        ...

    def parse(self, tokens: TokenIds, *, thinking: Thinking | None = None, tools: Sequence[ToolSpec] = ()) -> Message:
        """A sampled completion as a message; calls inside reasoning are reasoning, bad calls are `failures`.

        tools: what could be called; their schemas type the arguments of XML calls.
        """
        ...

    @property
    def modes(self) -> tuple[bool, ...]:
        """The values of `Thinking.enabled` that the family has, its default first."""
        ...

    def mode_of(self, messages: Sequence[Message], default: Thinking) -> Thinking:
        """`default`, unless a switch in the messages says otherwise, in a family that has such switches."""
        ...

    def stream(self, *, thinking: Thinking | None = None, tools: Sequence[ToolSpec] = ()) -> CompletionStream:
        """A completion to be parsed while it is sampled."""
        ...

    def sampling(self, thinking: Thinking | None = None) -> Sampling:
        """The recommended sampling of a mode (None: the family's default), with its stops and its budget."""
        ...

    def thinking_limit(self, thinking: Thinking) -> ThinkingLimit | None:
        """The budget in this vocabulary's ids; None where thinking is off or unbounded."""
        ...

    def thinking_tokens(self, tokens: TokenIds, *, thinking: Thinking | None = None) -> int:
        """How many of a completion's tokens were thought: those between the think tags, tags not counted."""
        ...

    def decode(self, tokens: TokenIds) -> str:
        """The text of `tokens`, special tokens included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Bounds of one run in a sandbox. wall_s and cpu_s in seconds, memory and file size and output in bytes."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory: int = 512 * 2**20
    processes: int = 32
    file_size: int = 16 * 2**20
    output: int = 64 * 2**10


Ended = Literal["exit", "wall", "cpu", "memory", "killed", "stopped"]
"""How what ran in a sandbox ended: by itself, by which limit, by a SIGKILL that was not ours, or by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a program in a sandbox did. `ended`: it exited by itself, which limit stopped it, or that we did.

    exit_code: of the program, negative for a signal. stdout and stderr are cut at the output limit (`truncated`).
    """

    exit_code: int
    stdout: str
    stderr: str
    ended: Ended = "exit"
    truncated: bool = False
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The one way out of a sandbox: who connects to `port` of a program's own 127.0.0.1 is joined to the Unix socket
    `path` outside."""

    port: int
    path: str


NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class Snapshot(Protocol):
    """What a working tree held at one moment. Immutable, and of no cost to anybody: a sandbox can be opened on it."""

    @property
    def paths(self) -> Sequence[str]:
        """All regular files, sorted. Folders and symlinks are in it too, and come back in a sandbox opened on it."""
        ...

    @property
    def lost(self) -> Sequence[str]:
        """Paths that could not be kept: pipes, sockets, and what is beyond the tree's bounds."""
        ...

    def read(self, path: str) -> bytes:
        """The content of a file, with the errors of `Sandbox.read`."""
        ...


class Terminal(Protocol):
    """A live pseudo-terminal in a sandbox: what a person at a keyboard would have of it.

    Its program and all that this starts live until the terminal is closed, or its sandbox. Raises `SandboxError` where
    the machinery failed, and never for what a program did.
    """

    @property
    def alive(self) -> bool:
        """Whether its program is still there."""
        ...

    @property
    def ended(self) -> Ended | None:
        """How its program ended; None while it is there."""
        ...

    @property
    def exit_code(self) -> int | None:
        """Of its program, negative for a signal; None while it is there."""
        ...

    @property
    def dropped(self) -> int:
        """Bytes of output so far that were not kept, since nobody read them in time."""
        ...

    async def send(self, data: bytes) -> None:
        """Type. `BlockingIOError` if the program does not read it, `BrokenPipeError` if there is none any more."""
        ...

    async def read(self, *, wait_s: float, quiet_s: float) -> bytes:
        """What has come since the last call: at most the output limit, its middle replaced by a line that says so.

        Returns when nothing came for `quiet_s` seconds, when `wait_s` seconds are over, or when the program has ended.
        """
        ...

    async def interrupt(self) -> None:
        """What Ctrl-C does. No error if there is nobody to interrupt."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Change the window; its programs are told."""
        ...

    async def close(self) -> None:
        """Kill what lives in it; with a sandbox's last terminal, all that lives in there. Idempotent."""
        ...


class Sandbox(Protocol):
    """An isolated working tree with processes. Paths are relative to the working tree. Raises `SandboxError`."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        limits: RunLimits | None = None,
        env: Mapping[str, str] = NO_VARIABLES,
        door: Door | None = None,
        stop: asyncio.Event | None = None,
    ) -> RunResult:
        """Run a program in the working tree and wait for it and all its children.

        env: variables on top of the sandbox's own. stop: set, it ends the run at once; the tree is kept as it is then.
        """
        ...

    async def python(
        self, code: str, *, argv: Sequence[str] = (), stdin: bytes = b"", limits: RunLimits | None = None
    ) -> RunResult:
        """Run Python source as `__main__` in the working tree: CPython, isolated mode, forked from a warm worker."""
        ...

    async def read(self, path: str) -> bytes:
        """The content of a file; `FileNotFoundError` where there is none."""
        ...

    async def write(self, path: str, data: bytes) -> None:
        """Make or replace a file, and the folders above it."""
        ...

    async def terminal(
        self,
        argv: Sequence[str] = ("/bin/bash", "-i"),
        *,
        rows: int = 24,
        columns: int = 80,
        limits: RunLimits | None = None,
        env: Mapping[str, str] = NO_VARIABLES,
    ) -> Terminal:
        """Start a program in a pseudo-terminal. While a terminal is open, the tree is live: all other calls work on it.

        limits: of all that lives in the terminal together, `wall_s` of its whole life; None: the pool's, without
        `wall_s`. `output` bounds what is kept between two reads. env: as of `run`.
        """
        ...

    async def paths(self) -> Sequence[str]:
        """All regular files of the working tree, sorted."""
        ...

    async def snapshot(self) -> Snapshot:
        """What the working tree holds now. It kills nothing, and later changes do not reach it."""
        ...

    async def close(self) -> None:
        """Kill everything that runs in it and delete its tree. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool call gave. `end`: the episode ends here, with this outcome. artifacts: for people, in the trace.

    fault: the kind of fault that a perturbation put into this answer; it is recorded with the call.
    """

    text: str
    error: bool = False
    end: Outcome | None = None
    fault: str = ""
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an environment says in a conversation. `end`: the episode ends after it, with this outcome."""

    messages: Sequence[Message] = ()
    end: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialist:
    """A sub-agent that a task foresees. Its `tools` (names of the episode's) are its own: nobody else is given them.

    description: what it is good for, for whom it works; instructions: its system text. limits: of one piece of work.
    """

    name: str
    description: str
    tools: Sequence[str]
    instructions: str = ""
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a sub-agent. text: its last words; where it came to none, what went wrong."""

    text: str
    outcome: Outcome

    @property
    def ok(self) -> bool:
        """Whether it came to an end of its own and said something."""
        return self.outcome.by == "policy" and self.outcome.reason != "silent"


class Session(Protocol):
    """An agent's view of one episode, or a sub-agent's of its part. It never sees an engine."""

    @property
    def task(self) -> Task:
        """What is to be done; for a sub-agent, its `prompt` is what it was told to do."""
        ...

    @property
    def tools(self) -> Sequence[ToolSpec]: ...

    @property
    def thinking(self) -> Thinking: ...

    @property
    def seed(self) -> int:
        """What makes episodes of one task differ; a retry has its first attempt's, a sub-agent one of its own."""
        ...

    @property
    def limits(self) -> Limits: ...

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation of the current branch."""
        ...

    @property
    def opening(self) -> Sequence[Message]:
        """What the conversation begins with: what the environment says, which in the main is the task's prompt."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of a conversation and its next turn together."""
        ...

    @property
    def used_tokens(self) -> int:
        """Tokens of the conversation as the next turn will find it, messages that were added since the last included.

        Raises what ends the episode if they cannot be rendered.
        """
        ...

    @property
    def specialists(self) -> Sequence[Specialist]:
        """The sub-agents that the task foresees; a sub-agent has none."""
        ...

    @property
    def specialist(self) -> str:
        """Which of them this is; empty for the episode's own agent, and for a sub-agent that no task foresees."""
        ...

    @property
    def ended(self) -> bool:
        """Whether a tool, the environment or a limit has ended the episode, or this sub-agent's part."""
        ...

    @property
    def sandbox(self) -> Sandbox:
        """The environment's, with the working tree. Raises `ConfigError` where it has none to give."""
        ...

    @property
    def url(self) -> str:
        """Where a program in the sandbox speaks as this episode's agent, through `door`: OpenAI's and Anthropic's
        protocols below it (`/v1/...`). Raises `ConfigError` where nobody answers there."""
        ...

    @property
    def door(self) -> Door:
        """What leads from the sandbox to `url`. Raises `ConfigError` where nobody answers there."""
        ...

    async def over(self) -> None:
        """Returns when the episode has ended; keeps watch over its time meanwhile."""
        ...

    def end(self, outcome: Outcome | None, *, log: str = "") -> None:
        """End the episode, unless it has ended before. None: the agent has stopped, and its last turn says how.

        log: what a program of the agent's wrote, kept in the trace.
        """
        ...

    def add(self, *messages: Message) -> None:
        """Append messages that were not sampled; they become tokens at the next turn."""
        ...

    async def turn(self, *, thinking: Thinking | None = None) -> Message:
        """Let the policy speak once; the message is already part of the conversation."""
        ...

    async def reply(self) -> bool:
        """Let the environment answer the last turn, which called nothing. False: it has nothing to say, and the turn
        was the agent's last."""
        ...

    async def call(self, calls: Sequence[ToolCall], *, together: Collection[str] = ()) -> list[Message]:
        """Run tool calls in order and return their results as messages, already part of the conversation.

        together: tools of which neighbouring calls are run at the same time.
        """
        ...

    def use(self, *tools: Tool) -> None:
        """Offer tools of the agent's own, beside the environment's. Only before the first turn.

        Raises `ConfigError` afterwards, and for a name that is taken.
        """
        ...

    def restart(self, messages: Sequence[Message]) -> None:
        """Go on from `messages` in place of the conversation so far, which stays in the trace as a branch.

        Nothing that was sampled is lost or counted anew; an assistant's message among `messages` is an observation.
        Raises `ConfigError` for none, and beside a program that asks for turns.
        """
        ...

    async def spawn(
        self,
        task: str,
        *,
        specialist: str = "",
        name: str = "",
        tools: Sequence[str] | None = None,
        instructions: str | None = None,
        agent: Agent | None = None,
        limits: Limits | None = None,
        thinking: Thinking | None = None,
    ) -> Report:
        """Let a sub-agent do `task`, in a conversation of its own in the same trace, and wait for what it reports.

        Several may work at the same time. It shares the sandbox; what it spends counts for this agent and its limits
        too. Cancelled, or left behind by an agent that ends, it is stopped.

        specialist: one that the task foresees; it brings tools, instructions and limits. name: what it is called in the
        trace. tools: names of those that it gets (default: all of the specialist's, or all that the environment gave
        this agent). instructions: its system text. agent: how it works (default: `solo`, with the instructions).
        limits: of its part. thinking: its mode (default: the same).

        What ends only its part (its limits, its context) is in the report; what ends the episode ends this agent too.
        Raises `ConfigError` for names that there are not.
        """
        ...


class Tool(Protocol):
    """Something an agent can call. Arguments were checked against `spec.parameters` before."""

    @property
    def spec(self) -> ToolSpec: ...

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult: ...


@runtime_checkable
class State(Protocol):
    """What `Env.setup` made for one episode. Environments put their own fields on it."""

    async def close(self) -> None:
        """Free everything. Idempotent."""
        ...


class Env(Protocol):
    """A task environment. One object serves many episodes at once; each episode has its own state.

    Where its tasks foresee sub-agents, it also has `specialists(task, state) -> Sequence[Specialist]`; where they want
    another harness than `solo`, `harness`, its name. Where it speaks itself: `opening(task, state) ->
    Sequence[Message]`, in place of the prompt, and `async respond(message, state) -> Said | None`, for a turn that
    calls nothing. Where it may end an episode after the calls of a turn, whatever they were: `async stops(messages,
    state) -> Outcome | None`. Where `verify` may take long, it has `verify_s`: seconds after which even that counts as
    hanging.
    """

    @property
    def name(self) -> str: ...

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """Deterministic in (split, seed, limit); no task is in two splits."""
        ...

    async def setup(self, task: Task) -> State:
        """Prepare one episode. Raises `EnvError` if the task cannot be set up."""
        ...

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """The tools of this episode."""
        ...

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """Judge what the agent left, out of its reach. Called once, after the last turn.

        Raises `VerifierError`, and `EnvError` where it turns out that the environment had failed.
        """
        ...

    async def close(self) -> None:
        """Free what the environment holds for all episodes."""
        ...


class Policy(Protocol):
    """A scripted actor (oracle, demonstrator, guesser): stands where a model would, for one episode.

    One that speaks differently as a sub-agent also has `sub_agent(name, specialist) -> Policy`; any other is made anew.
    """

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next assistant message, given the conversation so far."""
        ...


class Agent(Protocol):
    """A harness: how a policy meets a task. `name` carries its version (`solo@1`).

    One that offers tools beside the environment's also has `offers(specialists) -> Sequence[ToolSpec]`: which ones, to
    an agent whose task foresees these sub-agents.
    """

    @property
    def name(self) -> str: ...

    async def run(self, session: Session) -> None:
        """Play one episode until the session has ended or the policy stops calling tools."""
        ...


class Monitor(Protocol):
    """Watches finished traces during training."""

    def observe(self, trace: Trace) -> Sequence[Finding]: ...
