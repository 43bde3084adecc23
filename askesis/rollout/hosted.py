"""An episode whose agent is a program: its requests become the episode's turns.

What the program says (messages and tools) is its own; mode, limits, sampling and seeds are the episode's, as they are
for a built-in agent. So a program that says what a built-in agent says gets the same tokens. A history that it edits
is a branch of the trace, and so are requests at the same time. Its requests are counted as turns as they come in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from askesis.rollout.heard import Halt, Heard
from askesis.rollout.hosting import Answer, Ask, Continuity, Finish, HostClosed, Listener
from askesis.rollout.tree import ROOT, Place, TokenTree
from askesis.types import Completion, Door, Sampling, Thinking, ToolSpec, Waits, counted, in_line

if TYPE_CHECKING:
    from askesis.rollout.session import EpisodeSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a program in the episode's sandbox finds the episode, and what leads there."""

    url: str
    door: Door


class EpisodeHost:
    """The `Host` of an `EpisodeSession`. tree: the episode's record; tools: what the program offered last."""

    def __init__(self, session: EpisodeSession) -> None:
        self.session = session
        self.tree = TokenTree(renderer=session.renderer)
        self.tools: Sequence[ToolSpec] = ()
        self.waits = Waits(session.clock, into=session.waits)  # for the engine; turns at the same time count once
        self._turns: set[asyncio.Task[object]] = set()
        self._branches: dict[int, int] = {}  # of the engine's caches, by the node in which each ends
        self._opened = 0

    @property
    def engine_s(self) -> float:
        """Seconds in which the program waited for the engine."""
        return self.waits.seconds

    def open(self, ask: Ask) -> EpisodeTurn:
        """Find the request's place. Raises `TemplateError`, and `HostClosed` when the episode is over, or now is."""
        from askesis.rollout.session import EpisodeEnded

        session, thinking = self.session, self.session.spec.thinking
        try:
            if (over := session.outcome or session.spent()) is not None:
                session.end(over)
                raise EpisodeEnded(f"the episode has ended: {over.by}, {over.reason}")
            place = self.tree.place(ask.messages, tools=ask.tools, thinking=thinking)
            sampling = session.sampling(thinking, len(place.tokens), asked=ask.max_tokens)
        except EpisodeEnded as error:
            raise HostClosed(str(error)) from None
        self.tools = ask.tools
        session.count_turn()
        return EpisodeTurn(self, ask, place, thinking, sampling)

    def branch(self, anchor: int) -> int:
        """The cache for a turn after `anchor`: its own again, unless another turn has gone on from there."""
        found = self._branches.pop(anchor, None) if anchor != ROOT else None
        if found is None:
            found, self._opened = self._opened, self._opened + 1
        return found

    def keep(self, node: int, branch: int) -> None:
        """That cache now ends in `node`."""
        self._branches[node] = branch

    def enter(self, task: asyncio.Task[object]) -> None:
        """A turn is being spoken."""
        self._turns.add(task)

    def leave(self, task: asyncio.Task[object]) -> None:
        """No more."""
        self._turns.discard(task)

    async def settle(self) -> None:
        """Cut off what is being spoken."""
        tasks = [*self._turns]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EpisodeTurn:
    """A turn of an episode; see `hosting.Turn`."""

    def __init__(self, host: EpisodeHost, ask: Ask, place: Place, thinking: Thinking, sampling: Sampling) -> None:
        self.thinking = thinking
        self._host, self._ask, self._place, self._sampling = host, ask, place, sampling

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the context."""
        return len(self._place.tokens)

    @property
    def recorded_tokens(self) -> int:
        """How many of them were on record before."""
        return self._place.recorded

    @property
    def continuity(self) -> Continuity:
        """How the request's history stands to the record."""
        return self._place.continuity

    async def speak(self, listener: Listener | None = None) -> Answer:
        """Sample the answer and put it on record. Cancelled or failed, what was sampled so far is recorded.

        Raises `HostClosed` where the engine's failure has ended the episode.
        """
        from askesis.rollout.session import EpisodeEnded

        host, session, task = self._host, self._host.session, asyncio.current_task()
        assert task is not None
        heard, begun, branch = Heard(listener), session.clock(), host.branch(self._place.anchor)
        said = session.speaker.say(
            self._place.tokens, self._ask.messages, self.thinking, self._sampling, branch=branch, on_tokens=heard
        )
        host.enter(task)
        finish = "cancelled"
        try:
            with counted(host.waits), in_line():
                try:
                    completion = await session.heard(said, self._sampling, len(self._place.tokens))
                    finish = completion.finish_reason
                except Halt:
                    completion, finish = heard.completion(), "halted"
                except EpisodeEnded as error:
                    finish = "failed"
                    raise HostClosed(str(error)) from error
                except Exception:
                    finish = "failed"
                    raise
        except BaseException:
            if heard.something:
                self._keep(heard.completion(), finish, listener, begun, branch)
            raise
        finally:
            host.leave(task)
        return self._keep(completion, finish, listener, begun, branch)

    def _keep(
        self, completion: Completion, finish: str, listener: Listener | None, begun: float, branch: int
    ) -> Answer:
        host, session = self._host, self._host.session
        message, thought, failure = session.understood(completion, self.thinking, self._ask.tools)
        start, now = session.started_s, session.clock()
        node = host.tree.commit(
            self._place,
            message,
            completion,
            told=None if listener is None else listener.told(),
            finish=finish,
            thinking_tokens=thought,
            started_s=begun - start,
            ended_s=now - start,
        )
        host.keep(node, branch)
        session.count_tokens(completion, thought)
        session.meter.engine_s += now - begun
        if failure is not None:
            session.end(failure)
        ended: Finish = "halted" if finish == "halted" else "length" if finish == "length" else "stop"
        return Answer(node=node, message=message, completion=completion, finish=ended, thinking_tokens=thought)
