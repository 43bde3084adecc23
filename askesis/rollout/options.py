"""How the episodes of a run are played, and what is counted over all of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeOptions:
    """How every episode of a run is sampled and bounded.

    temperature, top_p, top_k, min_p: as in `Sampling`; training samples untruncated. setup_s, verify_s, close_s,
    engine_s: seconds that setting up, verifying, closing and one turn of the engine may take before they count as
    failed. The last is separate from `Limits.wall_s`, whose clock stops while the policy waits for the engine: how
    busy the engine is says nothing about the policy. No limit counts the time in line for a sandbox's worker.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    setup_s: float = 60.0
    verify_s: float = 60.0
    engine_s: float = 600.0
    close_s: float = 10.0


@dataclass(slots=True)
class Meter:
    """What was done so far, for the live line; shared by all episodes of a run."""

    turns: int = 0
    tokens: int = 0
    engine_s: float = 0.0
    tool_s: float = 0.0


def turn_seed(seed: int, turn: int) -> int:
    """The seed of one turn's sampling, 63 bits: neighbouring seeds and turns share nothing."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()) >> 1
