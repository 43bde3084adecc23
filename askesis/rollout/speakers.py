"""Who speaks in an episode: an engine, or a scripted policy. The session has one code path for both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from askesis.rollout.record import NO_VERSION
from askesis.types import (
    Completion,
    Engine,
    EngineError,
    Message,
    OnTokens,
    Piece,
    Policy,
    Renderer,
    Sampling,
    Task,
    Thinking,
    TokenIds,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSpec:
    """One episode to play. group: episodes that share it are compared. seed: fixes all that is drawn in it.

    attempt: 0, then 1 and up where an earlier attempt met an infrastructure failure. A retry keeps the seed: it plays
    the same episode again, so that a failing machine does not change what is sampled.
    """

    task: Task
    thinking: Thinking
    group: str
    seed: int
    attempt: int = 0


class Speaker(Protocol):
    """The policy's voice in one episode."""

    @property
    def context_length(self) -> int:
        """Most tokens of context and completion together."""
        ...

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        """The next turn, given the context as tokens [n] and as messages."""
        ...

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
        """As `speak`, on a branch of the episode by its number, heard while it is sampled."""
        ...

    def spawn(self, name: str, specialist: str) -> Speaker:
        """The voice of a sub-agent of that name; `specialist` if the task foresees it, else empty."""
        ...

    def close(self) -> None:
        """The episode is over, or the sub-agent's part of it."""
        ...


@runtime_checkable
class Speakers(Protocol):
    """Makes the speaker of each episode."""

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        """The speaker of the episode whose trace will have the id `episode`."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpeakers:
    """Every episode is spoken by `engine`, in a session of its own so that its KV cache is kept across turns."""

    engine: Engine

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        """The engine, bound to one session."""
        return _EngineSpeaker(self.engine, episode)


@dataclass(frozen=True, slots=True)
class _EngineSpeaker:
    engine: Engine
    session: str
    branches: set[str] = field(default_factory=set)
    spawned: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def context_length(self) -> int:
        return self.engine.context_length

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        return await self.engine.generate(tokens, sampling, session=self.session)

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
        session = f"{self.session}/{branch}" if branch else self.session
        self.branches.add(session)
        return await self.engine.generate(tokens, sampling, session=session, on_tokens=on_tokens)

    def spawn(self, name: str, specialist: str) -> Speaker:
        return _EngineSpeaker(self.engine, f"{self.session}/agent{next(self.spawned)}")

    def close(self) -> None:
        for session in sorted({self.session, *self.branches}, reverse=True):  # what leads to the root's engine, last
            self.engine.release(session)


@dataclass(frozen=True, slots=True)
class PolicySpeakers:
    """Every episode is spoken by a scripted policy (oracle, demonstrator, guesser), without an engine.

    policy: makes the policy of one episode. A sub-agent's is what that policy's `sub_agent(name, specialist)` gives;
    of a policy without that method, a fresh one. The tokens are those that a model would have sampled to say the same
    (`Renderer.render_completion`), with log-probability 0 and no policy version; a message longer than the turn may
    be is cut off, as a model's would be.
    """

    policy: Callable[[EpisodeSpec], Policy]
    renderer: Renderer
    context_length: int = 2**30

    def open(self, spec: EpisodeSpec, episode: str) -> Speaker:
        """A fresh policy for this episode."""
        return _PolicySpeaker(self.policy(spec), lambda: self.policy(spec), self.renderer, self.context_length)


def scripted_completion(message: Message, renderer: Renderer, thinking: Thinking, sampling: Sampling) -> Completion:
    """`message` as a completion that nobody sampled: log-probability 0, no policy version, cut off at the bound."""
    said = renderer.render_completion(message, thinking=thinking)
    kept = said[: sampling.max_tokens]
    return Completion(
        token_ids=kept,
        logprobs=np.zeros(len(kept), dtype=np.float32),
        forced=np.zeros(len(kept), dtype=np.bool_),
        finish_reason="stop" if len(kept) == len(said) else "length",
        policy_versions=np.full(len(kept), NO_VERSION, dtype=np.int32),
    )


@dataclass(frozen=True, slots=True)
class _PolicySpeaker:
    policy: Policy
    fresh: Callable[[], Policy]
    renderer: Renderer
    context_length: int

    async def speak(
        self, tokens: TokenIds, messages: Sequence[Message], thinking: Thinking, sampling: Sampling
    ) -> Completion:
        try:
            message = self.policy.act(messages, thinking)
        except Exception as error:
            raise EngineError(f"scripted policy {type(self.policy).__name__} failed: {error!r}") from error
        return scripted_completion(message, self.renderer, thinking, sampling)

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
        done = await self.speak(tokens, messages, thinking, sampling)
        on_tokens(
            Piece(
                token_ids=done.token_ids,
                logprobs=done.logprobs,
                forced=done.forced,
                policy_versions=done.policy_versions,
            )
        )
        return done

    def spawn(self, name: str, specialist: str) -> Speaker:
        make = getattr(self.policy, "sub_agent", None)
        policy = self.fresh() if make is None else make(name, specialist)
        return replace(self, policy=policy)

    def close(self) -> None:
        """Nothing is held."""
