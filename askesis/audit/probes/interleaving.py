"""Whether an episode goes as it does alone after others and beside others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Tally
from askesis.audit.recordings import Difference, Recording, Seen, again, difference, recordings
from askesis.envs.wrapping import WrappedEnv
from askesis.types import Reward, Session, State, Task, Tool, ToolResult, Trace

_BESIDE = 16  # episodes at once: two of each task, and other tasks


async def run(ground: Ground) -> Sighting:
    """Play recorded episodes alone, in the reverse order, and then many at once that take turns at each call."""
    kept = await recordings(ground)
    order = list(reversed(kept))
    seen, paid = Tally(), False

    def compared(part: Sequence[Recording], traces: Sequence[Trace], how: str) -> None:
        nonlocal paid
        for one, trace in zip(part, traces, strict=False):
            if not trace.outcome.learnable:
                continue
            found: Difference | None = difference(Seen.of(one.trace), Seen.of(trace))
            paid = paid or (found is not None and found.kind == "reward")
            seen.add(
                found is not None, f"{one.by}, at first and {how}: {found.text if found else ''}", task=one.task.id
            )

    compared(order, await again(ground, order, at_once=1), "alone, after other episodes")
    doubled = [one for pair in zip(kept, kept, strict=True) for one in pair]
    traces = await again(ground, doubled, env=_TakingTurns(ground.env), at_once=_BESIDE)
    compared(doubled, traces, f"beside {_BESIDE - 1} others, one of them on the same task")
    return seen.sighting(severity="high" if paid else "medium")


class _TakingTurns(WrappedEnv):
    """Lets other episodes go on before and after each call, before the verdict, and between set-up and tools."""

    async def setup(self, task: Task) -> State:
        await asyncio.sleep(0)
        state = await super().setup(task)
        await asyncio.sleep(0)
        return state

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        return [_TakingTurn(tool) for tool in super().tools(task, state)]

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        await asyncio.sleep(0)
        return await super().verify(trace, state)


class _TakingTurn:
    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self.spec = tool.spec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        await asyncio.sleep(0)
        result = await self._tool(args, session)
        await asyncio.sleep(0)
        return result


PROBE = Probe(
    name="interleaving",
    axis="stability",
    flaw="state bleeds",
    severity="high",
    about="an episode goes the same way alone, after others and beside others",
    run=run,
    seconds=5.0,
)
