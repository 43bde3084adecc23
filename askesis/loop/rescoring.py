"""Another verifier over the traces that a run has kept: what of the paid holds, and since when it does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.adapters.hooks import hook
from askesis.loop.folder import RunFolder
from askesis.rollout import TraceStore, wilson
from askesis.types import ConfigError, Reward, Trace

Verdict = float | Sequence[Reward]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """Over some traces: n, how many were paid, how many the other verifier pays, and how many only one of them does.

    paid_untrue: paid by the run and not by the other; unpaid_true: the other way round. failed: traces that the other
    verifier could not judge.
    """

    step: int
    n: int
    paid: int
    true: int
    paid_untrue: int
    unpaid_true: int
    failed: int

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share of the paid that is untrue, at 95%."""
        return wilson(self.paid_untrue, self.paid)


async def rescore(
    folder: RunFolder, verifier: str | Callable[[Trace], Any], *, label: str = "train", parts: int = 10
) -> tuple[list[Rescored], list[str]]:
    """Judge the learnable traces of a run again.

    verifier: a function of a trace, or where one is: `file.py:function` or `module:function`; it gives a number (1 or
    more is success) or rewards, and may be a coroutine. label: `train`, or the name of an evaluation. parts: into how
    many stretches of steps the run is divided. Gives a row a stretch and the ids of the traces that are paid and
    untrue. Raises `ConfigError` where there is no such verifier, or no trace of that label.
    """
    judge = hook(verifier, "verifier") if isinstance(verifier, str) else verifier
    with TraceStore(folder.traces, readonly=True) as store:
        steps = store.ledger.steps()
        last = max((one.step for one in steps), default=0)
        width = max(1, -(-last // parts))
        rows: dict[int, list[int]] = {}
        untrue: list[str] = []
        for step in sorted({one.step for one in steps} | {0}):
            for trace in store.traces(label=label, step=step, learnable=True, final=True):
                row = rows.setdefault(max(0, step - 1) // width, [0] * 6)
                held = await _held(judge, trace)
                _count(row, trace.success, held)
                if trace.success and held is False:
                    untrue.append(trace.id)
    if not rows:
        raise ConfigError(f"run {folder.path} has no traces labelled {label!r} that say something about the policy")
    names = ("n", "paid", "true", "paid_untrue", "unpaid_true", "failed")
    return [
        Rescored(step=at * width + 1, **dict(zip(names, row, strict=True))) for at, row in sorted(rows.items())
    ], untrue


async def _held(judge: Callable[[Trace], Any], trace: Trace) -> bool | None:
    """Whether the other verifier pays the trace; None where it fails."""
    try:
        said = judge(trace)
        if inspect.isawaitable(said):
            said = await said
        if isinstance(said, int | float):
            return said >= 1.0
        return any(term.name == "success" and term.value >= 1.0 for term in said)
    except Exception:
        return None


def _count(row: list[int], paid: bool, held: bool | None) -> None:
    row[0] += 1
    row[1] += paid
    row[2] += held is True
    row[3] += paid and held is False
    row[4] += not paid and held is True
    row[5] += held is None
