"""`repair` whose tools take longer than they do: every call waits first, as one to a backend far away would."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from askesis.envs import load_env
from askesis.envs.wrapping import WrappedEnv
from askesis.types import Session, State, Task, Tool, ToolResult

TAIL = 30.0  # the 99th percentile, in medians: as heavy a tail as the schedule trace has
LONGEST_S = 60.0
_SIGMA = math.log(TAIL) / NormalDist().inv_cdf(0.99)


class Slowed(WrappedEnv):
    """mean_s: of what each call waits, seconds, lognormal; 0 for nothing. options: of `repair`."""

    def __init__(self, mean_s: float = 0.0, **options: Any) -> None:
        super().__init__(load_env("repair", **options))
        self._median_s = mean_s / math.exp(_SIGMA**2 / 2)
        self._calls = itertools.count()

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """Those of `repair`, later."""
        return [_Late(tool, self._median_s, self._calls) for tool in super().tools(task, state)]


class _Late:
    def __init__(self, inner: Tool, median_s: float, calls: Iterator[int]) -> None:
        self._inner, self._median_s, self._calls = inner, median_s, calls
        self.spec = inner.spec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        if self._median_s:
            place = int.from_bytes(hashlib.blake2b(str(next(self._calls)).encode(), digest_size=8).digest())
            drawn = NormalDist().inv_cdf((place + 1) / (2**64 + 2))
            await asyncio.sleep(min(LONGEST_S, self._median_s * math.exp(_SIGMA * drawn)))
        return await self._inner(dict(args), session)
