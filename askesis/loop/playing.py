"""An episode that is spoken from outside: by a person at a terminal, or by the client of another protocol.

It is played as every other: the same session, limits and verifier, and a trace of it. What whoever plays takes to think
is the engine's time, and bounded by nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from askesis.agents import OrchestratorAgent, SoloAgent, agent_for
from askesis.rollout import (
    EpisodeOptions,
    EpisodeSpec,
    Speaker,
    Stage,
    TraceSink,
    plain_renderer,
    run_episode,
    scripted_completion,
    token_free,
)
from askesis.types import (
    Agent,
    Completion,
    Env,
    Message,
    OnTokens,
    Renderer,
    Sampling,
    Session,
    Task,
    Thinking,
    TokenIds,
    Trace,
    tool_result,
    user,
)

_LONG_S = 1e7


class Player(Protocol):
    """Who speaks."""

    async def begin(self, session: Session) -> None:
        """The episode is set up, or a sub-agent's part of it: until that has ended, the player plays this part."""
        ...

    async def act(self) -> Message:
        """The next message; one without calls ends the episode."""
        ...

    async def hear(self, results: Sequence[Message], session: Session) -> None:
        """What the calls of the last message gave; `session.ended` where that was the last of it."""
        ...


async def play_episode(
    env: Env, task: Task, player: Player, *, seed: int = 0, name: str = "player@1", store: TraceSink | None = None
) -> Trace:
    """One episode of `task`, without bounds of tokens. name: of the harness in the trace. store: gets the trace.

    What fails is in the trace's outcome, as always.
    """
    renderer = plain_renderer()
    stage = Stage(
        speakers=_PlayerSpeakers(player, renderer),
        renderer=renderer,
        env=env,
        agent=_Seat(name, player, agent_for(env)),
        options=EpisodeOptions(engine_s=_LONG_S),
    )
    spec = EpisodeSpec(task=token_free(task), thinking=Thinking(enabled=False), group="", seed=seed)
    trace = await run_episode(spec, stage)
    if store is not None:
        store.add([trace], label="play")
    return trace


@dataclass(frozen=True, slots=True)
class _Seat:
    """The harness: as `solo`, and the player hears of everything. Sub-agents are played by the same player, one after
    the other, where the harness that stands for this one has any."""

    name: str
    player: Player
    harness: Agent

    async def run(self, session: Session) -> None:
        if isinstance(self.harness, OrchestratorAgent):
            self.harness.equip(session, worker=_Seat(self.name, self.player, SoloAgent()))
        session.add(user(session.task.prompt))
        await self.player.begin(session)
        while not session.ended:
            message = await session.turn()
            if not message.tool_calls and not message.failures:
                return
            results = await session.call(message.tool_calls)
            failed = [tool_result(f"error: the call cannot be read: {failure.detail}") for failure in message.failures]
            session.add(*failed)
            await self.player.hear([*results, *failed], session)


@dataclass(frozen=True, slots=True)
class _PlayerSpeakers:
    player: Player
    renderer: Renderer

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        return _PlayerSpeaker(self.player, self.renderer)


@dataclass(frozen=True, slots=True)
class _PlayerSpeaker:
    player: Player
    renderer: Renderer

    @property
    def context_length(self) -> int:
        return 2**30

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        return scripted_completion(await self.player.act(), self.renderer, thinking, sampling)

    async def say(
        self,
        tokens: TokenIds,
        messages: Sequence[Message],
        thinking: Thinking,
        sampling: Sampling,
        *,
        branch: int,
        on_tokens: OnTokens,
    ) -> Completion:
        raise NotImplementedError("a player is no program that asks for turns")

    def spawn(self, name: str, specialist: str) -> Speaker:
        return self  # whoever plays speaks for sub-agents too

    def close(self) -> None:
        """Nothing is held."""
