"""One policy that hands pieces of its task to sub-agents, each with a conversation, tools and limits of its own.

What it reads of them is what they report, and no more: their conversations are branches of the same trace, spoken by
the same policy, and trained with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.agents.solo import opening, step
from askesis.tools.rendering import bounded
from askesis.types import Agent, ConfigError, Session, Specialist, ToolResult, ToolSpec, in_line

DELEGATE = "delegate"
ENDING = ("submit", "answer", "finish", "done", "final_answer")
_WORKER = (
    "You work on a part of a larger task, for somebody who reads only the last thing that you say. Do what you are "
    "asked, then report what came of it."
)


class OrchestratorAgent:
    """As `solo`, with a tool `delegate`: a sub-agent does a piece of work and reports. Several may work at once.

    Where the task foresees specialists, each of them can be asked; where it does not, sub-agents are general ones with
    this agent's tools, but those named in `withhold` (what submits is not theirs to call). report: characters of one
    that are kept, its head and its tail. at_once: sub-agents that work at the same time. worker: the harness that plays
    them, by name. instructions: the system prompt.

    Options other than the defaults show in `name`, as a hash. Raises `ConfigError` for senseless ones.
    """

    def __init__(
        self,
        *,
        instructions: str | None = None,
        report: int = 2_000,
        at_once: int = 4,
        worker: str = "solo@1",
        withhold: Sequence[str] = ENDING,
    ) -> None:
        for name, value, least in (("report", report, 100), ("at_once", at_once, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"agent orchestrator: {name}={value!r}: expected a whole number, {least} at least")
        if isinstance(withhold, str) or not all(isinstance(one, str) for one in withhold):
            raise ConfigError(f"agent orchestrator: withhold={withhold!r}: expected a list of tools' names")
        _worker(worker, None)
        self._instructions, self._report, self._at_once = instructions, report, at_once
        self._by, self._withhold = worker, tuple(withhold)
        told = json.dumps([instructions, report, at_once, worker, self._withhold])
        default = json.dumps([None, 2_000, 4, "solo@1", ENDING])
        digest = "" if told == default else "+" + hashlib.sha256(told.encode()).hexdigest()[:8]
        self.name = f"orchestrator@1{digest}"

    async def run(self, session: Session) -> None:
        """Play one episode."""
        self.equip(session)
        session.add(*opening(session, self._instructions))
        while not session.ended:
            if not await step(session, together=(DELEGATE,)):
                return

    def offers(self, specialists: Sequence[Specialist]) -> Sequence[ToolSpec]:
        """What is offered beside the environment's tools: `delegate`, to these or to general ones."""
        return (_spec(specialists),)

    def equip(self, session: Session, *, worker: Agent | None = None) -> None:
        """Offer `delegate` in a session. worker: who plays sub-agents, in place of the harness's own."""
        room = asyncio.Semaphore(self._at_once)
        session.use(*(_Delegate(spec, self, worker, room) for spec in self.offers(session.specialists)))

    async def delegated(self, session: Session, specialist: str, task: str, worker: Agent | None) -> ToolResult:
        """One piece of work."""
        foreseen = next((one for one in session.specialists if one.name == specialist), None)
        instructions = _WORKER if foreseen is None else foreseen.instructions or None
        tools = None
        if foreseen is None:
            given = [tool.name for tool in session.tools]
            tools = [name for name in given if name != DELEGATE and name not in self._withhold]
        agent = worker or _worker(self._by, instructions)
        report = await session.spawn(task, specialist=specialist, tools=tools, agent=agent)
        return ToolResult(text=bounded(report.text, self._report), error=not report.ok)


def _spec(specialists: Sequence[Specialist]) -> ToolSpec:
    properties: dict[str, Any] = {"task": {"type": "string", "minLength": 1}}
    described = "Let a sub-agent do a piece of work. It knows only what you tell it, and reports."
    if specialists:
        properties = {"specialist": {"enum": [one.name for one in specialists]}} | properties
        described = "\n".join([described, *(f"{one.name}: {one.description}" for one in specialists)])
    return ToolSpec(
        name=DELEGATE,
        description=described,
        parameters={
            "type": "object",
            "properties": properties,
            "required": [*properties],
            "additionalProperties": False,
        },
    )


@dataclass(frozen=True, slots=True)
class _Delegate:
    spec: ToolSpec
    harness: OrchestratorAgent
    worker: Agent | None
    room: asyncio.Semaphore

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        with in_line():
            await self.room.acquire()
        try:
            return await self.harness.delegated(
                session, str(args.get("specialist", "")), str(args["task"]), self.worker
            )
        finally:
            self.room.release()


def _worker(name: str, instructions: str | None) -> Agent:
    """The harness of a sub-agent. Raises `ConfigError` for none such, and for one that is no harness of a session's."""
    from askesis.agents.registry import load_agent

    kind = name.partition("@")[0] if isinstance(name, str) else ""
    if kind in ("orchestrator", "external"):
        raise ConfigError(f"agent orchestrator: worker={name!r}: a sub-agent has no sub-agents and is no program")
    return load_agent(name, instructions=instructions)
