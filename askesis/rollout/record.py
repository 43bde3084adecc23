"""The token record of one conversation: what the engine saw and sampled, in order, and the nodes it is made of.

Invariant: the tokens of the nodes along the branch, joined, are exactly the tokens handed to the engine plus those it
sampled. Tokens are only ever appended. The nodes of all conversations of an episode lie in one list, each after those
that were there before; a conversation knows which are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from askesis.types import Completion, EngineError, Fork, Message, Node, Outcome, Renderer, Sampling, Thinking, TokenIds

NO_VERSION = -1  # `policy_versions` of tokens that no policy produced
NOTHING: TokenIds = np.empty(0, dtype=np.int32)


class TokenRecord:
    """Grows by messages that were observed and by completions that were sampled.

    What is rendered for a turn is staged first, and becomes part of the record with the completion that follows it:
    the record always ends in a sampled turn, or in messages without tokens. nodes: of the episode, with others'; path:
    which of them are this conversation's.
    """

    __slots__ = ("_buffer", "_length", "_staged", "_staged_at", "nodes", "path")

    def __init__(self, nodes: list[Node] | None = None, *, capacity: int = 512) -> None:
        self._buffer = np.empty(capacity, dtype=np.int32)
        self._length = 0
        self._staged: tuple[Sequence[Message], TokenIds] | None = None
        self._staged_at = 0.0
        self.nodes: list[Node] = [] if nodes is None else nodes
        self.path: list[int] = []

    @property
    def last(self) -> int:
        """The node that this conversation ends in; -1 if there is none yet."""
        return self.path[-1] if self.path else -1

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> TokenIds:
        """All tokens so far, staged ones included, [n]: a read-only view that later growth does not change."""
        view = self._buffer[: self._length]
        view.flags.writeable = False
        return view

    def stage(self, messages: Sequence[Message], tokens: TokenIds, *, at: float) -> None:
        """Append the tokens of messages that were not sampled, for a turn to follow."""
        self._staged, self._staged_at = (messages, tokens), at
        self._append(tokens)

    def _keep_staged(self) -> None:
        """Make nodes of what is staged. What was rendered in one piece stands at the last of its messages."""
        if self._staged is None:
            return
        (messages, tokens), self._staged = self._staged, None
        for message in messages[:-1]:
            self._observed(message, NOTHING, self._staged_at)
        # without a message, two turns follow each other, and the tokens are the second's generation prompt alone
        self._observed(messages[-1] if messages else Message(role="user"), tokens, self._staged_at)

    def end(self, messages: Sequence[Message], *, at: float) -> None:
        """Enter messages that no turn followed, without tokens: no model saw them. What is staged is taken back."""
        if self._staged is not None:
            self._length -= len(self._staged[1])
            self._staged = None
        for message in messages:
            self._observed(message, NOTHING, at)

    def _observed(self, message: Message, tokens: TokenIds, at: float) -> None:
        self._enter(observed_node(self.last, message, tokens, at=at))

    def _enter(self, node: Node) -> None:
        self.path.append(len(self.nodes))
        self.nodes.append(node)

    def sampled(
        self, message: Message, completion: Completion, *, thinking_tokens: int, started_s: float, ended_s: float
    ) -> None:
        """Append a completion (already checked); its forced tokens carry no loss."""
        self._keep_staged()
        self._append(completion.token_ids)
        self._enter(
            sampled_node(
                self.last,
                message,
                completion,
                finish_reason=completion.finish_reason,
                thinking_tokens=thinking_tokens,
                started_s=started_s,
                ended_s=ended_s,
            )
        )

    def check(self) -> None:
        """Raises `EngineError` if the nodes' tokens, joined, are not the tokens that the engine was given."""
        if not self.path:
            return
        joined = np.concatenate([self.nodes[at].token_ids for at in self.path])
        if not np.array_equal(joined, self._buffer[: self._length]):
            raise EngineError(
                f"token record broken: the nodes hold {len(joined)} tokens, the engine's view {self._length}; "
                "something changed a token array in place"
            )

    def _append(self, tokens: TokenIds) -> None:
        end = self._length + len(tokens)
        if end > len(self._buffer):
            grown = np.empty(max(end, 2 * len(self._buffer)), dtype=np.int32)
            grown[: self._length] = self._buffer[: self._length]
            self._buffer = grown
        self._buffer[self._length : end] = tokens
        self._length = end


@dataclass(slots=True, kw_only=True)
class Branch:
    """A conversation of the episode, with where it came from. None: nowhere, it is the first."""

    record: TokenRecord
    origin: int = -1
    kind: Literal["compaction", "agent"] | None = None
    name: str = ""
    outcome: Outcome | None = None

    @property
    def fork(self) -> Fork | None:
        """As the trace says it, once something of the conversation is on record."""
        if self.kind is None or not self.record.path:
            return None
        return Fork(root=self.record.path[0], origin=self.origin, kind=self.kind, name=self.name, outcome=self.outcome)


def observed_node(parent: int, message: Message, tokens: TokenIds, *, at: float) -> Node:
    """A message that no policy said, with the tokens it was rendered as."""
    count = len(tokens)
    return Node(
        parent=parent,
        message=message,
        sampled=False,
        token_ids=tokens,
        mask=np.zeros(count, dtype=np.bool_),
        logprobs=np.zeros(count, dtype=np.float32),
        policy_versions=np.full(count, NO_VERSION, dtype=np.int32),
        started_s=at,
        ended_s=at,
    )


def thought_tokens(renderer: Renderer, completion: Completion, thinking: Thinking) -> int:
    """How many of a completion's tokens were sampled while thinking: those that a budget counts.

    A closing text that was forced in ends the thinking and is no thought, whatever words it has.
    """
    tokens = completion.token_ids
    if completion.forced.any():
        limit = renderer.thinking_limit(Thinking(budget=0))
        tokens = tokens[~completion.forced | (tokens == (limit.close_id if limit is not None else -1))]
    return renderer.thinking_tokens(tokens, thinking=thinking)


def sampled_node(
    parent: int,
    message: Message,
    completion: Completion,
    *,
    finish_reason: str,
    thinking_tokens: int,
    started_s: float,
    ended_s: float,
    temperature: float | None = None,
) -> Node:
    """A turn of the policy; its forced tokens carry no loss."""
    return Node(
        parent=parent,
        message=message,
        sampled=True,
        token_ids=completion.token_ids,
        mask=~completion.forced,
        logprobs=completion.logprobs,
        policy_versions=completion.policy_versions,
        finish_reason=finish_reason,
        started_s=started_s,
        ended_s=ended_s,
        thinking_tokens=thinking_tokens,
        temperature=temperature,
        forced_close=bool(completion.forced.any()),
    )


def check_completion(completion: Completion, sampling: Sampling) -> None:
    """Raises `EngineError` if a completion cannot be what `sampling` asked for: nothing wrong may reach a record."""
    count = len(completion.token_ids)
    shapes = {
        "logprobs": len(completion.logprobs),
        "forced": len(completion.forced),
        "policy_versions": len(completion.policy_versions),
    }
    for name, length in shapes.items():
        if length != count:
            raise EngineError(f"engine returned {count} tokens but {length} {name}; expected as many of each")
    if not 1 <= count <= sampling.max_tokens:
        raise EngineError(f"engine returned {count} tokens, expected 1 to {sampling.max_tokens}")
    if completion.finish_reason == "stop" and completion.token_ids[-1] not in sampling.stop:
        raise EngineError(
            f"engine says a completion stopped, but its last token {completion.token_ids[-1]} is none of "
            f"{sampling.stop}; keep the stop token in the completion"
        )
    if not np.isfinite(completion.logprobs).all():
        raise EngineError("engine returned log-probabilities that are not finite: are its weights corrupt?")
