"""Whether a failing machine is taken for a failing policy."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from askesis.audit.ground import Ground, children, heard
from askesis.audit.probe import Inconclusive, Probe, Sighting, Tally
from askesis.audit.recordings import Recording, again
from askesis.envs.wrapping import WrappedEnv
from askesis.types import Env, Reward, Session, State, Task, Tool, ToolResult, Trace

_TASKS = 3
When = Literal["a call", "the verdict"]


async def run(ground: Ground) -> Sighting:
    """Play the oracle's episodes while something fails for one call or for the verdict.

    Each succeeds when nothing fails. So whoever gets no pay now, in an episode that counts as the policy's own, is paid
    for what the machine did.
    """
    golden = [Recording(trace.task, "the oracle", trace) for trace in (await ground.golden())[:_TASKS]]
    golden = [one for one, trace in zip(golden, await again(ground, golden), strict=False) if trace.success]
    if not golden:
        raise Inconclusive("no episode of the oracle's succeeds again when it is played as it was")
    seen, worst = Tally(), False
    whens: tuple[When, ...] = ("the verdict", "a call")
    for name, fault in _faults(ground).items():
        for when in whens:
            for one in golden:
                if ground.left_s <= 0 and seen.n:
                    break
                env = _Failing(ground.env, fault, when, at=max(0, len(one.messages) // 2 - 1))
                trace = (await again(ground, [one], env=env))[0]
                hit = trace.outcome.learnable and not trace.success
                worst = worst or (hit and when == "the verdict")
                seen.add(
                    hit,
                    f"{name} during {when}: the oracle's episode ended by {trace.outcome.by}, {trace.outcome.reason}, "
                    f"and was paid {trace.reward:g}; the last answers: {[text[:120] for text in heard(trace)[-3:]]}",
                    task=one.task.id,
                )
        after = (await again(ground, golden[:1]))[0]
        seen.add(
            after.outcome.learnable and not after.success,
            f"after {name}, when all was well again, the oracle was paid {after.reward:g}",
            task=golden[0].task.id,
        )
    return seen.sighting(severity="high" if worst else "medium")


Fault = Callable[[], AbstractContextManager[None]]


def _faults(ground: Ground) -> dict[str, Fault]:
    return {
        "nothing could be written": _no_writing,
        "no file could be opened": _no_opening,
        "child processes were killed": lambda: _killing(ground.strangers),
    }


@contextlib.contextmanager
def _no_writing() -> Iterator[None]:
    """As on a full disk: what is written to files of this process and its children fails (`OSError`)."""
    with _limited(resource.RLIMIT_FSIZE, 0):
        yield


@contextlib.contextmanager
def _no_opening() -> Iterator[None]:
    """As where descriptors have run out: the lowest free one is one too many."""
    free = os.dup(0)
    os.close(free)
    with _limited(resource.RLIMIT_NOFILE, free):
        yield


@contextlib.contextmanager
def _limited(which: int, bound: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


@contextlib.contextmanager
def _killing(spared: frozenset[int]) -> Iterator[None]:
    """As when the kernel is out of memory: children of this process are killed, those that there are and new ones."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.002):
            for pid in children() - spared:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Failing(WrappedEnv):
    """Something fails during one call (the one at place `at`) or during the verdict."""

    def __init__(self, inner: Env, fault: Fault, when: When, *, at: int) -> None:
        super().__init__(inner)
        self._fault, self._when, self._left = fault, when, [at]

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        tools = super().tools(task, state)
        return [_FailingTool(tool, self._fault, self._left) for tool in tools] if self._when == "a call" else tools

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        with self._fault() if self._when == "the verdict" else contextlib.nullcontext():
            return await super().verify(trace, state)


@dataclass(slots=True)
class _FailingTool:
    tool: Tool
    fault: Fault
    left: list[int]
    spec: Any = field(init=False)

    def __post_init__(self) -> None:
        self.spec = self.tool.spec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.left[0] -= 1
        with self.fault() if self.left[0] == -1 else contextlib.nullcontext():
            return await self.tool(args, session)


PROBE = Probe(
    name="faults",
    axis="stability",
    flaw="failures trained as zeros",
    severity="high",
    about="a full disk, no free descriptor or a killed process is never paid as the policy's failure",
    run=run,
    seconds=5.0,
)
