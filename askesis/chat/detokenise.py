"""Tokens to text as they come: no character is split, and what was given out never changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_CONTEXT = 4  # tokens that a decoder may look back on (SentencePiece drops the space before a first word)
_HALF = "\N{REPLACEMENT CHARACTER}"


class Decodes(Protocol):
    """What a detokeniser needs of a tokenizer."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special ones included."""
        ...


class Detokeniser:
    """Incremental decoding. All that `push` and `flush` gave, joined, is the text of all tokens."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """The text that `tokens` complete: empty while the last character is still in halves."""
        self._pending += tokens
        text = self._decode()
        return "" if text.endswith(_HALF) else self._emit(text)

    def flush(self) -> str:
        """What is left: halves of a character become U+FFFD."""
        return self._emit(self._decode())

    def _decode(self) -> str:
        if not self._context:
            return self._tokenizer.decode(self._pending)
        known = self._tokenizer.decode(self._context)
        return self._tokenizer.decode([*self._context, *self._pending])[len(known) :]

    def _emit(self, text: str) -> str:
        self._context = [*self._context, *self._pending][-_CONTEXT:]
        self._pending = []
        return text
