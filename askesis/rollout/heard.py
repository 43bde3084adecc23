"""A completion that somebody listens to while it is sampled, and may end early: what came of it is never lost."""

from __future__ import annotations

import numpy as np

from askesis.rollout.hosting import Listener
from askesis.types import Completion, Piece


class Halt(Exception):
    """The listener has ended the turn."""


class Heard:
    """Given to an engine as `on_tokens`. Raises `Halt` when the listener wants no more."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._pieces: list[Piece] = []

    def __call__(self, piece: Piece) -> None:
        """More tokens."""
        keep = None if self._listener is None else self._listener.hear(piece)
        self._pieces.append(piece if keep is None else _cut(piece, keep))
        if keep is not None:
            raise Halt

    @property
    def something(self) -> bool:
        """Whether anything was sampled."""
        return bool(self._pieces)

    def completion(self) -> Completion:
        """What came so far."""
        pieces = self._pieces
        return Completion(
            token_ids=np.concatenate([piece.token_ids for piece in pieces]),
            logprobs=np.concatenate([piece.logprobs for piece in pieces]),
            forced=np.concatenate([piece.forced for piece in pieces]),
            finish_reason="length",
            policy_versions=np.concatenate([piece.policy_versions for piece in pieces]),
        )


def _cut(piece: Piece, keep: int) -> Piece:
    return Piece(
        token_ids=piece.token_ids[:keep],
        logprobs=piece.logprobs[:keep],
        forced=piece.forced[:keep],
        policy_versions=piece.policy_versions[:keep],
    )
