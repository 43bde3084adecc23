"""One call of `generate` as the requests that it takes.

vLLM cannot put tokens in or throw one away, so a completion with a thinking budget is asked for in segments: while the
model thinks, for one token more than is left of the budget, since the last of them decides; outside of it, up to the
next opening tag. What is forced follows as part of the next segment's prompt, which vLLM's prefix cache holds already.
An update of the weights ends a segment too, so all tokens of one are of one version.
"""

from __future__ import annotations

import numpy as np

from askesis.inference.thinking import Budgets
from askesis.inference.vllm.transport import Ask, Part
from askesis.types import Completion, Piece, Sampling, TokenIds
from askesis.types.tokens import FinishReason

_ROW = np.zeros(1, dtype=np.int32)


class Turn:
    """What is known of a completion. prompt [n]; context: most tokens of both; seed: of this request."""

    def __init__(
        self, prompt: TokenIds, sampling: Sampling, *, context: int, seed: int, session: str | None, version: int
    ) -> None:
        self.finish: FinishReason | None = None
        self._prompt, self._sampling, self._session, self._seed = prompt.tolist(), sampling, session, seed
        self._limit = min(sampling.max_tokens, context - len(prompt))
        self._stop = frozenset(sampling.stop)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._forced: list[bool] = []
        self._versions: list[int] = []
        self._told = 0
        self._budgets = Budgets(1)
        self.force(self._budgets.begin(0, sampling.thinking), version)

    def __len__(self) -> int:
        return len(self._tokens)

    def ask(self) -> Ask:
        """The next segment."""
        sampling, room = self._sampling, self._limit - len(self._tokens)
        stop = tuple(dict.fromkeys(sampling.stop))
        if sampling.thinking is not None:
            thinking = self._budgets.stride(_ROW)
            if thinking < room:
                room = thinking
            if not self._budgets.thinking(0):
                stop = (*stop, sampling.thinking.open_id)
        return Ask(
            prompt=self._prompt + self._tokens,
            max_tokens=room,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            stop=stop,
            seed=_derived(self._seed, len(self._tokens)),
            session=self._session,
            priority=sampling.priority,
        )

    def take(self, part: Part, version: int) -> None:
        """Enter what came of the segment that was asked for; ends with what ends the completion."""
        limited = self._sampling.thinking is not None
        for token, logprob in zip(part.tokens, part.logprobs, strict=True):
            if self.finish is not None:
                return
            thrown, closes = False, False
            if limited:
                stopped = np.array([token in self._stop])
                gone, forced = self._budgets.observe(_ROW, np.array([token], dtype=np.int32), stopped)
                thrown, closes = bool(gone[0]), bool(forced)
            if not thrown:
                self._append(token, logprob, False, version)
                if token in self._stop:
                    self.finish = "stop"
                elif len(self._tokens) >= self._limit:
                    self.finish = "length"
            if closes:
                self.force(self._sampling.thinking.closing if self._sampling.thinking else (), version)

    def force(self, tokens: tuple[int, ...], version: int) -> None:
        """Append tokens that were not sampled, as far as the request's limit allows."""
        for token in tokens[: self._limit - len(self._tokens)]:
            self._append(token, 0.0, True, version)
        if tokens and self.finish is None and len(self._tokens) >= self._limit:
            self.finish = "length"

    def news(self) -> Piece | None:
        """What came since this was called last."""
        if self._told == len(self._tokens):
            return None
        since, self._told = slice(self._told, len(self._tokens)), len(self._tokens)
        return Piece(
            token_ids=np.array(self._tokens[since], dtype=np.int32),
            logprobs=np.array(self._logprobs[since], dtype=np.float32),
            forced=np.array(self._forced[since], dtype=np.bool_),
            policy_versions=np.array(self._versions[since], dtype=np.int32),
        )

    @property
    def counts(self) -> tuple[int, int]:
        """Tokens that were sampled, and forced."""
        forced = sum(self._forced)
        return len(self._tokens) - forced, forced

    def completion(self) -> Completion:
        """All of it, at its end."""
        assert self.finish is not None
        return Completion(
            token_ids=np.array(self._tokens, dtype=np.int32),
            logprobs=np.array(self._logprobs, dtype=np.float32),
            forced=np.array(self._forced, dtype=np.bool_),
            finish_reason=self.finish,
            policy_versions=np.array(self._versions, dtype=np.int32),
        )

    def _append(self, token: int, logprob: float, forced: bool, version: int) -> None:
        self._tokens.append(token)
        self._logprobs.append(logprob)
        self._forced.append(forced)
        self._versions.append(version)


def _derived(seed: int, place: int) -> int:
    """The seed of a segment that begins at `place` of its completion; torch takes 63 bits."""
    mixed = (seed + place * 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return (mixed ^ (mixed >> 27)) % 2**63
