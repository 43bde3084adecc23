"""What a gateway serves, and its bounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from askesis.chat.effort import EffortTable, effort_value, resolve
from askesis.serve.faults import invalid
from askesis.types import ConfigError, Message, Renderer, Sampling, Thinking

# what other APIs call the ends of the scale
_EFFORTS = {"minimal": 0.0, "xhigh": 1.0, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of a gateway; times in seconds, sizes in bytes.

    max_requests: in flight, those that wait for a slot of the engine included; more get a 503. key_requests,
    key_tokens: in flight, and prompt and completion tokens a minute, of one key (None: no bound); more get a 429.
    request_s: for a whole request. idle_s: after which a conversation becomes a trace. session_tokens: most tokens
    that a session keeps in memory; then the idlest conversations become traces. sessions: most at once.
    drain_s: what requests in flight get to finish in when the gateway is told to stop. pace_s: least time between two
    chunks of a stream. max_choices: most of `n`. record: the folder of the trace store, None for none.
    """

    max_requests: int = 256
    key_requests: int | None = None
    key_tokens: int | None = None
    max_body: int = 4 * 2**20
    request_s: float = 600.0
    idle_s: float = 300.0
    session_tokens: int = 1_000_000
    sessions: int = 10_000
    drain_s: float = 30.0
    pace_s: float = 0.02
    max_choices: int = 16
    record: Path | None = None

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_body", "session_tokens", "sessions", "max_choices", "request_s", "idle_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"serve: {name} is {getattr(self, name)}, expected more than 0")
        for name in ("key_requests", "key_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"serve: {name} is {value}, expected at least 1 (or none, for no bound)")
        for name in ("drain_s", "pace_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"serve: {name} is {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The model behind the gateway. names: it answers to; the first is the one it gives. any_name: to all others too.

    thinking: the mode of requests that do not say. effort: what was measured of the checkpoint, if anything was.
    """

    renderer: Renderer
    names: tuple[str, ...]
    any_name: bool = False
    thinking: Thinking = field(default_factory=Thinking)
    effort: EffortTable | None = None
    checkpoint: str = "CHECKPOINT"
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.names[0]

    def mode(
        self,
        messages: Sequence[Message],
        *,
        enabled: bool | None,
        budget: int | None = None,
        effort: str | float | None = None,
        where: str = "reasoning_effort",
    ) -> Thinking:
        """How much a request may think.

        The switches in its messages, `/think` and `/no_think`, count unless thinking is switched off by parameter.
        Raises `Fault` for parameters that contradict each other, and for an effort that was not measured.
        """
        if effort == "none":
            if enabled:
                raise invalid("'none' switches thinking off, but another parameter switches it on", param=where)
            enabled, effort = False, None
        if enabled is False:
            if effort is not None:
                raise invalid("an effort makes no sense with thinking switched off", param=where)
            if budget:
                raise invalid("a budget makes no sense with thinking switched off", param="thinking_budget")
            return Thinking(enabled=False)
        if effort is not None and budget is not None:
            raise invalid("an effort stands for a budget: give one of the two", param=where)
        asked = enabled is not None or budget is not None or effort is not None
        thinking = replace(self.thinking, enabled=True) if asked else self.thinking
        thinking = self.renderer.mode_of(messages, thinking)
        if not thinking.enabled:
            return Thinking(enabled=False)
        try:
            if budget is not None:
                return replace(thinking, budget=budget, effort=None)
            if effort is not None:
                value = _EFFORTS[effort] if isinstance(effort, str) and effort in _EFFORTS else effort_value(effort)
                thinking = replace(thinking, budget=None, effort=value)
            return resolve(thinking, self.effort, checkpoint=self.checkpoint)
        except ConfigError as error:
            raise invalid(str(error), param=where) from None

    def sampling(
        self,
        thinking: Thinking,
        *,
        temperature: float | None,
        top_p: float | None,
        top_k: int | None,
        min_p: float | None = None,
        seed: int | None = None,
    ) -> Sampling:
        """What a request asks for; what it leaves open is as recommended for its mode."""
        base = self.renderer.sampling(thinking)
        return replace(
            base,
            temperature=base.temperature if temperature is None else temperature,
            top_p=base.top_p if top_p is None else top_p,
            top_k=base.top_k if top_k is None else max(top_k, 0),
            min_p=base.min_p if min_p is None else min_p,
            seed=seed,
        )
