"""What the engine needs of a vLLM, wherever that runs: requests of tokens, a pause, and the steps of an update."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Finish = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of tokens. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.

    stop: ids that end it, and are part of what comes. session: whose request it is, for a router. priority: the
    lowest is served first.
    """

    prompt: Sequence[int]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: Sequence[int]
    seed: int
    session: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Tokens that came since the last part, and their log-probabilities.

    finish: with the last part, why it ended. version: with the last part, what vLLM calls the weights that sampled all
    tokens of the request; None where it does not say, or there were none.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    finish: Finish | None = None
    version: str | None = None


class Transport(Protocol):
    """A vLLM. All raise `EngineError` for what fails there."""

    @property
    def where(self) -> str:
        """For messages."""
        ...

    async def start(self) -> None:
        """Make it ready; raises `EngineError`, `MissingExtra`."""
        ...

    async def restart(self) -> None:
        """Make one ready that has ended or hangs, from the beginning; raises as `start`."""
        ...

    def sample(self, ask: Ask, *, name: str, stream: bool) -> AsyncGenerator[Part, None]:
        """The tokens of a request. stream: as they come, else all at the end. Closed or cancelled, it is aborted."""
        ...

    async def pause(self) -> None:
        """Abort all requests and start none until `resume`; cached keys and values are dropped. May be repeated."""
        ...

    async def resume(self) -> None:
        """Go on."""
        ...

    async def init_transfer(self, info: Mapping[str, Any]) -> None:
        """vLLM's `init_weight_transfer_engine`: a rendezvous, for backends that have one."""
        ...

    async def begin_update(self) -> None:
        """vLLM's `start_weight_update`."""
        ...

    async def update(self, info: Mapping[str, Any]) -> None:
        """vLLM's `update_weights`, with what its weight-transfer backend wants to know."""
        ...

    async def finish_update(self) -> None:
        """vLLM's `finish_weight_update`."""
        ...

    async def set_version(self, version: str) -> None:
        """What vLLM calls its weights from now on."""
        ...

    async def call(self, method: str, *args: str) -> list[Any]:
        """A method of each worker; their answers are dictionaries."""
        ...

    async def close(self) -> None:
        """Stop. Idempotent."""
        ...


def version_of(spans: Sequence[tuple[str, int, int]]) -> str | None:
    """The one version of all tokens of a request, from the spans of each; of several, all, so that it equals none."""
    names = [version for version, start, end in spans if end > start]
    return ",".join(names) or None
