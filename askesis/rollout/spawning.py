"""The sub-agents of one agent: made from what it may give, played, stopped with it.

A sub-agent is an `EpisodeSession` below its parent's, with its own voice, conversation, tools and limits. What ends its
part by its own doing becomes a report; every failure of the machinery ends the episode, as it would in the parent.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from askesis.rollout.bounded import GRACE_S, bounded
from askesis.rollout.ended import EpisodeEnded, said
from askesis.types import (
    Agent,
    ConfigError,
    Limits,
    Outcome,
    Report,
    Specialist,
    Thinking,
    Tool,
    counted,
    elsewhere,
    nearest,
)

if TYPE_CHECKING:
    from askesis.rollout.session import EpisodeSession

_EVER_S = 1e6  # no time of its own: turns, calls and the episode have theirs


class SubAgents:
    """Of `session`."""

    def __init__(self, session: EpisodeSession) -> None:
        self._session = session
        self._running: set[asyncio.Task[Any]] = set()
        self._made = 0

    def make(
        self,
        task: str,
        *,
        specialist: str,
        name: str,
        tools: Sequence[str] | None,
        instructions: str | None,
        agent: Agent | None,
        limits: Limits | None,
        thinking: Thinking | None,
    ) -> tuple[EpisodeSession, Agent]:
        """A sub-agent as `types.Session.spawn` describes it, and how it works. Raises `ConfigError`."""
        from askesis.agents import SoloAgent

        above = self._session
        foreseen, offered = self._offered(specialist)
        if agent is not None and instructions is not None:
            raise ConfigError("session.spawn: got an agent and instructions; an agent brings its own: give one of them")
        if foreseen is not None:
            limits = limits or foreseen.limits
            instructions = foreseen.instructions or None if instructions is None else instructions
        number, self._made = self._made, self._made + 1
        spec = replace(
            above.spec,
            task=replace(above.task, prompt=task, limits=limits or above.limits),
            thinking=thinking or above.spec.thinking,
            seed=_seed(above.spec.seed, number),
        )
        called = name or specialist or "sub-agent"
        child = type(above)(
            spec=spec,
            speaker=above.speaker.spawn(called, specialist),
            renderer=above.renderer,
            toolset=_chosen(tools, offered, called),
            above=above,
            specialist=specialist,
            place=above.place,
            options=above.options,
            clock=above.clock,
            meter=above.meter,
        )
        child.branch.name = called
        return child, agent or SoloAgent(instructions=instructions)

    def _offered(self, specialist: str) -> tuple[Specialist | None, Sequence[Tool]]:
        """What a sub-agent may be given: the specialist's tools, else those of whom it works for."""
        if not specialist:
            return None, self._session.given
        for foreseen, tools in self._session.foreseen:
            if foreseen.name == specialist:
                return foreseen, tools
        names = [foreseen.name for foreseen, _ in self._session.foreseen]
        known = ", ".join(names) or "none"
        raise ConfigError(f"no specialist {specialist!r}{nearest(specialist, names)} (specialists: {known})")

    async def play(self, child: EpisodeSession, agent: Agent) -> Report:
        """Let it work, until it ends or whoever waits here is cancelled. Raises `EpisodeEnded` if the episode ends."""
        with elsewhere():
            await bounded(self._work(child, agent), _EVER_S)
        outcome = child.outcome
        if self._session.ended or outcome is None:
            raise self._session.gone()
        return _report(child, outcome)

    async def _work(self, child: EpisodeSession, agent: Agent) -> None:
        task, branch = asyncio.current_task(), child.branch
        assert task is not None
        self._running.add(task)
        try:
            with counted(child.waits_here):
                await agent.run(child)
        except EpisodeEnded:
            pass
        except asyncio.CancelledError:
            child.stop(Outcome(by="cancelled", reason="cancelled"))
            raise
        except Exception as error:
            child.end(Outcome(by="agent", reason="error", detail=f"{branch.name}: {said(error)}"))
        finally:
            self._running.discard(task)
            await child.settle()
            branch.outcome = child.finish()
            child.speaker.close()

    async def stop(self) -> None:
        """Stop those that still work; who will not be stopped is left behind, and heard no more."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=GRACE_S)


def _chosen(names: Sequence[str] | None, offered: Sequence[Tool], called: str) -> Sequence[Tool]:
    if names is None:
        return offered
    known = {tool.spec.name: tool for tool in offered}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"session.spawn: {called} cannot get a tool {name!r}{nearest(name, known)} "
                f"(there are: {', '.join(known) or 'none'})"
            )
    return [known[name] for name in dict.fromkeys(names)]


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/agent/{number}".encode(), digest_size=8).digest()) >> 1


def _report(child: EpisodeSession, outcome: Outcome) -> Report:
    if outcome.by == "policy":
        if text := child.last_words:
            return Report(text=text, outcome=outcome)
        return Report(text="error: it stopped without an answer", outcome=Outcome(by="policy", reason="silent"))
    return Report(text=f"error: it was stopped without an answer: {outcome.by} {outcome.reason}", outcome=outcome)
