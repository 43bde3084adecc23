"""What takes part in an episode, with faults put in: environment, tools, sandbox, verifier, engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import numpy as np

from askesis.envs.wrapping import WrappedEnv, inner_state
from askesis.loop.faults.plan import FaultPlan
from askesis.types import (
    Completion,
    ConfigError,
    Engine,
    EngineError,
    Env,
    EnvError,
    OnTokens,
    Reward,
    RunResult,
    Sampling,
    Sandbox,
    SandboxError,
    Session,
    Snapshot,
    State,
    Task,
    Terminal,
    TokenIds,
    Tool,
    ToolError,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
)

T = TypeVar("T")


class FaultyEnv(WrappedEnv):
    """`inner`, whose set-ups, tools, sandboxes and verdicts meet the plan's faults."""

    def __init__(self, inner: Env, plan: FaultPlan) -> None:
        super().__init__(inner)
        self.plan = plan

    async def setup(self, task: Task) -> State:
        """The environment's state; its `sandbox`, where it has one, is faulty."""
        await self.plan.meet("environment", f"task {task.id}", EnvError)
        state = await super().setup(task)
        own: Any = inner_state(state)
        if "sandbox" in self.plan and getattr(own, "sandbox", None) is not None:
            try:
                own.sandbox = FaultySandbox(own.sandbox, self.plan)
            except AttributeError as error:  # a frozen state
                await state.close()
                raise ConfigError(
                    f"faults: the sandbox of environment {self.name!r} cannot be put into another "
                    f"({type(own).__name__}.sandbox: {error}); use the site 'tool'"
                ) from error
        return state

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """The environment's, each of which may fail."""
        tools = super().tools(task, state)
        return [FaultyTool(tool, self.plan) for tool in tools] if "tool" in self.plan else tools

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """The environment's verdict; a lie says the opposite."""
        lie = await self.plan.meet("verifier", f"task {trace.task.id}", VerifierError)
        verdict = await super().verify(trace, state)
        if lie is None:
            return verdict
        return [replace(term, value=1.0 - term.value) if term.name == "success" else term for term in verdict]


class FaultyTool:
    """`inner`, whose calls meet faults. A lie is another answer than the tool's, and does not look like one."""

    def __init__(self, inner: Tool, plan: FaultPlan) -> None:
        self._inner, self._plan = inner, plan

    @property
    def spec(self) -> ToolSpec:
        """The tool's own."""
        return self._inner.spec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        """Call the tool."""
        lie = await self._plan.meet("tool", self.spec.name, ToolError)
        result = await self._inner(args, session)
        return result if lie is None else replace(result, text=_other(result.text))


class FaultySandbox:
    """`inner`, whose calls meet faults. A lie is other output, or another content than the file's."""

    def __init__(self, inner: Sandbox, plan: FaultPlan) -> None:
        self._inner, self._plan = inner, plan

    def __getattr__(self, name: str) -> Any:
        if name in ("_inner", "_plan"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    async def run(self, argv: Sequence[str], **how: Any) -> RunResult:
        """See `types.Sandbox`."""
        lie = await self._meet("run")
        return self._told(lie, await self._inner.run(argv, **how))

    async def python(self, code: str, **how: Any) -> RunResult:
        """See `types.Sandbox`."""
        lie = await self._meet("python")
        return self._told(lie, await self._inner.python(code, **how))

    async def read(self, path: str) -> bytes:
        """See `types.Sandbox`."""
        lie = await self._meet("read")
        content = await self._inner.read(path)
        if not lie:
            return content
        return _other(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")

    async def write(self, path: str, data: bytes) -> None:
        """See `types.Sandbox`. A lie: nothing was written."""
        if not await self._meet("write"):
            await self._inner.write(path, data)

    async def terminal(self, argv: Sequence[str] = ("/bin/bash", "-i"), **how: Any) -> Terminal:
        """See `types.Sandbox`."""
        await self._meet("terminal")
        return await self._inner.terminal(argv, **how)

    async def paths(self) -> Sequence[str]:
        """See `types.Sandbox`. A lie leaves out the last one."""
        lie = await self._meet("paths")
        found = await self._inner.paths()
        return found[:-1] if lie else found

    async def snapshot(self) -> Snapshot:
        """See `types.Sandbox`."""
        await self._meet("snapshot")
        return await self._inner.snapshot()

    async def close(self) -> None:
        """Close the other first: an injected fault leaves nothing behind."""
        await self._inner.close()
        await self._meet("close")

    async def _meet(self, what: str) -> bool:
        """Whether to lie: all else has happened when this returns."""
        return await self._plan.meet("sandbox", what, SandboxError) is not None

    def _told(self, lie: bool, result: RunResult) -> RunResult:
        if not lie:
            return result
        return replace(result, stdout=_other(result.stdout), exit_code=0 if result.exit_code else 1)


class FaultyEngine:
    """`inner`, whose turns and updates of weights meet faults.

    A turn's lie is one of three: lengths that do not fit, log-probabilities that are no numbers, and log-probabilities
    that are merely wrong. A lie about weights: others arrive than were sent.
    """

    def __init__(self, inner: Engine, plan: FaultPlan) -> None:
        self._inner, self._plan = inner, plan

    def __getattr__(self, name: str) -> Any:
        if name in ("_inner", "_plan"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    @property
    def context_length(self) -> int:
        """The engine's."""
        return self._inner.context_length

    async def generate(
        self,
        token_ids: TokenIds,
        sampling: Sampling,
        *,
        session: str | None = None,
        on_tokens: OnTokens | None = None,
        **more: Any,
    ) -> Completion:
        """See `types.Engine`."""
        lie = await self._plan.meet("engine", f"session {session}", EngineError)
        completion = await self._inner.generate(token_ids, sampling, session=session, on_tokens=on_tokens, **more)
        return completion if lie is None else self._lie(completion, lie)

    def _lie(self, completion: Completion, look: Random) -> Completion:
        logprobs = completion.logprobs
        match look.randrange(3):
            case 0:
                return replace(completion, logprobs=logprobs[:-1])
            case 1:
                return replace(completion, logprobs=np.full_like(logprobs, np.nan))
        return replace(completion, logprobs=np.where(completion.forced, logprobs, logprobs - 2.0).astype(np.float32))

    async def update_weights(
        self, weights: Mapping[str, Any], version: int, *, fingerprint: str = "", **more: Any
    ) -> None:
        """See `types.Engine`."""
        lie = await self._plan.meet("weights", f"version {version}", EngineError)
        if lie is None:
            await self._inner.update_weights(weights, version, fingerprint=fingerprint, **more)
        elif weights:
            await self._inner.update_weights(_damaged(weights), version, fingerprint=fingerprint, **more)
        else:
            await self._with_other_weights(version, fingerprint, more)

    async def _with_other_weights(self, version: int, fingerprint: str, more: Mapping[str, Any]) -> None:
        """Weights that are shared with the trainer are others only while the engine takes them over."""
        import torch

        model: Any = getattr(self._inner, "model", None)
        if model is None:
            raise ConfigError("faults: weights lie: this engine neither is sent weights nor shares a `model`")
        parameter = next(iter(model.parameters()))
        with torch.no_grad():
            first = parameter.view(-1)[0].clone()
            parameter.view(-1)[0] += 1.0
        try:
            await self._inner.update_weights({}, version, fingerprint=fingerprint, **more)
        finally:
            with torch.no_grad():
                parameter.view(-1)[0] = first

    def release(self, session: str) -> None:
        """See `types.Engine`."""
        self._inner.release(session)

    async def close(self) -> None:
        """See `types.Engine`."""
        await self._inner.close()


def _damaged(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights with one number that is another."""
    name = min(weights)
    other = weights[name].clone() if hasattr(weights[name], "clone") else np.array(weights[name])
    other.reshape(-1)[0] += 1.0
    return {**weights, name: other}


def _other(text: str) -> str:
    """A text of the same look: each digit is the next one; without digits, its last line is missing."""
    shifted = text.translate(str.maketrans("0123456789", "1234567890"))
    return shifted if shifted != text else "\n".join(text.split("\n")[:-1])
