"""One agent of an episode: what it sees, and what the record keeps of it.

What was sampled is appended token by token and never rendered again; what was observed comes in between, rendered
once. Everything that can go wrong ends in one typed `Outcome`: what the policy did (or spent) is its own, all else is
infrastructure. A sub-agent is a session of its own below its parent's: it has its own conversation and may end by
itself, by its limits; the episode, its record and all else that can end are the topmost session's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from askesis.rollout.bounded import bounded
from askesis.rollout.calling import Toolbox
from askesis.rollout.ended import EpisodeEnded, said
from askesis.rollout.heard import Halt
from askesis.rollout.hosted import EpisodeHost, Reach
from askesis.rollout.options import EpisodeOptions, Meter, turn_seed
from askesis.rollout.record import Branch, TokenRecord, check_completion, thought_tokens
from askesis.rollout.spawning import SubAgents
from askesis.rollout.speakers import EpisodeSpec, Speaker
from askesis.rollout.spending import Spending
from askesis.types import (
    Agent,
    Artifact,
    Completion,
    ConfigError,
    ContextOverflow,
    Door,
    EngineError,
    Fork,
    Limits,
    Message,
    Node,
    Outcome,
    Renderer,
    Report,
    Said,
    Sampling,
    Sandbox,
    Specialist,
    Task,
    TemplateError,
    Thinking,
    TokenIds,
    Tool,
    ToolCall,
    ToolEvent,
    ToolSpec,
    Waits,
    counted,
    in_line,
    user,
)

__all__ = ["EpisodeEnded", "EpisodeOptions", "EpisodeSession", "Meter", "turn_seed"]

ASKED = "asked"  # the bound of a turn that a program itself wants no longer


@dataclass(slots=True, kw_only=True)
class EpisodeSession:
    """Implements `types.Session`. `clock` gives seconds; the episode's time starts when the session is made.

    toolset: the tools that this agent is given; foreseen: the task's specialists, each with its tools. above: the
    session of the agent that made this one a sub-agent.
    """

    spec: EpisodeSpec
    speaker: Speaker
    renderer: Renderer
    toolset: Sequence[Tool]
    foreseen: Sequence[tuple[Specialist, Sequence[Tool]]] = ()
    above: EpisodeSession | None = None
    specialist: str = ""
    opens: Sequence[Message] = ()  # what the environment says at first, where that is not the prompt
    responds: Callable[[Message], Coroutine[Any, Any, Said | None]] | None = (
        None  # what it says to a turn that calls nothing
    )
    stops: Callable[[Sequence[Message]], Coroutine[Any, Any, Outcome | None]] | None = (
        None  # whether it ends the episode after the calls of a turn
    )
    place: Sandbox | None = None  # where a program of the agent's runs
    reach: Reach | None = None  # where that finds this episode
    options: EpisodeOptions
    clock: Callable[[], float]
    meter: Meter = field(default_factory=Meter)
    events: list[ToolEvent] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    branch: Branch = field(init=False)
    waits: Waits = field(init=False)  # the episode's: when anybody waits for the engine or in line
    waits_here: Waits = field(init=False)  # this agent's, apart from its calls and turns
    engine_waits: Waits = field(init=False)
    spending: Spending = field(init=False)
    tool_s: float = 0.0
    log: str = ""
    _outcome: Outcome | None = None
    _messages: list[Message] = field(default_factory=list)
    _observed: int = 0  # messages that are in the record already
    _rendered: tuple[int, Thinking, TokenIds] | None = None  # of those that are not, up to which
    _turns: int = 0  # its own
    _last: Node | None = None  # that was sampled
    _bound: str = ""  # which limit would cut the last turn
    _host: EpisodeHost | None = None  # once a program was told where to ask
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _concluded: bool = False
    _start: float = field(init=False)
    _tools: Toolbox = field(init=False)
    _sub_agents: SubAgents = field(init=False)

    def __post_init__(self) -> None:
        now, above = self.clock(), self.above
        self._start = now if above is None else above._start
        self.waits = Waits(self.clock) if above is None else above.waits
        self.engine_waits = Waits(self.clock, into=self.waits) if above is None else above.engine_waits
        self.waits_here = Waits(self.clock, into=self.waits)
        self.spending = Spending(
            self.spec.task.limits,
            self.spec.thinking,
            waits=self.waits,
            start=now,
            above=None if above is None else above.spending,
        )
        if above is None:
            self.branch = Branch(record=TokenRecord())
            self.branches.append(self.branch)
        else:
            self.events, self.branches, self.artifacts = above.events, above.branches, above.artifacts
            self.branch = Branch(record=TokenRecord(above.record.nodes), origin=above.record.last, kind="agent")
            self.branches.append(self.branch)
        self._tools, self._sub_agents = Toolbox(self, self.toolset), SubAgents(self)

    @property
    def task(self) -> Task:
        """What is to be done."""
        return self.spec.task

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """What the agent can call; once its program has asked for a turn, what that offers."""
        return self._tools.specs if self._host is None else self._host.tools

    @property
    def given(self) -> Sequence[Tool]:
        """The tools that the environment gives this agent; not those that it brought along."""
        return self.toolset

    @property
    def last_words(self) -> str:
        """The text of its last turn."""
        return "" if self._last is None else self._last.message.text.strip()

    @property
    def opening(self) -> Sequence[Message]:
        """See `types.Session`."""
        return self.opens or (user(self.task.prompt),)

    @property
    def specialists(self) -> Sequence[Specialist]:
        """The sub-agents that the task foresees."""
        return [specialist for specialist, _ in self.foreseen]

    @property
    def thinking(self) -> Thinking:
        """The mode of this agent."""
        return self.spec.thinking

    @property
    def seed(self) -> int:
        """What makes episodes of one task differ."""
        return self.spec.seed

    @property
    def limits(self) -> Limits:
        """The bounds of its part; those of whom it works for hold as well."""
        return self.spec.task.limits

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far."""
        return self._messages

    @property
    def top(self) -> EpisodeSession:
        """The session of the episode's own agent."""
        return self if self.above is None else self.above.top

    @property
    def record(self) -> TokenRecord:
        """Of the conversation as it is now."""
        return self.branch.record

    @property
    def outcome(self) -> Outcome | None:
        """How the episode has ended, or this agent's part of it."""
        return self._outcome if self.above is None else self._outcome or self.above.outcome

    @outcome.setter
    def outcome(self, outcome: Outcome | None) -> None:
        self._outcome = outcome

    @property
    def engine_s(self) -> float:
        """Seconds in which anybody waited for the engine; turns at the same time count once."""
        return self.engine_waits.seconds if self._host is None else self._host.engine_s

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

    @property
    def forks(self) -> tuple[Fork, ...]:
        """Where conversations began that are not the first."""
        return tuple(fork for branch in self.branches if (fork := branch.fork) is not None)

    def add(self, *messages: Message) -> None:
        """Append messages that were not sampled; they become tokens at the next turn."""
        self._messages.extend(messages)

    def use(self, *tools: Tool) -> None:
        """Offer tools of the agent's own. Raises `ConfigError` after the first turn, and for a name that is taken."""
        if self._turns or self._host is not None:
            raise ConfigError(f"tools {[tool.spec.name for tool in tools]} come too late: the first turn was taken")
        self._tools.add(tools)
        self._rendered = None

    # -- context -----------------------------------------------------------------------------------------------------

    @property
    def context_length(self) -> int:
        """Most tokens of a conversation and its next turn together."""
        return self.speaker.context_length

    @property
    def used_tokens(self) -> int:
        """Tokens of the conversation as the next turn will find it. Raises `EpisodeEnded` if it cannot be rendered."""
        return len(self.record) + len(self._new_tokens(self.spec.thinking))

    def restart(self, messages: Sequence[Message]) -> None:
        """Go on from `messages` in place of the conversation so far, which stays in the trace as a branch."""
        if not messages or self._host is not None:
            what = "no messages" if not messages else "a program that asks for its turns itself"
            raise ConfigError(f"session.restart: got {what}; expected messages to go on from")
        if self.record.path:  # else no model has seen any of it, and there is nothing to branch from
            self.record.end(self._messages[self._observed :], at=self.clock() - self._start)
            nodes, origin = self.record.nodes, self.record.last
            self.branch = Branch(record=TokenRecord(nodes), origin=origin, kind="compaction", name=self.branch.name)
            self.branches.append(self.branch)
        self._messages, self._observed, self._rendered = [*messages], 0, None

    # -- sub-agents --------------------------------------------------------------------------------------------------

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
        """See `types.Session`."""
        if self._host is not None:
            raise ConfigError("session.spawn: got a program that asks for its turns itself; it has no sub-agents")
        child, agent = self._sub_agents.make(
            task,
            specialist=specialist,
            name=name,
            tools=tools,
            instructions=instructions,
            agent=agent,
            limits=limits,
            thinking=thinking,
        )
        return await self._sub_agents.play(child, agent)

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
            if (late := self.spending.late(self.clock())) is not None:
                self.end(late)
                return
            left = self.limits.wall_s - self.spending.own_s(self.clock())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left + 0.01)

    def end(self, outcome: Outcome | None, *, log: str = "") -> None:
        """End the episode, unless it has ended. None: the agent has stopped, and its last turn says how."""
        self.top.log = log or self.top.log
        if outcome is not None:
            self.top._over(outcome)

    async def settle(self) -> None:
        """Stop sub-agents, and turns that a program does not wait for any more; what they sampled is on record."""
        await self._sub_agents.stop()
        if self._host is not None:
            await self._host.settle()

    # -- turns -------------------------------------------------------------------------------------------------------

    async def turn(self, *, thinking: Thinking | None = None) -> Message:
        """Let the policy speak once. Raises `EpisodeEnded` if the episode is over, or ends for want of a turn."""
        if (spent := self.outcome or self.spent()) is not None:
            raise self._over(spent)
        if self._host is not None:
            raise self._over(Outcome(by="agent", reason="error", detail="turn() beside a program that asks for turns"))
        thinking = self.spec.thinking if thinking is None else thinking
        if thinking.effort is not None:
            raise ConfigError(
                f"effort {thinking.effort:g} was never turned into a budget; use `askesis.chat.resolve` with the "
                "checkpoint's table of effort, or give a budget"
            )
        new = self._new_tokens(thinking)
        await self._room(len(self.record) + len(new), thinking)
        self.record.stage(self._messages[self._observed :], new, at=self.clock() - self._start)
        sampling = self.sampling(thinking, len(self.record))
        self.count_turn()
        record, context, asked = self.record, self.record.tokens, len(self._messages)
        begun = self.clock()
        saying = self.speaker.speak(context, self._messages, thinking, sampling)
        thought = 0 if sampling.thinking is None else sampling.thinking.budget
        with counted(self.engine_waits), in_line(), self.spending.promised(sampling.max_tokens, thought):
            completion = await self.heard(saying, sampling, len(context))
        now = self.clock()
        self.meter.engine_s += now - begun
        if self.top._concluded:  # it would not be stopped, and comes too late
            raise self._over(Outcome(by="cancelled", reason="cancelled"))
        if record is not self.record or len(record) != len(context) or asked != len(self._messages):
            self.end(Outcome(by="agent", reason="error", detail="two turns of one session at the same time"))
            raise self.gone()
        return self._spoke(completion, thinking, begun - self._start, now - self._start)

    async def _room(self, length: int, thinking: Thinking) -> None:
        """Wait while other agents' turns may leave more of what all share."""
        most = min(one.limits.max_turn_tokens for one in self.spending.chain())
        await self.spending.room(min(most, self.context_length - length), thinking)
        if (spent := self.outcome or self.spent()) is not None:
            raise self._over(spent)

    def _new_tokens(self, thinking: Thinking) -> TokenIds:
        """The messages that were added since the last turn as tokens, with the generation prompt."""
        if self._rendered is not None and self._rendered[:2] == (len(self._messages), thinking):
            return self._rendered[2]
        new = self._messages[self._observed :]
        try:
            if self.record.path:
                tokens = self.renderer.extend(
                    self.record.tokens,
                    new,
                    thinking=thinking,
                    history=self._messages[: self._observed],
                    tools=self._tools.specs,
                )
            else:
                tokens = self.renderer.render(new, tools=self._tools.specs, thinking=thinking)
        except TemplateError as error:
            raise self._over(Outcome(by="environment", reason="template", detail=str(error))) from error
        self._rendered = (len(self._messages), thinking, tokens)
        return tokens

    def sampling(self, thinking: Thinking, length: int, *, asked: int | None = None) -> Sampling:
        """Of a turn after `length` tokens. asked: the most that a program wants. Raises `EpisodeEnded` for no room."""
        options = self.options
        bounds = [*self.spending.bounds(), (self.speaker.context_length - length, "context")]
        if asked is not None:
            bounds.append((asked, ASKED))
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
            thinking=self.renderer.thinking_limit(replace(thinking, budget=self.spending.left_to_think(thinking))),
            priority=getattr(self.speaker, "priority", 0),
        )

    def _full(self, bound: str, length: int) -> Outcome:
        detail = f"{length} tokens of context; {self.spending.spoken} were spoken"
        if bound == "context" and not self.spending.spoken and self.above is None:  # the policy has had no say yet
            return Outcome(by="environment", reason="prompt_too_long", detail=detail)
        return Outcome(by="limit", reason=bound, detail=detail)

    async def heard(self, saying: Coroutine[Any, Any, Completion], sampling: Sampling, length: int) -> Completion:
        """One completion, checked; every failure of the engine ends the episode."""
        try:
            completion = await bounded(saying, self.options.engine_s)
            check_completion(completion, sampling)
            return completion
        except Halt:
            raise
        except ContextOverflow:
            outcome = self._full("context", length)
        except TimeoutError as error:
            outcome = Outcome(by="engine", reason="timeout", detail=str(error))
        except Exception as error:
            outcome = Outcome(by="engine", reason="error", detail=said(error))
        raise self._over(outcome)

    def _spoke(self, completion: Completion, thinking: Thinking, started_s: float, ended_s: float) -> Message:
        """Put a completion on record, whatever becomes of parsing it: nothing that was sampled is lost."""
        message, thought, failure = self.understood(completion, thinking, self._tools.specs)
        self.record.sampled(message, completion, thinking_tokens=thought, started_s=started_s, ended_s=ended_s)
        self._last = self.record.nodes[self.record.last]
        self._messages.append(message)
        self._observed, self._rendered = len(self._messages), None
        self.count_tokens(completion, thought)
        if failure is not None:
            raise self._over(failure)
        return message

    def understood(
        self, completion: Completion, thinking: Thinking, tools: Sequence[ToolSpec]
    ) -> tuple[Message, int, Outcome | None]:
        """What was sampled as a message, its tokens of thought, and how the episode ends if it cannot be read."""
        try:
            stream = self.renderer.stream(thinking=thinking, tools=tools)
            stream.feed(completion.token_ids)
            stream.finish()
            thought = stream.thinking_tokens
            if completion.forced.any():  # some of what stands in the thinking was not sampled
                thought = thought_tokens(self.renderer, completion, thinking)
            return stream.message, thought, None
        except Exception as error:
            return Message(role="assistant"), 0, Outcome(by="engine", reason="parse", detail=said(error))

    def count_turn(self) -> None:
        """One more; the next one has another seed."""
        self._turns += 1
        self.meter.turns += 1
        self.spending.count_turn()

    def count_tokens(self, completion: Completion, thought: int) -> None:
        """What a turn has taken of the limits."""
        self.meter.tokens += len(completion.token_ids)
        self.spending.count_tokens(len(completion.token_ids), thought)

    async def reply(self) -> bool:
        """See `types.Session`."""
        if self.responds is None or self._last is None or self.outcome is not None:
            return False
        begun, waits = self.clock(), Waits(self.clock, into=self.waits)
        try:
            said = await bounded(self.responds(self._last.message), self.spending.tool_s, waits)
        except Exception as error:
            reason = "timeout" if isinstance(error, TimeoutError) else "respond"
            self.end(Outcome(by="environment", reason=reason, detail=f"{type(error).__name__}: {error}"))
            return True
        self.top.tool_s += max(0.0, self.clock() - begun - waits.elsewhere_s)
        if said is None:
            return False
        self.add(*said.messages)
        ended = said.end or self.spent()
        if ended is not None and self.outcome is None:
            self._over(ended)
        return True

    # -- calls -------------------------------------------------------------------------------------------------------

    async def call(self, calls: Sequence[ToolCall], *, together: Collection[str] = ()) -> list[Message]:
        """Run calls in order. Those after the one that ended the episode are not run, and get no result."""
        results = await self._tools.call(calls, together)
        await self._asked_to_stop()
        if self.outcome is None and (spent := self.spent()) is not None:
            self._over(spent)
        return results

    async def _asked_to_stop(self) -> None:
        """Let the environment end the episode between two turns; what it raises is its own failure."""
        if self.stops is None or self.outcome is not None:
            return
        try:
            ended = await bounded(self.stops(self._messages), self.spending.tool_s, Waits(self.clock, into=self.waits))
        except Exception as error:
            reason = "timeout" if isinstance(error, TimeoutError) else "stops"
            ended = Outcome(by="environment", reason=reason, detail=f"{type(error).__name__}: {error}")
        if ended is not None:
            self.end(ended)

    def count_call(self, event: ToolEvent, own_s: float) -> None:
        """A call that was run. own_s: its seconds without those of sub-agents."""
        self.events.append(event)
        self.top.tool_s += own_s
        self.meter.tool_s += own_s

    # -- ends --------------------------------------------------------------------------------------------------------

    def spent(self) -> Outcome | None:
        """The limit that leaves no further turn, if any. Tokens are looked at when the context is known."""
        return self.spending.over(self.clock())

    def _over(self, outcome: Outcome) -> EpisodeEnded:
        """End the episode, or this agent's part if that is all that has, unless it has ended before; what to raise."""
        ends = self if outcome.by in ("limit", "policy") else self.top
        ends._outcome = ends._outcome or outcome
        ends._ended.set()
        return self.gone()

    def stop(self, outcome: Outcome) -> None:
        """End this agent's part, and nothing above it."""
        self._outcome = self._outcome or outcome

    def gone(self) -> EpisodeEnded:
        """What is raised when it has ended."""
        ended = self.outcome
        assert ended is not None
        return EpisodeEnded(f"the episode has ended: {ended.by}, {ended.reason}")

    def finish(self) -> Outcome:
        """Close this agent's conversation after its last word, and say who ended its part."""
        self.record.end(self._messages[self._observed :], at=self.clock() - self._start)
        self._observed, self._rendered = len(self._messages), None
        if self.outcome is None:
            self._over(self._stopped())
        assert self.outcome is not None
        return self.outcome

    def conclude(self) -> Outcome:
        """Close the episode's record after its agent's last word, and say who ended it."""
        outcome = self.finish()
        self._concluded = True
        try:
            for branch in self.branches:
                branch.record.end((), at=self.clock() - self._start)
                branch.record.check()
            if self._host is not None:
                self._host.tree.check()
        except EngineError as error:
            self._outcome = outcome = Outcome(by="engine", reason="invariant", detail=str(error))
        return outcome

    def _stopped(self) -> Outcome:
        last = self._last
        if self._host is not None:
            last = next((node for node in reversed(self.nodes) if node.sampled), None)
        if last is None:
            return Outcome(by="agent", reason="error", detail="the agent took no turn")
        if last.finish_reason == "length" and self._bound != ASKED:
            return self._full(self._bound, len(self.record))
        return Outcome(by="policy", reason="stopped" if self._host is None else "exited")
