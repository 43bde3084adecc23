"""A completion read as it is sampled: reasoning, text and calls, in pieces that never have to be taken back.

    stream = renderer.stream(thinking=thinking, tools=tools)
    for tokens in engine_tokens:
        for piece in stream.feed(tokens):
            ...  # Reasoning or Text: a few characters more
    for piece in stream.finish():
        ...  # what was held back, and every ToolCall and ParseFailure
    message = stream.message

`renderer.parse` is this over a whole completion, so the pieces of a stream, joined, are what `parse` gives, however
the tokens were dealt out. The price is that some things wait:

- a character until it is whole, line breaks until something follows them, `<tool_c` until it is a tag or is none;
- calls until the end of the turn. A model that a budget stopped may go on to think, and close its thinking a second
  time: whatever it drafted before that is then reasoning and never runs;
- all, where the thinking mode is on and the model began without `<think>`: if `</think>` follows, it was reasoning;
- what comes after a call that cannot be read, as long as it might still become one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from askesis.chat.calls import CLOSE, OPEN, CallSyntax
from askesis.chat.detokenise import Detokeniser
from askesis.chat.tokenizer import Tokenizer
from askesis.types import Delta, Message, ParseFailure, Reasoning, Text, TokenIds, ToolCall, ToolSpec

Began = Literal["inside", "outside", "either"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Markup:
    """What is structure in one vocabulary: the ids of the think tags (-1 for none) and of what ends a turn, and how
    calls are written (None: not at all)."""

    think: int
    unthink: int
    stops: tuple[int, ...]
    calls: CallSyntax | None


@dataclass(frozen=True, slots=True)
class _Item:
    """Text, or a think tag, and how many tokens it was (0 for a tag)."""

    kind: Literal["text", "think", "unthink"]
    text: str
    tokens: int = 0


_THINK, _UNTHINK = _Item("think", "<think>"), _Item("unthink", "</think>")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call: what stands between its tags; `end` is the closing tag, or nothing."""

    raw: str
    end: str
    unterminated: bool = False


class _Channel:
    """Text without the line breaks around it."""

    def __init__(self) -> None:
        self._begun = False
        self._breaks = ""

    def push(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        if not body:
            self._breaks += text
            return ""
        out, self._breaks, self._begun = self._breaks + body, text[len(body) :], True
        return out


class Stream:
    """The state of one completion. Made by a renderer.

    began: whether the prompt has opened the thinking (`inside`), has ended it or never has any (`outside`), or left
    that to the model (`either`).
    """

    def __init__(self, tokenizer: Tokenizer, markup: Markup, began: Began, tools: Sequence[ToolSpec] = ()) -> None:
        self._markup, self._tools = markup, tuple(tools)
        self._detokeniser = Detokeniser(tokenizer)
        self._stops: list[int] = []  # they end the turn, unless something follows them
        self._inside, self._over = began == "inside", began == "outside"
        self._held: list[_Item] = []  # said before anyone knows whether it was thought
        self._tail = ""  # may be the beginning of a tag
        self._open: list[_Item] | None = None  # what stands in the call that is being written
        self._body = ""  # the text of that
        self._calls: list[_Call] = []
        self._thought, self._said = _Channel(), _Channel()
        self._pieces: list[Delta] = []
        self._parts: list[Reasoning | Text] = []
        self._done: list[ToolCall | ParseFailure] = []
        self.thinking_tokens = 0

    # -- the face ------------------------------------------------------------------------------------------------

    def feed(self, tokens: Sequence[int] | TokenIds) -> list[Delta]:
        """What is certain after these tokens."""
        run: list[int] = []
        stops, think = self._markup.stops, self._markup.think
        tags = (think, self._markup.unthink)
        for token in tokens.tolist() if isinstance(tokens, np.ndarray) else map(int, tokens):
            if token in stops:
                self._stops.append(token)
                continue
            if self._stops:
                run += self._stops
                self._stops = []
            if token in tags:
                self._text(run, flush=True)
                run = []
                self._take(_THINK if token == think else _UNTHINK)
            else:
                run.append(token)
        if run:
            self._text(run)
        return self._give()

    def finish(self) -> list[Delta]:
        """What was held back until the end of the turn, and the calls."""
        self._text([], flush=True)
        if not self._over and not self._inside:  # it never thought: all was said
            self._over, held = True, self._held
            self._held = []
            for item in held:
                self._take(item)
        while self._open is not None:
            self._give_up()
        self._say(self._tail)
        self._tail = ""
        made = 0
        for call in self._calls:
            read = self._read(call, f"call_{made}")
            made += isinstance(read, ToolCall)
            self._done.append(read)
        self._calls = []
        return [*self._give(), *self._done]

    @property
    def message(self) -> Message:
        """All of it, after `finish`."""
        reasoning = "".join(part.text for part in self._parts if isinstance(part, Reasoning))
        text = "".join(part.text for part in self._parts if isinstance(part, Text))
        return Message(
            role="assistant",
            parts=(*((Reasoning(text=reasoning),) if reasoning else ()), *((Text(text=text),) if text else ())),
            tool_calls=tuple(one for one in self._done if isinstance(one, ToolCall)),
            failures=tuple(one for one in self._done if isinstance(one, ParseFailure)),
        )

    def _give(self) -> list[Delta]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # -- thinking ------------------------------------------------------------------------------------------------

    def _text(self, run: list[int], *, flush: bool = False) -> None:
        text = self._detokeniser.push(run) if run else ""
        if flush:
            text += self._detokeniser.flush()
        if text or run:
            self._take(_Item("text", text, len(run)))

    def _take(self, item: _Item) -> None:
        if self._inside:
            if item.kind == "unthink":
                self._inside, self._over = False, True
            elif item.kind == "text":
                self.thinking_tokens += item.tokens
                self._think(item.text)
        elif self._over:
            self._answer(item)
        elif item.kind == "text":
            self._held.append(item)
        else:
            held, self._held = self._held, []
            self._over = True
            for one in held:
                if item.kind == "think":  # some words before the thinking
                    self._answer(one)
                else:  # never opened here: all that came before the end was thought
                    self.thinking_tokens += one.tokens
                    self._think(one.text)
            if item.kind == "think":
                self._answer(item)

    def _think(self, text: str) -> None:
        if out := self._thought.push(text):
            self._put(Reasoning(text=out))

    def _say(self, text: str) -> None:
        if out := self._said.push(text):
            self._put(Text(text=out))

    def _put(self, part: Reasoning | Text) -> None:
        self._parts.append(part)
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Reasoning) and isinstance(part, Reasoning):
            self._pieces[-1] = Reasoning(text=last.text + part.text)
        elif isinstance(last, Text) and isinstance(part, Text):
            self._pieces[-1] = Text(text=last.text + part.text)
        else:
            self._pieces.append(part)

    # -- what is said --------------------------------------------------------------------------------------------

    def _answer(self, item: _Item) -> None:
        """One item after the thinking: text, a call, or a tag where none is expected."""
        if self._open is not None:
            rest = self._whole(item)
            if rest is not None:
                self._scan(rest)
        elif item.kind == "text":
            self._scan(item.text)
        else:
            self._say(self._tail)
            self._tail = ""
            if item.kind == "think":
                self._inside = True
            else:
                self._withdraw()

    def _withdraw(self) -> None:
        """The thinking ends once more: calls that were made before this were drafts."""
        for call in self._calls:
            self._think(OPEN + call.raw + call.end)
        self._calls = []

    def _scan(self, text: str) -> None:
        """Text after the thinking: say it, up to where a call opens."""
        text = self._tail + text
        self._tail = ""
        while self._markup.calls is not None and (start := text.find(OPEN)) >= 0:
            self._say(text[:start])
            self._open, self._body = [], ""
            rest = self._whole(_Item("text", text[start + len(OPEN) :]))
            if rest is None:
                return
            text = rest
        keep = 0
        if self._markup.calls is not None:
            keep = next((n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if text.endswith(OPEN[:n])), 0)
        self._say(text[: len(text) - keep])
        self._tail = text[len(text) - keep :]

    def _whole(self, item: _Item) -> str | None:
        """More of a call: what follows it once it is whole. Think tags in it are then text of its arguments."""
        assert self._open is not None and self._markup.calls is not None
        self._open.append(item)
        old = len(self._body)
        self._body += item.text
        if self._body.find(CLOSE, max(0, old - len(CLOSE) + 1)) < 0:
            return None
        end = self._markup.calls.end(self._body)
        if end is None:
            return None
        self._calls.append(_Call(self._body[:end], CLOSE))
        self._open = None
        return self._body[end + len(CLOSE) :]

    def _give_up(self) -> None:
        """The turn is over and the open call is not whole: it ends at the first tag of any kind, and what follows is
        read anew."""
        assert self._open is not None
        todo, self._open = deque(self._open), None
        body = ""
        while todo and todo[0].kind == "text":
            body += todo.popleft().text
        close, following = body.find(CLOSE), body.find(OPEN)
        if close >= 0 and not 0 <= following < close:
            self._calls.append(_Call(body[:close], CLOSE))
            rest = body[close + len(CLOSE) :]
        else:
            stop = len(body) if following < 0 else following
            self._calls.append(_Call(body[:stop], "", unterminated=True))
            rest = body[stop:]
        for item in (_Item("text", rest), *todo):
            self._take(item)

    def _read(self, call: _Call, call_id: str) -> ToolCall | ParseFailure:
        assert self._markup.calls is not None
        if call.unterminated:
            return ParseFailure(kind="unterminated", detail="", raw=call.raw, syntax=self._markup.calls.name)
        return self._markup.calls.read(call.raw, call_id, self._tools)
