"""Tasksets of verifiers (`verifiers.v1`): their tasks, hooks and tools, with our harness in the place of theirs.

A task's `setup`, tools, stops, `finalize`, rewards and metrics are called as verifiers calls them, on a trace of theirs
that says what ours does. Not taken over: their harnesses, containers, and environments that drive a conversation
themselves; whatever needs one of these is refused when it is loaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
import typing
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from pydantic import ValidationError, create_model

from askesis.envs.adapters.verifiers_messages import node_message, ours
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Message,
    Outcome,
    Reward,
    Session,
    Split,
    State,
    Task,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    system,
)

RuntimeName = Literal["none", "subprocess"]


class VerifiersTaskset:
    """One taskset. Options:

    args: of its configuration; so is every other option that is none of these. most: tasks that are loaded at most.
    success_at: the reward from which an episode is a success. runtime: `subprocess` runs what its hooks run on this
    machine, with your rights, as verifiers does; `none` refuses tasks that want one. max_turns, max_turn_tokens,
    wall_s, tool_s: of an episode. Raises `ConfigError` for what cannot be loaded or taken over.
    """

    def __init__(
        self,
        name: str,
        *,
        args: Mapping[str, Any] | None = None,
        most: int = 2000,
        success_at: float = 1.0,
        runtime: RuntimeName = "none",
        max_turns: int = 16,
        max_turn_tokens: int = 2048,
        wall_s: float = 600.0,
        tool_s: float = 60.0,
        **more: Any,
    ) -> None:
        import verifiers.v1 as vf

        self.name = f"verifiers:{name}"
        if runtime not in ("none", "subprocess") or most < 1:
            raise ConfigError(
                f"{self.name}: runtime={runtime!r}, most={most}: expected none or subprocess, and 1 at least"
            )
        try:
            config = vf.taskset_config_type(name).model_validate({"id": name, **(args or {}), **more})
            self._taskset = vf.load_taskset(config)
            driven = vf.environment_class(name)
            self._loaded = {task.key: task for task in islice(iter(self._taskset), most)}
        except Exception as error:
            said = " ".join(str(error).split())
            raise ConfigError(f"{self.name} cannot be loaded: {type(error).__name__}: {said}") from error
        if driven is not vf.SingleAgentEnv:
            raise ConfigError(
                f"{self.name}: its {driven.__name__} drives the conversation itself, which is not supported; only "
                "tasksets whose task is played by one agent are"
            )
        if not self._loaded:
            raise ConfigError(f"{self.name} has no tasks")
        self._runtime: RuntimeName = runtime
        self._success_at = success_at
        self._limits = Limits(max_turns=max_turns, max_turn_tokens=max_turn_tokens, wall_s=wall_s, tool_s=tool_s)
        self._demand(next(iter(self._loaded.values())))

    def _demand(self, task: Any) -> None:
        """That one task, and so all, wants nothing that is not there."""
        import verifiers.v1 as vf
        from verifiers.v1.session import hook_boundary
        from verifiers.v1.utils.decorators import discover_decorated

        kind = type(task)
        if kind.NEEDS_CONTAINER:
            raise ConfigError(f"{self.name}: its tasks run in containers, which are not supported")
        if found := discover_decorated(task, "intercept"):
            raise ConfigError(f"{self.name}: {found[0].__name__} changes requests on their way, which is not supported")
        for stop in task.hooks("stop"):
            if hook_boundary(stop, allow_trace=True) is not vf.Trace:
                raise ConfigError(
                    f"{self.name}: {stop.__name__} stops by requests or responses; only by traces is supported"
                )
        hooks = [*task.hooks("reward"), *task.hooks("metric")]
        hooks += [
            getattr(task, one) for one in ("setup", "finalize") if getattr(kind, one) is not getattr(vf.Task, one)
        ]
        wanting = [hook.__name__ for hook in hooks if _required(hook, "runtime")]
        if wanting and self._runtime == "none":
            raise ConfigError(
                f"{self.name}: {', '.join(wanting)} of {kind.__name__} run programs; with the option "
                "runtime=subprocess they run on this machine, with your rights"
            )

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """Its tasks, shuffled by `seed`; one in eight is held out, by a hash of its key.

        Raises `EnvError` for a task without a prompt, or with one that is no text.
        """
        keys = [
            key for key in self._loaded if (hashlib.sha256(key.encode()).digest()[0] % 8 == 0) == (split == "heldout")
        ]
        random.Random(f"{self.name}/{split}/{seed}").shuffle(keys)
        return [self._task(key, split) for key in keys[:limit]]

    def _task(self, key: str, split: Split) -> Task:
        data = self._loaded[key].data
        if not data.prompt:
            raise EnvError(f"{self.name}: task {key} has no prompt; somebody else is to open its conversation")
        prompt = "\n\n".join(one.text for one in ours(data.prompt) if one.text)
        kept = data.model_dump(mode="json", exclude_none=True)
        return Task(env=self.name, prompt=prompt, data={"key": key, "task": kept}, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> TasksetState:
        """A trace of theirs, a runtime where one is wanted, the task's own `setup`, their tools. Raises `EnvError`."""
        found = self._loaded.get(str(task.data.get("key")))
        if found is None:
            raise EnvError(
                f"{self.name}: no task {task.data.get('key')!r} among {len(self._loaded)}; was it made elsewhere?"
            )
        state = TasksetState(task=found, trace=_trace(found))
        try:
            await self._prepare(state)
        except BaseException as error:
            await state.close()
            if not isinstance(error, Exception):
                raise
            raise EnvError(
                f"{self.name}: task {found.key} cannot be set up: {type(error).__name__}: {error}"
            ) from error
        return state

    async def _prepare(self, state: TasksetState) -> None:
        from verifiers.v1.runtimes import SubprocessConfig, make_runtime
        from verifiers.v1.utils.decorators import discover_decorated

        if self._runtime == "subprocess":
            state.runtime = make_runtime(SubprocessConfig(), name=state.trace.id)
            state.runtime.env = dict(state.task.runtime_env())
            await state.runtime.start()
            await state.runtime.prepare_setup()
        await _called(state.task.setup, state)
        own = type(state.task).toolsets(state.task.config)
        toolsets = [*own, *type(self._taskset).toolsets(self._taskset.config)]
        for toolset in toolsets:
            if getattr(toolset.config, "url", None):
                raise EnvError(f"{type(toolset).__name__} is a server elsewhere; offer it with the option mcp instead")
            toolset._inert_state = state.trace.state  # what `toolset.state` is where no server stands between
        await state.open(toolsets, len(own))
        for toolset in toolsets:
            for function in discover_decorated(toolset, "tool"):
                state.offer(function, toolset)

    def opening(self, task: Task, state: State) -> Sequence[Message]:
        """Their system prompt, and their prompt."""
        data = _own(state).task.data
        return [*([system(data.system_prompt)] if data.system_prompt else []), *ours(data.prompt)]

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """Theirs."""
        return _own(state).tools

    async def stops(self, messages: Sequence[Message], state: State) -> Outcome | None:
        """Their stops, asked before the next turn as they are there, whatever became of the calls of the last one."""
        own = _own(state)
        own.hear(messages)
        for stop in own.task.hooks("stop"):
            held = stop(own.trace)
            if await held if inspect.isawaitable(held) else held:
                return Outcome(by="policy", reason="finished", detail=str(stop.__name__))
        return None

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` (weight 0), their rewards with their weights, their metrics. Raises `VerifierError`."""
        own = _own(state)
        own.keep(_in_order(trace))
        own.trace.stop("agent_completed" if trace.outcome.by == "policy" else trace.outcome.reason)
        own.trace.ok = True
        try:
            await own.shut()
            await _called(own.task.finalize, own)
            await own.task.score(own.trace, own.runtime)
        except Exception as error:
            cause = error.__cause__
            more = f" (from {type(cause).__name__}: {cause})" if cause is not None else ""
            raise VerifierError(f"{self.name}: scoring failed: {type(error).__name__}: {error}{more}") from error
        unscored = [name for name, one in own.trace.rewards.items() if one is None]
        if unscored:
            raise VerifierError(f"{self.name}: rewards {', '.join(unscored)} were not scored")
        taken = {"success"}
        terms = [
            Reward(name=_free(name, taken), value=float(one.score), weight=float(one.weight))
            for name, one in own.trace.rewards.items()
        ]
        metrics = [
            Reward(name=_free(name, taken), value=float(value), weight=0.0)
            for name, value in own.trace.metrics.items()
            if value is not None
        ]
        total = sum(term.value * term.weight for term in terms)
        return [Reward(name="success", value=float(total >= self._success_at), weight=0.0), *terms, *metrics]

    async def close(self) -> None:
        """Nothing lives longer than an episode."""


@dataclass(slots=True)
class TasksetState:
    """One episode of theirs: the task, a trace, a runtime, and the tools.

    lines: the conversation so far, after those that were compacted into it.
    """

    task: Any
    trace: Any
    runtime: Any = None
    tools: list[Tool] = field(default_factory=list)
    lines: list[list[Message]] = field(default_factory=list)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _holding: asyncio.Task[None] | None = None

    async def open(self, toolsets: Sequence[Any], own: int) -> None:
        """Set toolsets up, of which the first `own` are the task's. One task opens and closes what they hold: there are
        contexts that can be left only where they were entered."""
        self._holding = asyncio.create_task(self._held(toolsets, own))
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ready, self._holding), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            await self._holding  # raises what they raised

    async def _held(self, toolsets: Sequence[Any], own: int) -> None:
        async with AsyncExitStack() as held:
            for number, toolset in enumerate(toolsets):
                if (theirs := getattr(toolset, "_exit_stack", None)) is not None:
                    await held.enter_async_context(theirs)
                await toolset.setup()
                if number < own:  # those of the taskset know of no task
                    await toolset.setup_task(self.task.data)
            self._ready.set()
            await self._over.wait()

    async def shut(self) -> None:
        """Close what the toolsets hold, as it is before `finalize` with them. Raises what they raise."""
        holding, self._holding = self._holding, None
        if holding is None:
            return
        self._over.set()
        if not self._ready.is_set():
            holding.cancel()
        await asyncio.wait((holding,))
        if not holding.cancelled() and (error := holding.exception()) is not None:
            raise error

    def offer(self, function: Any, toolset: Any) -> None:
        """One of their tools; where its name is taken, the server's comes before."""
        name = getattr(function, "tool_name", None) or function.__name__
        if any(tool.spec.name == name for tool in self.tools):
            name = f"{toolset.server_name}_{name}"
        self.tools.append(_TheirTool.of(name, function))

    def keep(self, nodes: Sequence[tuple[int, Message, bool]]) -> None:
        """Their trace has these nodes: each with its parent's place (-1 for none), and whether a policy said it."""
        from verifiers.v1.graph import MessageNode

        self.trace.nodes = [
            MessageNode(parent=parent if parent >= 0 else None, message=node_message(message), sampled=policy)
            for parent, message, policy in nodes
        ]

    def hear(self, messages: Sequence[Message]) -> None:
        """Their trace has the conversation so far, and those before it that were compacted into it."""
        said = list(messages)
        if self.lines and said[: len(self.lines[-1])] == self.lines[-1]:
            self.lines.pop()
        self.lines.append(said)
        nodes = list[tuple[int, Message, bool]]()
        for line in self.lines:
            nodes += [(len(nodes) + at - 1 if at else -1, one, one.role == "assistant") for at, one in enumerate(line)]
        self.keep(nodes)

    async def close(self) -> None:
        """Close what toolsets hold, and stop the runtime. Idempotent."""
        with suppress(Exception):
            await self.shut()
        runtime, self.runtime = self.runtime, None
        if runtime is not None:
            with suppress(Exception):
                await runtime.stop()


@dataclass(frozen=True, slots=True)
class _TheirTool:
    """A method of a toolset, called here, with its arguments as its annotations say."""

    spec: ToolSpec
    function: Any
    arguments: Any

    @classmethod
    def of(cls, name: str, function: Any) -> _TheirTool:
        hints = typing.get_type_hints(function)
        fields: dict[str, Any] = {
            one.name: (hints.get(one.name, str), ... if one.default is one.empty else one.default)
            for one in inspect.signature(function).parameters.values()
        }
        arguments = create_model(name, **fields)
        schema = {"properties": {}, **arguments.model_json_schema()}
        schema.pop("title", None)
        return cls(
            ToolSpec(name=name, description=inspect.getdoc(function) or "", parameters=schema),
            function,
            arguments,
        )

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        failed = False
        try:
            given = self.arguments.model_validate(dict(args))
            result = self.function(**{name: getattr(given, name) for name in type(given).model_fields})
            text = str(await result if inspect.isawaitable(result) else result)
        except ValidationError as error:
            text, failed = f"error: {error}", True
        except Exception as error:  # what a server of theirs would answer with
            text, failed = f"error: {type(error).__name__}: {error}", True
        return ToolResult(text=text, error=failed)


def _in_order(trace: Trace) -> list[tuple[int, Message, bool]]:
    """Its nodes, those of sub-agents first: what is last in a trace of theirs is what the agent itself said."""
    forks = {fork.root: fork for fork in trace.forks}

    def of_sub_agent(at: int) -> bool:
        while True:
            while trace.nodes[at].parent >= 0:
                at = trace.nodes[at].parent
            fork = forks.get(at)
            if fork is None or fork.kind == "agent":
                return fork is not None
            at = fork.origin

    order = sorted(range(len(trace.nodes)), key=lambda at: not of_sub_agent(at))
    places = {at: place for place, at in enumerate(order)} | {-1: -1}
    nodes = [trace.nodes[at] for at in order]
    return [(places[node.parent], node.message, node.sampled) for node in nodes]


def _trace(task: Any) -> Any:
    import verifiers.v1 as vf
    from verifiers.v1.state import state_cls

    return vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=getattr(task, "hash", None)),
        agent=vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig())),
        state=state_cls(type(task))(),
    )


async def _called(hook: Any, state: TasksetState) -> None:
    from verifiers.v1.utils.decorators import invoke

    result = invoke(hook, {"task": state.task.data, "trace": state.trace, "runtime": state.runtime})
    if inspect.isawaitable(result):
        await result


def _required(hook: Any, name: str) -> bool:
    parameter = inspect.signature(hook).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"their_{name}"
    taken.add(name)
    return name


def _own(state: State) -> TasksetState:
    if not isinstance(state, TasksetState):
        raise EnvError(f"verifiers: got a state of type {type(state).__name__}, expected the one from `setup`")
    return state
