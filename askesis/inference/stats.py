"""What an engine has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters since the engine was made.

    computed_tokens: fed through the model; recomputed_tokens: those of them that had been computed before and were
    evicted or dropped; reused_tokens: of prompts, found in the cache; copied_tokens: those of them taken from another
    row. sampled_tokens and forced_tokens are those of completions (cancelled ones too). steps: of the model;
    decode_steps: those that drew at least one token. occupancy: mean share of slots that ran, over all steps.
    step_s: seconds inside steps. running, waiting: requests right now.
    """

    computed_tokens: int
    reused_tokens: int
    recomputed_tokens: int
    copied_tokens: int
    sampled_tokens: int
    forced_tokens: int
    requests: int
    evictions: int
    steps: int
    decode_steps: int
    occupancy: float
    step_s: float
    running: int
    waiting: int


@dataclass(slots=True)
class Counters:
    """What the engine counts as it goes; see `EngineStats`."""

    computed: int = 0
    reused: int = 0
    recomputed: int = 0
    copied: int = 0
    sampled: int = 0
    forced: int = 0
    requests: int = 0
    evictions: int = 0
    steps: int = 0
    decode_steps: int = 0
    occupied: int = 0
    seconds: float = 0.0

    def stats(self, *, slots: int, running: int, waiting: int) -> EngineStats:
        """The counters as a value."""
        return EngineStats(
            computed_tokens=self.computed,
            reused_tokens=self.reused,
            recomputed_tokens=self.recomputed,
            copied_tokens=self.copied,
            sampled_tokens=self.sampled,
            forced_tokens=self.forced,
            requests=self.requests,
            evictions=self.evictions,
            steps=self.steps,
            decode_steps=self.decode_steps,
            occupancy=self.occupied / (self.steps * slots) if self.steps else 0.0,
            step_s=self.seconds,
            running=running,
            waiting=waiting,
        )
