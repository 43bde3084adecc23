"""New weights into an engine: sent, checked by their fingerprint, and sent again where something went wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from askesis.types import Engine, EngineError

ATTEMPTS = 3
_log = logging.getLogger("askesis.loop")


async def update(
    engine: Engine,
    weights: Mapping[str, Any],
    version: int,
    *,
    fingerprint: str,
    seconds: float,
    attempts: int = ATTEMPTS,
) -> int:
    """As `Engine.update_weights`, up to `attempts` times, each for at most `seconds`. How many it took.

    Raises `EngineError` when the last one failed: the engine refuses to sample under weights that are not the ones
    that were meant, so nothing wrong was sampled meanwhile.
    """
    for attempt in range(1, attempts + 1):
        try:
            await asyncio.wait_for(engine.update_weights(weights, version, fingerprint=fingerprint), seconds)
            return attempt
        except (EngineError, TimeoutError) as error:
            told = str(error) or f"no answer within {seconds:g} s"
            if attempt == attempts:
                raise EngineError(
                    f"weights version {version} did not get into the engine in {attempts} attempts; the last: {told}"
                ) from error
            _log.warning("weights version %d did not get into the engine, and are sent again: %s", version, told)
    raise AssertionError("unreachable")
