"""Who answers a program that brings its own conversation: the seam between a gateway's requests and a record of tokens.

A program that speaks to a chat endpoint resends its whole history with every request. A `Host` makes turns of that:
it finds how much of the history is on record, extends the recorded tokens by what is new, lets the policy speak, and
puts what was sampled on record. A request goes through it in two steps:

    turn = host.open(ask)                 # no waiting: renders, or raises what is wrong with the request
    answer = await turn.speak(listener)   # samples; whatever happens here, what was sampled is on record

Two hosts make one gateway serve and train:

- `rollout.Recorder` is the host of a session that nobody started: an API key or a URL prefix. What the client asks for
  (mode, budget, sampling, tools) is what it gets. Its tree becomes a trace when it is closed.
- An episode's host (the agent `external`) wraps a live `EpisodeSession`: the program's request becomes the session's
  next turn. It takes the messages and tools of the `Ask`; mode, limits, sampling and seeds are the episode's own, as
  they are for a built-in agent, so tokens, masks and log-probabilities are too. `open` raises `HostClosed` when the
  episode is over. Give it to the gateway with `Gateway.attach(name, host)`: requests to `/s/NAME/v1/...` go there.

A turn takes the same path for both: `TokenTree.place` (which node does this history lead to, which tokens are new),
the engine, `TokenTree.commit`. Whoever asks decides nothing about tokens; a `Listener` hears them as they come, may end
the turn early (a stop sequence), and says at the end what the program was told, which is what the program will resend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from askesis.types import AskesisError, Completion, Message, Piece, Sampling, Thinking, ToolSpec

Continuity = Literal["new", "extended", "branched"]
Finish = Literal["stop", "length", "halted"]


class HostClosed(AskesisError):
    """The session or episode takes no further turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of a program.

    messages: the whole history as the program resent it, the last one not the assistant's. sampling: temperature,
    top_p, top_k, min_p and seed; its other fields are the host's to fill in. max_tokens: most tokens of the answer,
    None for what the context has room for.
    """

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    thinking: Thinking = field(default_factory=Thinking)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What became of a turn. node: where it stands in the tree.

    message: what was sampled, read by the renderer. completion: its tokens, cut where the listener ended the turn.
    finish: `stop` by the policy, `length` by a limit, `halted` by the listener. thinking_tokens: sampled in thought.
    """

    node: int
    message: Message
    completion: Completion
    finish: Finish
    thinking_tokens: int


class Listener(Protocol):
    """The program's side of a turn."""

    def hear(self, piece: Piece) -> int | None:
        """More tokens, in order. A number ends the turn: so many tokens of this piece are kept, all later ones not."""
        ...

    def told(self) -> Message:
        """The answer as the program was given it so far."""
        ...


class Turn(Protocol):
    """A request that was found in order, and is about to be answered."""

    @property
    def thinking(self) -> Thinking:
        """The mode in which it is answered, which need not be the one that was asked for."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the context."""
        ...

    @property
    def recorded_tokens(self) -> int:
        """How many of them, from the first on, were on record before this request."""
        ...

    @property
    def continuity(self) -> Continuity:
        """`new`; `extended`: all of the assistant's messages are on record; `branched`: the history was edited."""
        ...

    async def speak(self, listener: Listener | None = None) -> Answer:
        """Sample the answer. Cancelling it keeps on record what was sampled. Raises `EngineError`."""
        ...


class Reception(Protocol):
    """A gateway for episodes: it takes a host in under a name, and stands as long as it has any."""

    async def admit(self, name: str, host: Host) -> str:
        """Let `host` answer below `/s/NAME`. Gives the Unix socket on which the gateway listens."""
        ...

    async def dismiss(self, name: str) -> None:
        """That host answers no more. Unknown names are no error."""
        ...


class Host(Protocol):
    """Answers the requests of one session."""

    def open(self, ask: Ask) -> Turn:
        """Find the request's place. Raises `TemplateError`, `ContextOverflow`, `HostClosed`."""
        ...
