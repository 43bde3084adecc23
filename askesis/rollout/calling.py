"""The tool calls of one agent: checked against their schemas, bounded in time, timed, and typed where they fail."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from askesis.rollout.arguments import complaint
from askesis.rollout.bounded import bounded
from askesis.rollout.ended import EpisodeEnded, said
from askesis.types import (
    Artifact,
    ConfigError,
    Message,
    Outcome,
    SandboxError,
    Tool,
    ToolCall,
    ToolEvent,
    ToolResult,
    ToolSpec,
    Waits,
    nearest,
    tool_result,
)

if TYPE_CHECKING:
    from askesis.rollout.session import EpisodeSession


@dataclass(frozen=True, slots=True)
class _Done:
    """A call that was made. text: None where the tool itself has failed, and with it the episode."""

    text: str | None
    status: str
    fault: str = ""
    seconds: float = 0.0
    own_s: float = 0.0
    artifacts: tuple[Artifact, ...] = ()


class Toolbox:
    """The tools of `session`."""

    def __init__(self, session: EpisodeSession, tools: Sequence[Tool]) -> None:
        self._session = session
        self._tools: dict[str, Tool] = {}
        self._schemas: dict[str, str] = {}  # of the tools that were called, as JSON
        self.add(tools)

    def add(self, tools: Sequence[Tool]) -> None:
        """Offer more. Raises `ConfigError` for a name that is taken."""
        for tool in tools:
            name = tool.spec.name
            if name in self._tools:
                raise ConfigError(f"two tools share a name: {name!r} (tools: {', '.join(self._tools)})")
            self._tools[name] = tool
        self.specs: tuple[ToolSpec, ...] = tuple(tool.spec for tool in self._tools.values())

    async def call(self, calls: Sequence[ToolCall], together: Collection[str]) -> list[Message]:
        """Run calls in order; neighbours that may run `together` at the same time. What ends the episode ends this."""
        results: list[Message] = []
        for alone, group in itertools.groupby(calls, lambda call: call.name not in together):
            batch = list(group)
            for part in [[call] for call in batch] if alone else [batch]:
                if self._session.ended:
                    return results
                results += await self._run(part)
        return results

    async def _run(self, calls: Sequence[ToolCall]) -> list[Message]:
        session = self._session
        done = [await self._one(calls[0])] if len(calls) == 1 else await self._at_once(calls)
        node, results = session.record.last, []
        for call, one in zip(calls, done, strict=True):
            event = ToolEvent(node=node, name=call.name, seconds=one.seconds, status=one.status, fault=one.fault)
            session.count_call(event, one.own_s)
            session.artifacts += [replace(artifact, node=node, call=call.id) for artifact in one.artifacts]
            if one.text is not None:
                results.append(tool_result(one.text, tool_call_id=call.id))
        session.add(*results)
        return results

    async def _at_once(self, calls: Sequence[ToolCall]) -> list[_Done]:
        """All of them; whoever is cancelled here waits until none runs any more."""
        tasks = [asyncio.ensure_future(self._one(call)) for call in calls]
        try:
            return [*await asyncio.gather(*tasks)]
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise

    async def _one(self, call: ToolCall) -> _Done:
        """One call, timed."""
        session, begun = self._session, self._session.clock()
        waits = Waits(session.clock, into=session.waits)
        done = self._refusal(call) or await self._tried(self._tools[call.name], call, waits)
        seconds = session.clock() - begun
        return replace(done, seconds=seconds, own_s=max(0.0, seconds - waits.elsewhere_s))

    def _refusal(self, call: ToolCall) -> _Done | None:
        """What the policy did wrong in making this call; None if nothing."""
        tool = self._tools.get(call.name)
        if tool is None:
            hint = nearest(call.name, self._tools)
            return _Done(f"error: no tool {call.name!r}{hint} (tools: {', '.join(self._tools)})", "unknown_tool")
        if (schema := self._schemas.get(call.name)) is None:
            schema = self._schemas[call.name] = json.dumps(tool.spec.parameters)
        wrong = complaint(schema, call.arguments)
        return None if wrong is None else _Done(f"error: {call.name}: {wrong}", "bad_arguments")

    async def _tried(self, tool: Tool, call: ToolCall, waits: Waits) -> _Done:
        """Run one tool. Its own failures, unlike the errors it reports, say nothing about the policy."""
        session = self._session
        try:
            result = await bounded(tool(call.arguments, session), session.spending.tool_s, waits)
            if not isinstance(result, ToolResult):
                raise TypeError(f"returned a {type(result).__name__}, expected a ToolResult")
        except EpisodeEnded:  # of a sub-agent for which it stands
            return _Done(None, "ended")
        except TimeoutError as error:
            session.end(Outcome(by="tool", reason="timeout", detail=f"{call.name}: {error}"))
            return _Done(None, "timeout")
        except SandboxError as error:
            session.end(Outcome(by="sandbox", reason="error", detail=f"{call.name}: {said(error)}"))
            return _Done(None, "sandbox")
        except Exception as error:
            session.end(Outcome(by="tool", reason="error", detail=f"{call.name}: {said(error)}"))
            return _Done(None, "exception")
        if result.end is not None:
            session.end(result.end)
        return _Done(result.text, "error" if result.error else "ok", result.fault, artifacts=result.artifacts)
