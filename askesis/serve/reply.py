"""An answer on its way to the client: read as it is sampled, cut at stop texts, handed on in deltas."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from askesis.chat.calls import CLOSE, OPEN
from askesis.rollout import Answer, complaint
from askesis.serve.asked import Asked
from askesis.types import Message, ParseFailure, Piece, Reasoning, Renderer, Text, Thinking, ToolCall, assistant
from askesis.types.protocols import Delta

Shown = Reasoning | Text | ToolCall
"""What a client is given: a call that could not be read is text to it."""


@dataclass(slots=True, kw_only=True, eq=False)
class Logprob:
    """A sampled token."""

    token: str
    logprob: float


class Reply:
    """One choice; the `rollout.Listener` of its turn.

    Tokens are only read when somebody wants to know (`drain`, the end), unless a stop text has to be looked for.
    thinking: the mode in which it is spoken. wake: called when there is more to drain.
    """

    def __init__(
        self,
        asked: Asked,
        renderer: Renderer,
        thinking: Thinking,
        *,
        index: int = 0,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.index = index
        self.reasoning, self.text = "", ""
        self.calls: list[ToolCall] = []
        self.answer: Answer | None = None
        self.stop: str | None = None  # the stop text that ended it
        self.count = 0  # tokens heard
        self._asked, self._renderer, self._wake = asked, renderer, wake
        self._stream = renderer.stream(thinking=thinking, tools=asked.tools)
        self._unread: list[np.ndarray[Any, Any]] = []
        self._deltas: list[Shown] = []
        self._held = ""  # text that may be the beginning of a stop text
        self._logprobs: list[Logprob] = []
        self._finished = False

    # -- the engine's side -------------------------------------------------------------------------------------------

    def hear(self, piece: Piece) -> int | None:
        """More tokens; where a stop text was completed, how many of them are kept."""
        keep = None
        if self._asked.stops:
            for at, token in enumerate(piece.token_ids.tolist()):
                self._take(self._stream.feed([token]))
                if self.stop is not None:
                    keep = at + 1
                    break
        else:
            self._unread.append(piece.token_ids)
        count = len(piece.token_ids) if keep is None else keep
        self.count += count
        if self._asked.logprobs:
            self._note(piece, count)
        if self._wake is not None:
            self._wake()
        return keep

    def told(self) -> Message:
        """The answer so far, as the client has it or will have it."""
        self._read()
        if not self._finished:
            self._finished = True
            self._take(self._stream.finish())
            if self.stop is None and self._held:
                self._say(self._held)
            self._held = ""
        return assistant(self.text, reasoning=self.reasoning, tool_calls=tuple(self.calls))

    # -- the client's side -------------------------------------------------------------------------------------------

    def drain(self) -> list[Shown]:
        """What is new since the last time, neighbours of a kind joined."""
        self._read()
        deltas, self._deltas = self._deltas, []
        return deltas

    def drain_logprobs(self) -> list[Logprob]:
        """The sampled tokens since the last time."""
        found, self._logprobs = self._logprobs, []
        return found

    @property
    def thought(self) -> int:
        """Tokens that were thought."""
        return 0 if self.answer is None else self.answer.thinking_tokens

    @property
    def finish(self) -> str:
        """`calls`, `length`, `stop_text` or `stop`."""
        assert self.answer is not None
        if self.stop is not None:
            return "stop_text"
        if self.answer.finish == "length":
            return "length"
        return "calls" if self.calls else "stop"

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._unread:
            tokens = self._unread[0] if len(self._unread) == 1 else np.concatenate(self._unread)
            self._unread = []
            self._take(self._stream.feed(tokens))

    def _take(self, pieces: list[Delta]) -> None:
        for piece in pieces:
            if self.stop is not None:  # the answer has ended
                return
            if isinstance(piece, Reasoning):
                self.reasoning += piece.text
                self._give(piece)
            elif isinstance(piece, Text):
                self._text(piece.text)
            elif isinstance(piece, ToolCall) and self._offered(piece):
                self._text("", flush=True)
                call = replace(piece, id=f"call_{secrets.token_hex(12)}")
                self.calls.append(call)
                self._give(call)
            else:  # what is no call to the client is text to it
                closed = not (isinstance(piece, ParseFailure) and piece.kind == "unterminated")
                self._text(OPEN + piece.raw + (CLOSE if closed else ""))

    def _text(self, text: str, *, flush: bool = False) -> None:
        """Text that is certain, less what may be the beginning of a stop text."""
        text = self._held + text
        found = [(at, stop) for stop in self._asked.stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.stop = min(found, key=lambda one: one[0])
            text, self._held = text[:at], ""
        elif self._asked.stops and not flush:
            longest = max(map(len, self._asked.stops)) - 1
            keep = next((n for n in range(min(longest, len(text)), 0, -1) if self._begins(text[-n:])), 0)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        else:
            self._held = ""
        self._say(text)

    def _offered(self, call: ToolCall) -> bool:
        """Whether a call is told as one: tools are offered, and where that is promised, its arguments fit."""
        if not self._asked.calls or call.name not in self._asked.strict:
            return self._asked.calls
        schema = next(tool.parameters for tool in self._asked.tools if tool.name == call.name)
        return complaint(schema, call.arguments) is None

    def _begins(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._asked.stops)

    def _say(self, text: str) -> None:
        if text:
            self.text += text
            self._give(Text(text=text))

    def _give(self, delta: Shown) -> None:
        last = self._deltas[-1] if self._deltas else None
        if isinstance(delta, Text) and isinstance(last, Text):
            self._deltas[-1] = Text(text=last.text + delta.text)
        elif isinstance(delta, Reasoning) and isinstance(last, Reasoning):
            self._deltas[-1] = Reasoning(text=last.text + delta.text)
        else:
            self._deltas.append(delta)

    def _note(self, piece: Piece, count: int) -> None:
        for token, logprob, forced in zip(
            piece.token_ids[:count].tolist(), piece.logprobs.tolist(), piece.forced.tolist(), strict=False
        ):
            if not forced:
                text = self._renderer.decode(np.array([token], dtype=np.int32))
                self._logprobs.append(Logprob(token=text, logprob=logprob))
