"""Tokens: requests to an engine, what came back, and what the trainer sees. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Versions = npt.NDArray[np.int32]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingLimit:
    """A thinking budget as an engine enforces it, in the ids of one vocabulary (the renderer makes it).

    budget: most sampled tokens between `open_id` and `close_id` in this request; 0 closes at once.
    closing: the tokens put in at the threshold; they end with `close_id` (and what must follow it).
    open: whether the prompt has already opened the thinking. call_open_id, call_close_id: the tags of a tool call, in
    which nothing is forced; -1 for a family whose calls have no tokens of their own.
    """

    budget: int
    open_id: int
    close_id: int
    closing: tuple[int, ...]
    open: bool = False
    call_open_id: int = -1
    call_close_id: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one request is sampled. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.

    max_tokens: most tokens of the completion, forced ones included. stop: ids that end it (kept in the completion).
    seed: makes the request reproducible, whatever else shares the batch; None draws one. priority: where requests wait
    for a place in an engine that knows priorities, the lowest is served first; it changes nothing that is sampled.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 512
    stop: tuple[int, ...] = ()
    seed: int | None = None
    thinking: ThinkingLimit | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What an engine sampled. All arrays have shape [n], n the number of new tokens.

    logprobs: of the temperature-scaled, untruncated distribution (0 where forced).
    forced: true where a token was put there, not sampled. policy_versions: of the weights, token by token.
    """

    token_ids: TokenIds
    logprobs: Floats
    forced: Mask
    finish_reason: FinishReason
    policy_versions: Versions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """Tokens of a completion that is still being sampled: what came since the last piece. Arrays as in `Completion`."""

    token_ids: TokenIds
    logprobs: Floats
    forced: Mask
    policy_versions: Versions


OnTokens = Callable[[Piece], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One sequence for the trainer. Arrays have shape [n].

    mask: true where the token carries loss. logprobs: the sampler's, 0 where nothing was sampled.
    advantages: per token, 0 outside the mask. group: samples of one group share it (for sequence-level norms).
    temperature: at which the tokens were sampled; the trainer scales its logits alike.
    """

    token_ids: TokenIds
    mask: Mask
    logprobs: Floats
    advantages: Floats
    policy_versions: Versions
    trace_id: str = ""
    group: str = ""
    temperature: float = 1.0

    def __len__(self) -> int:
        return int(self.token_ids.shape[0])


def ids(tokens: Sequence[int] | TokenIds) -> TokenIds:
    """Any sequence of token ids as the compact array that crosses rooms."""
    return np.asarray(tokens, dtype=np.int32)
