"""Episodes to read: each turn with what was thought, said and called, what came back, and the tokens themselves.

Text is what a person reads first; the tokens are the record. Both are in the page, and a switch shows one or the other.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from askesis.types import Artifact, Fork, Message, Node, ToolCall, ToolEvent, Trace
from askesis.view.figures import NOTHING, visible, written

MOST_TEXT = 60_000  # characters of one episode, shared by its texts
MOST_TOKENS = 2_000  # tokens of one episode that are shown one by one
MOST_PICTURES = 3 * 2**20  # bytes of the pictures of one episode
_PICTURES = ("image/png", "image/jpeg", "image/webp")
_SHADES = (0.9, 0.5, 0.2, 0.05)  # a token of at least this probability has shade 0, 1, 2, 3; all others 4

BlockKind = Literal["text", "thought", "call", "failure", "forced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A trace under a title. pieces: for each node the text of each token if it was sampled, else of all in one."""

    title: str
    trace: Trace
    pieces: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Episodes to be read side by side. why: how they were chosen. tone: the colour of their mode."""

    title: str
    why: str
    tone: str
    episodes: Sequence[Episode]


# -- what the template draws ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """Text with its middle left out: `left_out` counts what (0: nothing)."""

    head: str
    left_out: int = 0
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """One thing that was said: text, thought, a call with its arguments, a call that did not parse."""

    kind: BlockKind
    text: Cut
    name: str = ""
    arguments: tuple[tuple[str, Cut], ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text. shade: 0 (likely) to 4, -1 where it was put there and not sampled. chance: its probability."""

    text: str
    shade: int
    chance: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What a call left for people to see. source: empty where it is left out, since there are too many."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A node. head: who speaks; notes: figures beside it. verbatim: its tokens as one text if it was not sampled.

    tokens, left_out, tail: those at the beginning, how many are left out then, and those at the end.
    """

    role: str
    head: str
    notes: tuple[str, ...]
    blocks: tuple[Block, ...]
    tokens: tuple[Token, ...]
    left_out: int
    tail: tuple[Token, ...]
    verbatim: Cut
    branch: str  # what begins here; empty where the conversation just goes on
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Sheet:
    """An episode ready to be drawn."""

    title: str
    success: bool
    learnable: bool
    facts: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]
    outcome: str
    detail: str
    terms: tuple[tuple[str, str, str, str, str], ...]
    reward: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A story ready to be drawn: what its episodes have in common at their beginning stands before them."""

    title: str
    why: str
    tone: str
    shared: tuple[Entry, ...]
    sheets: tuple[Sheet, ...]


def spread(story: Story) -> Spread:
    """A story as the template wants it."""
    sheets = [_sheet(episode) for episode in story.episodes]
    shared = _in_common([sheet.entries for sheet in sheets]) if len(sheets) > 1 else ()
    return Spread(
        title=story.title,
        why=story.why,
        tone=story.tone,
        shared=shared,
        sheets=tuple(replace(sheet, entries=sheet.entries[len(shared) :]) for sheet in sheets),
    )


def _in_common(entries: Sequence[tuple[Entry, ...]]) -> tuple[Entry, ...]:
    """The observed messages that all episodes begin with."""
    common = []
    for column in zip(*entries, strict=False):
        if column[0].role == "assistant" or any(entry != column[0] for entry in column):
            break
        common.append(column[0])
    return tuple(common)


def _sheet(episode: Episode) -> Sheet:
    trace = episode.trace
    sampled = sum(len(node.token_ids) for node in trace.nodes if node.sampled)
    return Sheet(
        title=episode.title,
        success=trace.success,
        learnable=trace.outcome.learnable,
        facts=(
            ("reward", written(trace.reward)),
            ("turns", str(trace.turns)),
            ("tokens", f"{sampled:,}"),
            ("thought", f"{trace.thinking_tokens:,}"),
            ("seconds", written(trace.timing.total_s)),
        ),
        entries=_entries(episode),
        outcome=visible(f"{trace.outcome.by}: {trace.outcome.reason}"),
        detail=visible(trace.outcome.detail),
        terms=tuple(
            (
                visible(term.name),
                written(term.value, "count"),
                written(term.weight, "count"),
                written(term.value * term.weight, "count") if term.weight else NOTHING,
                visible(term.evidence),
            )
            for term in trace.rewards
        ),
        reward=written(trace.reward),
    )


def _entries(episode: Episode) -> tuple[Entry, ...]:
    trace = episode.trace
    texts = max(1, sum(_texts(node.message) for node in trace.nodes))
    most = min(8_000, max(800, MOST_TEXT // texts))
    each = max(60, MOST_TOKENS // max(1, trace.turns))
    calls, album, entries, before = _Calls(trace), _Album(trace), [], -1
    turns = list(itertools.accumulate(node.sampled for node in trace.nodes))
    begins = {fork.root: _begins(fork) for fork in trace.forks}
    for at in _in_order(trace):
        node, pieces = trace.nodes[at], episode.pieces[at]
        head = f"turn {turns[at]}" if node.sampled else node.message.role
        notes = _turn_notes(node) if node.sampled else ()
        pictures: tuple[Picture, ...] = ()
        if node.message.role == "tool":
            head, notes = calls.answered(node.message)
            pictures = album.of(*calls.call(node.message))
        elif node.message.tool_calls:
            calls.made(at, node.message.tool_calls)
        tokens, left_out, tail = _tokens(node, pieces, each) if node.sampled else ((), 0, ())
        entries.append(
            Entry(
                role=node.message.role,
                head=visible(head),
                notes=notes,
                blocks=_blocks(node, pieces, most),
                tokens=tokens,
                left_out=left_out,
                tail=tail,
                verbatim=Cut("") if node.sampled else cut("".join(pieces), most),
                branch=begins.get(at, "" if node.parent == before else "another branch begins here"),
                pictures=pictures,
            )
        )
        before = at
    return tuple(entries)


def _in_order(trace: Trace) -> list[int]:
    """The nodes, one conversation after the other: those that were held at the same time stand among each other."""
    roots = {fork.root for fork in trace.forks}
    owner: list[int] = []
    for at, node in enumerate(trace.nodes):
        owner.append(at if at in roots or node.parent < 0 else owner[node.parent])
    if not roots:
        return list(range(len(trace.nodes)))
    return sorted(range(len(trace.nodes)), key=lambda at: (owner[at], at))


def _begins(fork: Fork) -> str:
    """What a conversation is that is not the first."""
    if fork.kind == "compaction":
        return "shortened, it goes on from here"
    ended = "" if fork.outcome is None else f", ended by {fork.outcome.by}: {fork.outcome.reason}"
    return visible(f"sub-agent {fork.name}{ended}")


def _texts(message: Message) -> int:
    """How many texts a message shows."""
    return len(message.parts) + len(message.failures) + sum(len(call.arguments) or 1 for call in message.tool_calls)


class _Calls:
    """Says which call a tool's message answers, and what its running was like."""

    def __init__(self, trace: Trace) -> None:
        self._events: dict[int, list[ToolEvent]] = {}
        for event in trace.tool_events:
            self._events.setdefault(event.node, []).append(event)
        self._made: dict[str, tuple[str, ToolEvent | None]] = {}
        self._where: dict[str, int] = {}

    def made(self, node: int, calls: Sequence[ToolCall]) -> None:
        """These calls were made at that node; they ran in order, and those after an end did not."""
        ran = self._events.get(node, [])
        for place, call in enumerate(calls):
            self._made[call.id] = (call.name, ran[place] if place < len(ran) else None)
            self._where[call.id] = node

    def call(self, message: Message) -> tuple[int, str]:
        """The node whose call a tool's message answers, and the call's id."""
        id = message.tool_call_id or ""
        return self._where.get(id, -1), id

    def answered(self, message: Message) -> tuple[str, tuple[str, ...]]:
        """Head and notes of the tool's message."""
        name, event = self._made.get(message.tool_call_id or "", ("", None))
        if event is None:
            return f"{name} answered".strip(), ()
        status = () if event.status == "ok" else (event.status.replace("_", " "),)
        fault = (f"injected fault: {event.fault}",) if event.fault else ()
        return f"{name} answered", (f"{written(event.seconds)} s", *status, *fault)


class _Album:
    """The pictures that calls have left, as many as fit into a page, the first ones first."""

    def __init__(self, trace: Trace) -> None:
        self._left: dict[tuple[int, str], list[Artifact]] = {}
        for artifact in trace.artifacts:
            if artifact.media_type in _PICTURES:
                self._left.setdefault((artifact.node, artifact.call), []).append(artifact)
        self._room = MOST_PICTURES

    def of(self, node: int, call: str) -> tuple[Picture, ...]:
        """Those of one call."""
        return tuple(self._shown(artifact) for artifact in self._left.pop((node, call), ()))

    def _shown(self, artifact: Artifact) -> Picture:
        self._room -= len(artifact.data)
        if self._room < 0:
            return Picture(visible(artifact.name), "")
        data = base64.b64encode(artifact.data).decode()
        return Picture(visible(artifact.name), f"data:{artifact.media_type};base64,{data}")


def _turn_notes(node: Node) -> tuple[str, ...]:
    notes = [f"{len(node.token_ids):,} tokens"]
    if node.thinking_tokens:
        notes.append(f"{node.thinking_tokens:,} thought")
    notes.append(f"{written(node.ended_s - node.started_s)} s")
    if node.finish_reason == "length":
        notes.append("cut off by its length")
    return tuple(notes)


def _blocks(node: Node, pieces: Sequence[str], most: int) -> tuple[Block, ...]:
    message = node.message
    blocks = []
    if message.reasoning.strip():
        blocks.append(Block("thought", cut(message.reasoning.strip("\n"), most)))
    if node.forced_close:
        put = [text for text, sampled in zip(pieces, node.mask, strict=True) if not sampled]
        blocks.append(Block("forced", cut("".join(put).strip(), most), name=f"{len(put)}"))
    if message.text.strip():
        blocks.append(Block("text", cut(message.text.strip("\n"), most)))
    blocks += [_call(call, most) for call in message.tool_calls]
    blocks += [
        Block("failure", cut(failure.raw, most), name=visible(f"{failure.kind}: {failure.detail}".removesuffix(": ")))
        for failure in message.failures
    ]
    return tuple(blocks)


def _call(call: ToolCall, most: int) -> Block:
    arguments = tuple(
        (visible(str(name)), cut(value if isinstance(value, str) else _json(value), most))
        for name, value in call.arguments.items()
    )
    return Block("call", Cut(""), name=visible(call.name), arguments=arguments)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)


def _tokens(node: Node, pieces: Sequence[str], most: int) -> tuple[tuple[Token, ...], int, tuple[Token, ...]]:
    """The tokens of a sampled node; of more than `most` the middle is left out, and counted."""
    if len(pieces) != len(node.token_ids):
        raise ValueError(f"a node of {len(node.token_ids)} tokens came with {len(pieces)} texts; expected one a token")
    arrays = (node.mask.tolist(), node.logprobs.tolist(), node.policy_versions.tolist())
    tokens = tuple(_token(*token) for token in zip(pieces, *arrays, strict=True))
    if len(tokens) <= most:
        return tokens, 0, ()
    half = most // 2
    return tokens[:half], len(tokens) - 2 * half, tokens[len(tokens) - half :]


def _token(text: str, sampled: bool, logprob: float, version: int) -> Token:
    shown = visible(text).replace("\n", "↵\n") or "◦"  # the front half of a character is shown with its other half
    if not sampled:
        return Token(shown, -1, "put in, not sampled")
    if version < 0:  # a script said it, at no probability
        return Token(shown, 0, "")
    chance = math.exp(min(logprob, 0.0))
    shade = next((shade for shade, least in enumerate(_SHADES) if chance >= least), len(_SHADES))
    return Token(shown, shade, f"{chance:.2f}" if chance >= 0.005 else f"{chance:.0e}".replace("e-0", "e-"))


def cut(text: str, most: int) -> Cut:
    """`text` made visible; of more than `most` characters the middle is left out."""
    shown = visible(text)
    if len(shown) <= most:
        return Cut(shown)
    head, tail = 2 * most // 3, most // 3
    return Cut(shown[:head], len(shown) - head - tail, shown[-tail:])
