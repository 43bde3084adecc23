"""Tokens to text as they come: no character is split, and what was given out never changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_CONTEXT = 4  # tokens that a decoder may look back on (SentencePiece drops the space before a first word)
_HALF = "\N{REPLACEMENT CHARACTER}"
_FEW = 8  # tokens for which looking each up is faster than decoding them


class Decodes(Protocol):
    """What a detokeniser needs of a tokenizer."""

    @property
    def bytewise(self) -> bool:
        """Whether the text of tokens is their bytes, joined: no token looks at its neighbours."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special ones included."""
        ...

    def text_of(self, token: int) -> str:
        """The text of one token, looked up."""
        ...


class Detokeniser:
    """Incremental decoding. All that `push` and `flush` gave, joined, is the text of all tokens."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._bytewise = tokenizer.bytewise
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """The text that `tokens` complete: empty while the last character is still in halves."""
        if self._bytewise and not self._pending and len(tokens) <= _FEW:
            text = "".join(map(self._tokenizer.text_of, tokens))
            if _HALF not in text:  # each of them is whole characters
                return text
        self._pending += tokens
        text = self._decode()
        return "" if text.endswith(_HALF) else self._emit(text)

    def flush(self) -> str:
        """What is left: halves of a character become U+FFFD."""
        return self._emit(self._decode()) if self._pending else ""

    def _decode(self) -> str:
        if not self._context:
            return self._tokenizer.decode(self._pending)
        known = self._tokenizer.decode(self._context)
        return self._tokenizer.decode([*self._context, *self._pending])[len(known) :]

    def _emit(self, text: str) -> str:
        if not self._bytewise:
            self._context = [*self._context, *self._pending][-_CONTEXT:]
        self._pending = []
        return text
