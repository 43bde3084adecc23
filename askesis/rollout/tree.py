"""A session's tokens as a tree: where a resent history is on record, and what has to be added to it.

Invariant: the tokens of the nodes from a root to a sampled node, joined, are exactly what the engine was given for that
turn and what it sampled. Nothing that is on record is ever rendered again, changed or removed.

How a history finds its place. Nodes are matched message by message from the root. What was observed must be equal. What
the policy said is compared with what the program was told, without what programs rightly drop or rewrite: reasoning
that was left out, white space at the ends of the text, the spelling of a call's JSON, the ids of calls. The deepest
match that tokens can be appended to is the anchor: after a turn that was sampled, the new messages are appended with
`Renderer.extend`. An assistant's message that the policy never said (an edited history, examples) is written after the
anchor as an observation, and carries no loss. Other tools or another system text begin a new root.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from askesis.rollout.hosting import Continuity
from askesis.rollout.record import NOTHING, observed_node, sampled_node
from askesis.types import (
    Completion,
    EngineError,
    Message,
    Node,
    PrefixChanged,
    Renderer,
    TemplateError,
    Thinking,
    TokenIds,
    ToolSpec,
    assistant,
)

_Key = tuple[object, ...]
ROOT = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """Messages that were rendered in one piece. prompt: whether a generation prompt ends it, and for which mode."""

    messages: Sequence[Message]
    tokens: TokenIds
    prompt: Thinking | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where a history leads. anchor: the deepest node that is shared; segments: what comes after it.

    tokens: the whole context, [n]; recorded: how many of them the anchor's branch holds.
    """

    anchor: int
    segments: Sequence[Segment]
    tokens: TokenIds
    recorded: int
    continuity: Continuity
    tools: str


@dataclass(slots=True, kw_only=True)
class TokenTree:
    """The record of one session. `renderer` writes its messages; nodes are only ever added. size: tokens of all."""

    renderer: Renderer
    nodes: list[Node] = field(default_factory=list)
    size: int = 0
    _children: dict[tuple[int, _Key], list[int]] = field(default_factory=dict)  # by parent and what the message says
    _prompts: dict[int, Thinking] = field(default_factory=dict)  # nodes whose tokens end in a generation prompt
    _told: dict[int, Message] = field(default_factory=dict)  # of sampled nodes: the message as the program has it
    _digests: dict[int, bytes] = field(default_factory=dict)  # of sampled nodes: of all tokens from the root
    _revived: set[int] = field(default_factory=set)  # the assistant's messages of a stored trace

    # -- finding -----------------------------------------------------------------------------------------------------

    def place(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], thinking: Thinking) -> Place:
        """Where `messages` lead and which tokens are new. Changes nothing. Raises `TemplateError`."""
        if not messages or messages[-1].role == "assistant":
            raise TemplateError("the last message must not be the assistant's: there is nothing to answer")
        key = _tools_key(tools)
        levels = self._match(messages, key)
        continuity = _continuity(messages, levels)
        anchor, depth = self._anchor(messages, levels)
        segments: Sequence[Segment] | None = None
        if anchor != ROOT:
            try:
                segments = self._append(anchor, messages[depth:], thinking, tools)
            except PrefixChanged:  # the template demands a branch: it is written from the root, with what was thought
                messages = [*(self.nodes[node].message for node in self.path(anchor)), *messages[depth:]]
                anchor, continuity = ROOT, "branched"
        if segments is None:
            tokens = self.renderer.render(messages, tools=tools, thinking=thinking)
            segments = [Segment(messages=messages, tokens=tokens, prompt=thinking)]
        recorded = self.path_tokens(anchor)
        return Place(
            anchor=anchor,
            segments=segments,
            tokens=np.concatenate([recorded, *(segment.tokens for segment in segments)]),
            recorded=len(recorded),
            continuity=continuity,
            tools=key,
        )

    def _match(self, messages: Sequence[Message], tools: str) -> list[list[int]]:
        """The nodes that each message leads to, level by level, as far as there are any."""
        levels: list[list[int]] = []
        frontier = [ROOT]
        for message in messages:
            key = _identity(message, "" if levels else tools)
            found = [child for parent in frontier for child in self._children.get((parent, key), ())]
            if message.role == "assistant" and message.reasoning.strip():
                found = [
                    node for node in found if _same_thought(message, self._told.get(node, self.nodes[node].message))
                ]
            if not found:
                break
            levels.append(found)
            frontier = found
        return levels

    def _anchor(self, messages: Sequence[Message], levels: Sequence[Sequence[int]]) -> tuple[int, int]:
        """(node, how many messages lead to it): the deepest that tokens can be appended to; (ROOT, 0) if none is."""
        for depth in range(len(levels), 0, -1):
            if depth == len(messages):
                continue
            foreign = messages[depth].role == "assistant"
            fit = [n for n in levels[depth - 1] if self._ends(n) or (foreign and n in self._prompts)]
            if fit:
                ids = tuple(call.id for call in messages[depth - 1].tool_calls)
                return max(fit, key=lambda node: (self._call_ids(node) == ids, node)), depth
        return ROOT, 0

    def _ends(self, node: int) -> bool:
        """Whether a turn ends there."""
        return self.nodes[node].sampled or node in self._revived

    def _append(
        self, anchor: int, messages: Sequence[Message], thinking: Thinking, tools: Sequence[ToolSpec]
    ) -> list[Segment]:
        """`messages` after `anchor`. What the assistant is said to have said is written as if it had been sampled."""
        tokens, prompt = self.path_tokens(anchor), self._prompts.get(anchor)
        history = [self.nodes[node].message for node in self.path(anchor)]
        segments: list[Segment] = []
        observed: list[Message] = []

        def add(messages: Sequence[Message], new: TokenIds, ends: Thinking | None) -> None:
            nonlocal tokens
            segments.append(Segment(messages=messages, tokens=new, prompt=ends))
            tokens = np.concatenate([tokens, new])
            history.extend(messages)

        def extended(mode: Thinking) -> TokenIds:
            return self.renderer.extend(tokens, observed, thinking=mode, history=history, tools=tools)

        for message in messages:
            if message.role != "assistant":
                observed.append(message)
                continue
            mode = prompt
            if mode is None:
                thinks = thinking.enabled or (bool(message.reasoning) and True in self.renderer.modes)
                mode = thinking if thinks == thinking.enabled else Thinking()
                add(tuple(observed), extended(mode), mode)
            observed, prompt = [], None
            if not mode.enabled and message.reasoning:
                message = assistant(message.text, tool_calls=message.tool_calls)  # that prompt has ended the thinking
            add((message,), self.renderer.render_completion(message, thinking=mode), None)
        add(tuple(observed), extended(thinking), thinking)
        return segments

    # -- adding ------------------------------------------------------------------------------------------------------

    def commit(
        self,
        place: Place,
        message: Message,
        completion: Completion,
        *,
        told: Message | None = None,
        finish: str,
        thinking_tokens: int,
        temperature: float | None = None,
        started_s: float,
        ended_s: float,
    ) -> int:
        """Put a turn on record: what its context adds, once, and what was sampled. Gives the sampled node.

        told: the message as the program was given it, if that is not what the renderer reads in the tokens.
        """
        at = place.anchor
        for segment in place.segments:
            known = self._known(at, segment, place.tools)
            at = self._observe(at, segment, place.tools, started_s) if known is None else known
        node = sampled_node(
            at,
            message,
            completion,
            finish_reason=finish,
            thinking_tokens=thinking_tokens,
            temperature=temperature,
            started_s=started_s,
            ended_s=ended_s,
        )
        shown = message if told is None else told
        index = self._enter(node, _identity(shown))
        self._told[index] = shown
        self._digests[index] = _digest((place.tokens, completion.token_ids))
        return index

    def _known(self, at: int, segment: Segment, tools: str) -> int | None:
        """The node that a segment after `at` ends in, where it is on record with the same tokens."""
        frontier = [at]
        for message in segment.messages[:-1]:
            frontier = self._after(frontier, message, tools, NOTHING)
        last = segment.messages[-1] if segment.messages else _NOBODY
        found = self._after(frontier, last, tools, segment.tokens)
        return found[0] if found else None

    def _after(self, frontier: Iterable[int], message: Message, tools: str, tokens: TokenIds) -> list[int]:
        found = []
        for parent in frontier:
            for child in self._children.get((parent, _identity(message, tools if parent == ROOT else "")), ()):
                if not self.nodes[child].sampled and np.array_equal(self.nodes[child].token_ids, tokens):
                    found.append(child)
        return found

    def _observe(self, at: int, segment: Segment, tools: str, when: float) -> int:
        """Enter a segment's messages; its tokens stand at the last one. What is shared with others is not doubled."""
        for message in segment.messages[:-1]:
            shared = self._after([at], message, tools, NOTHING)
            if shared:
                at = shared[0]
            else:
                key = _identity(message, tools if at == ROOT else "")
                at = self._enter(observed_node(at, message, NOTHING, at=when), key)
        # without a message, two turns follow each other, and the tokens are the second's generation prompt alone
        last = segment.messages[-1] if segment.messages else _NOBODY
        key = _identity(last, tools if at == ROOT else "")
        at = self._enter(observed_node(at, last, segment.tokens, at=when), key)
        if segment.prompt is not None:
            self._prompts[at] = segment.prompt
        return at

    def _enter(self, node: Node, key: _Key) -> int:
        index = len(self.nodes)
        self.nodes.append(node)
        self.size += len(node.token_ids)
        self._children.setdefault((node.parent, key), []).append(index)
        return index

    def revive(self, nodes: Sequence[Node], tools: Sequence[ToolSpec]) -> None:
        """Put the nodes of a stored trace on record, in a tree that is empty. tools: that its roots offered.

        What the program was told stands in no trace: an answer that it was given differently is not known again.
        """
        key = _tools_key(tools)
        for node in nodes:
            index = self._enter(node, _identity(node.message, key if node.parent == ROOT else ""))
            if node.message.role == "assistant":  # sampled, now or in the trace that this one continued
                self._revived.add(index)
                self._digests[index] = _digest([self.path_tokens(index)])

    # -- looking -----------------------------------------------------------------------------------------------------

    def path(self, node: int) -> list[int]:
        """The nodes from a root to `node`."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]

    def path_tokens(self, node: int) -> TokenIds:
        """All tokens from a root to `node`, [n]."""
        return np.concatenate([NOTHING, *(self.nodes[at].token_ids for at in self.path(node))])

    def check(self) -> None:
        """Raises `EngineError` if some turn's tokens, joined, are not those that went to and came from the engine."""
        for node, digest in self._digests.items():
            if _digest([self.path_tokens(node)]) != digest:
                raise EngineError(
                    f"token record broken: the tokens up to node {node} are not those of its turn; "
                    "something changed a token array in place"
                )

    def _call_ids(self, node: int) -> tuple[str, ...]:
        return tuple(call.id for call in self._told.get(node, self.nodes[node].message).tool_calls)


def opening(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> _Key:
    """What one conversation shares and others do not: its tools, and its messages before the first answer."""
    first = next((at for at, message in enumerate(messages) if message.role == "assistant"), len(messages))
    return (_tools_key(tools), *map(_identity, messages[:first]))


def _identity(message: Message, tools: str = "") -> _Key:
    """What must be equal for two messages to be the same. tools: of a session's first message, with those it offers."""
    if message.role != "assistant":
        return (message.role, message.text, tools)
    calls = tuple((call.name, _canonical(call.arguments)) for call in message.tool_calls)
    return ("assistant", message.text.strip(), calls, tools)


def _continuity(messages: Sequence[Message], levels: Sequence[Sequence[int]]) -> Continuity:
    said = [depth for depth, message in enumerate(messages) if message.role == "assistant"]
    if not said or not levels:
        return "new"
    return "extended" if said[-1] < len(levels) else "branched"


_NOBODY = Message(role="user")


def _same_thought(one: Message, other: Message) -> bool:
    return one.reasoning.strip() == other.reasoning.strip()


def _canonical(arguments: object) -> str:
    return json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=str)


def _tools_key(tools: Sequence[ToolSpec]) -> str:
    return json.dumps([tool.as_json() for tool in tools], sort_keys=True) if tools else ""


def _digest(arrays: Iterable[TokenIds]) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
