"""One episode as an agent sees it, and as the record keeps it.

What was sampled is appended token by token and never rendered again; what was observed comes in between, rendered
once. Everything that can go wrong ends in one typed `Outcome`: what the policy did (or spent) is its own, all else is
infrastructure.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from askesis.rollout.arguments import complaint
from askesis.rollout.bounded import bounded
from askesis.rollout.heard import Halt
from askesis.rollout.hosted import EpisodeHost, Reach
from askesis.rollout.record import TokenRecord, check_completion, thought_tokens
from askesis.rollout.speakers import EpisodeSpec, Speaker
from askesis.types import (
    AskesisError,
    Completion,
    ConfigError,
    ContextOverflow,
    Door,
    EngineError,
    Limits,
    Message,
    Node,
    Outcome,
    Renderer,
    Sampling,
    Sandbox,
    SandboxError,
    Task,
    TemplateError,
    Thinking,
    Tool,
    ToolCall,
    ToolEvent,
    ToolResult,
    ToolSpec,
    Waits,
    nearest,
    tool_result,
)

ASKED = "asked"  # the bound of a turn that a program itself wants no longer


class EpisodeEnded(AskesisError):
    """Raised by `Session.turn` when no further turn is possible. Agents let it pass; the episode is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeOptions:
    """How every episode of a run is sampled and bounded.

    temperature, top_p, top_k, min_p: as in `Sampling`; training samples untruncated. setup_s, verify_s, close_s,
    engine_s: seconds that setting up, verifying, closing and one turn of the engine may take before they count as
    failed. The last is separate from `Limits.wall_s`, whose clock stops while the policy waits for the engine: how
    busy the engine is says nothing about the policy. No limit counts the time in line for a sandbox's worker.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    setup_s: float = 60.0
    verify_s: float = 60.0
    engine_s: float = 600.0
    close_s: float = 10.0


@dataclass(slots=True)
class Meter:
    """What was done so far, for the live line; shared by all episodes of a run."""

    turns: int = 0
    tokens: int = 0
    engine_s: float = 0.0
    tool_s: float = 0.0


def turn_seed(seed: int, turn: int) -> int:
    """The seed of one turn's sampling, 63 bits: neighbouring seeds and turns share nothing."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()) >> 1


@dataclass(slots=True, kw_only=True)
class EpisodeSession:
    """Implements `types.Session`. `clock` gives seconds; the episode's time starts when the session is made."""

    spec: EpisodeSpec
    speaker: Speaker
    renderer: Renderer
    toolset: Sequence[Tool]
    place: Sandbox | None = None  # where a program of the agent's runs
    reach: Reach | None = None  # where that finds this episode
    options: EpisodeOptions
    clock: Callable[[], float]
    meter: Meter = field(default_factory=Meter)
    record: TokenRecord = field(default_factory=TokenRecord)
    events: list[ToolEvent] = field(default_factory=list)
    outcome: Outcome | None = None
    engine_s: float = 0.0
    tool_s: float = 0.0
    waits: Waits = field(init=False)
    _messages: list[Message] = field(default_factory=list)
    _observed: int = 0  # messages that are in the record already
    _turns: int = 0
    _spoken: int = 0  # sampled and forced tokens of all turns
    _thought: int = 0  # of them, those that were sampled while thinking
    _bound: str = ""  # which limit would cut the last turn
    _host: EpisodeHost | None = None  # once a program was told where to ask
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    log: str = ""
    _start: float = field(init=False)
    _by_name: Mapping[str, Tool] = field(init=False)
    _specs: tuple[ToolSpec, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._start, self.waits = self.clock(), Waits(self.clock)
        self._specs = tuple(tool.spec for tool in self.toolset)
        self._by_name = {spec.name: tool for spec, tool in zip(self._specs, self.toolset, strict=True)}
        if len(self._by_name) != len(self._specs):
            raise ConfigError(f"two tools share a name: {sorted(spec.name for spec in self._specs)}")

    @property
    def task(self) -> Task:
        """What is to be done."""
        return self.spec.task

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """What the agent can call; once its program has asked for a turn, what that offers."""
        return self._specs if self._host is None else self._host.tools

    @property
    def thinking(self) -> Thinking:
        """The mode of this episode."""
        return self.spec.thinking

    @property
    def limits(self) -> Limits:
        """The bounds of this episode."""
        return self.spec.task.limits

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far."""
        return self._messages

    @property
    def started_s(self) -> float:
        """When the episode's time began, by its clock."""
        return self._start

    @property
    def ended(self) -> bool:
        """Whether a tool, a limit or a failure has ended the episode."""
        return self.outcome is not None

    @property
    def nodes(self) -> Sequence[Node]:
        """What is on record."""
        return self.record.nodes if self._host is None else self._host.tree.nodes

    def add(self, *messages: Message) -> None:
        """Append messages that were not sampled; they become tokens at the next turn."""
        self._messages.extend(messages)

    # -- a program in the agent's place ------------------------------------------------------------------------------

    @property
    def sandbox(self) -> Sandbox:
        """The environment's. Raises `ConfigError` where its state has none."""
        if self.place is None:
            raise ConfigError(
                f"environment {self.task.env!r}: its state has no `sandbox`, so that no program can be run in it; "
                "keep the episode's sandbox in an attribute of that name on what `setup` returns"
            )
        return self.place

    @property
    def url(self) -> str:
        """See `types.Session`."""
        return self._reached().url

    @property
    def door(self) -> Door:
        """See `types.Session`."""
        return self._reached().door

    def _reached(self) -> Reach:
        if self.reach is None:
            raise ConfigError("no gateway answers for this episode: its roller was made without a `reception`")
        return self.reach

    @property
    def host(self) -> EpisodeHost:
        """Who answers a program's requests. From now on they alone make turns."""
        if self._host is None:
            self._host = EpisodeHost(self)
        return self._host

    async def over(self) -> None:
        """Returns when the episode has ended: also by its time, which nobody else watches while a program runs."""
        while self.outcome is None:
            left = self.limits.wall_s - self._own_s()
            if left < 0:
                self.end(self._late())
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left + 0.01)

    def end(self, outcome: Outcome | None, *, log: str = "") -> None:
        """End the episode, unless it has ended. None: the agent has stopped, and its last turn says how."""
        self.log = log or self.log
        if outcome is not None:
            self._over(outcome)

    async def settle(self) -> None:
        """Cut off turns that a program does not wait for any more; what they sampled is on record."""
        if self._host is not None:
            await self._host.settle()

    # -- turns -------------------------------------------------------------------------------------------------------

    async def turn(self, *, thinking: Thinking | None = None) -> Message:
        """Let the policy speak once. Raises `EpisodeEnded` if the episode is over, or ends for want of a turn."""
        spent = self.outcome or self.spent()
        if spent is not None:
            raise self._over(spent)
        if self._host is not None:
            raise self._over(Outcome(by="agent", reason="error", detail="turn() beside a program that asks for turns"))
        thinking = self.spec.thinking if thinking is None else thinking
        if thinking.effort is not None:
            raise ConfigError(
                f"effort {thinking.effort:g} was never turned into a budget; use `askesis.chat.resolve` with the "
                "checkpoint's table of effort, or give a budget"
            )
        self._render(thinking)
        sampling = self.sampling(thinking, len(self.record))
        context, asked = self.record.tokens, len(self._messages)
        begun = self.clock()
        said = self.speaker.speak(context, self._messages, thinking, sampling)
        completion = await self.heard(said, sampling, len(self.record))
        now = self.clock()
        self.engine_s += now - begun
        self.meter.engine_s += now - begun
        if len(self.record) != len(context) or asked != len(self._messages):
            raise self._over(Outcome(by="agent", reason="error", detail="two turns of one session at the same time"))
        return self._spoke(completion, thinking, begun - self._start, now - self._start)

    def _render(self, thinking: Thinking) -> None:
        """Make tokens of the messages that were added since the last turn."""
        new = self._messages[self._observed :]
        try:
            if self.record.nodes:
                tokens = self.renderer.extend(
                    self.record.tokens,
                    new,
                    thinking=thinking,
                    history=self._messages[: self._observed],
                    tools=self._specs,
                )
            else:
                tokens = self.renderer.render(new, tools=self._specs, thinking=thinking)
        except TemplateError as error:
            raise self._over(Outcome(by="environment", reason="template", detail=str(error))) from error
        self.record.stage(new, tokens, at=self.clock() - self._start)

    def sampling(self, thinking: Thinking, length: int, *, asked: int | None = None) -> Sampling:
        """Of a turn after `length` tokens. asked: the most that a program wants. Raises `EpisodeEnded` for no room."""
        limits, options = self.limits, self.options
        room = self.speaker.context_length - length
        bounds = [(limits.max_turn_tokens, "max_turn_tokens"), (room, "context")]
        if asked is not None:
            bounds.append((asked, ASKED))
        if limits.max_tokens is not None:
            bounds.append((limits.max_tokens - self._spoken, "max_tokens"))
        most, self._bound = min(bounds)
        if most <= 0:
            raise self._over(self._full(self._bound, length))
        return Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            max_tokens=most,
            stop=self.renderer.stop_ids,
            seed=turn_seed(self.spec.seed, self._turns),
            thinking=self.renderer.thinking_limit(self._left_to_think(thinking)),
        )

    def _left_to_think(self, thinking: Thinking) -> Thinking:
        """The mode of a turn with the budget that it has: its own, or what is left of the episode's if that is less."""
        whole = [one.episode_budget for one in (thinking, self.spec.thinking) if one.episode_budget is not None]
        left = [max(0, budget - self._thought) for budget in whole]
        bounds = left if thinking.budget is None else [thinking.budget, *left]
        return replace(thinking, budget=min(bounds)) if bounds else thinking

    def _full(self, bound: str, length: int) -> Outcome:
        detail = f"{length} tokens of context, {self._spoken} of them spoken"
        if bound == "context" and not self._turns:  # the policy has not had a say yet
            return Outcome(by="environment", reason="prompt_too_long", detail=detail)
        return Outcome(by="limit", reason=bound, detail=detail)

    async def heard(self, said: Coroutine[Any, Any, Completion], sampling: Sampling, length: int) -> Completion:
        """One completion, checked; every failure of the engine ends the episode."""
        try:
            completion = await bounded(said, self.options.engine_s)
            check_completion(completion, sampling)
            return completion
        except Halt:
            raise
        except ContextOverflow:
            outcome = self._full("context", length)
        except TimeoutError as error:
            outcome = Outcome(by="engine", reason="timeout", detail=str(error))
        except Exception as error:
            outcome = Outcome(by="engine", reason="error", detail=_said(error))
        raise self._over(outcome)

    def _spoke(self, completion: Completion, thinking: Thinking, started_s: float, ended_s: float) -> Message:
        """Put a completion on record, whatever becomes of parsing it: nothing that was sampled is lost."""
        message, thought, failure = self.understood(completion, thinking, self._specs)
        self.record.sampled(message, completion, thinking_tokens=thought, started_s=started_s, ended_s=ended_s)
        self._messages.append(message)
        self._observed = len(self._messages)
        self.count_turn()
        self.count_tokens(completion, thought)
        if failure is not None:
            raise self._over(failure)
        return message

    def understood(
        self, completion: Completion, thinking: Thinking, tools: Sequence[ToolSpec]
    ) -> tuple[Message, int, Outcome | None]:
        """What was sampled as a message, its tokens of thought, and how the episode ends if it cannot be read."""
        try:
            message = self.renderer.parse(completion.token_ids, thinking=thinking, tools=tools)
            return message, thought_tokens(self.renderer, completion, thinking), None
        except Exception as error:
            return Message(role="assistant"), 0, Outcome(by="engine", reason="parse", detail=_said(error))

    def count_turn(self) -> None:
        """One more; the next one has another seed."""
        self._turns += 1
        self.meter.turns += 1

    def count_tokens(self, completion: Completion, thought: int) -> None:
        """What a turn has taken of the episode's limits."""
        self._spoken += len(completion.token_ids)
        self._thought += thought
        self.meter.tokens += len(completion.token_ids)

    # -- calls -------------------------------------------------------------------------------------------------------

    async def call(self, calls: Sequence[ToolCall]) -> list[Message]:
        """Run calls in order. Those after the one that ended the episode are not run, and get no result."""
        results: list[Message] = []
        for call in calls:
            if self.ended:
                break
            text = await self._call(call)
            if text is not None:
                results.append(tool_result(text, tool_call_id=call.id))
                self._messages.append(results[-1])
        if self.outcome is None:
            self.outcome = self.spent()
        return results

    async def _call(self, call: ToolCall) -> str | None:
        """One call's result; None where the tool itself failed (and with it the episode)."""
        begun = self.clock()
        text: str | None
        text, status = self._refusal(call)
        if not status:
            text, status = await self._run(self._by_name[call.name], call)
        seconds = self.clock() - begun
        self.tool_s += seconds
        self.meter.tool_s += seconds
        self.events.append(ToolEvent(node=len(self.record.nodes) - 1, name=call.name, seconds=seconds, status=status))
        return text

    def _refusal(self, call: ToolCall) -> tuple[str, str]:
        """What the policy did wrong in making this call, and the kind of it; empty if nothing."""
        tool = self._by_name.get(call.name)
        if tool is None:
            hint = nearest(call.name, self._by_name)
            return f"error: no tool {call.name!r}{hint} (tools: {', '.join(self._by_name)})", "unknown_tool"
        wrong = complaint(tool.spec.parameters, call.arguments)
        return ("", "") if wrong is None else (f"error: {call.name}: {wrong}", "bad_arguments")

    async def _run(self, tool: Tool, call: ToolCall) -> tuple[str | None, str]:
        """Run one tool. Its own failures, unlike the errors it reports, say nothing about the policy."""
        try:
            result = await bounded(tool(call.arguments, self), self.limits.tool_s, self.waits)
            if not isinstance(result, ToolResult):
                raise TypeError(f"returned a {type(result).__name__}, expected a ToolResult")
        except TimeoutError as error:
            self.outcome = Outcome(by="tool", reason="timeout", detail=f"{call.name}: {error}")
            return None, "timeout"
        except SandboxError as error:
            self.outcome = Outcome(by="sandbox", reason="error", detail=f"{call.name}: {_said(error)}")
            return None, "sandbox"
        except Exception as error:
            self.outcome = Outcome(by="tool", reason="error", detail=f"{call.name}: {_said(error)}")
            return None, "exception"
        self.outcome = result.end
        return result.text, "error" if result.error else "ok"

    # -- ends --------------------------------------------------------------------------------------------------------

    def spent(self) -> Outcome | None:
        """The limit that leaves no further turn, if any. Tokens are looked at when the context is known."""
        if self._turns >= self.limits.max_turns:
            return Outcome(by="limit", reason="max_turns", detail=f"{self._turns} turns")
        return self._late()

    def _late(self) -> Outcome | None:
        own = self._own_s()
        if own > self.limits.wall_s:
            return Outcome(by="limit", reason="wall_s", detail=f"{own:.1f} s without the engine's and those in line")
        return None

    def _own_s(self) -> float:
        """The agent's and the tools' own seconds."""
        engine_s = self.engine_s if self._host is None else self._host.engine_s
        return self.clock() - self._start - engine_s - self.waits.seconds

    def _over(self, outcome: Outcome) -> EpisodeEnded:
        """End the episode, unless it has ended before; what to raise so that the agent hears of it."""
        self.outcome = self.outcome or outcome
        self._ended.set()
        return EpisodeEnded(f"the episode has ended: {self.outcome.by}, {self.outcome.reason}")

    def conclude(self) -> Outcome:
        """Close the record after the agent's last word, and say who ended the episode."""
        self.record.end(self._messages[self._observed :], at=self.clock() - self._start)
        self._observed = len(self._messages)
        if self._host is not None:
            self.engine_s = self._host.engine_s
        if self.outcome is None:
            self.outcome = self._stopped()
        try:
            self.record.check()
            if self._host is not None:
                self._host.tree.check()
        except EngineError as error:
            self.outcome = Outcome(by="engine", reason="invariant", detail=str(error))
        return self.outcome

    def _stopped(self) -> Outcome:
        last = next((node for node in reversed(self.nodes) if node.sampled), None)
        if last is None:
            return Outcome(by="agent", reason="error", detail="the agent took no turn")
        if last.finish_reason == "length" and self._bound != ASKED:
            return self._full(self._bound, len(self.record))
        return Outcome(by="policy", reason="stopped" if self._host is None else "exited")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
