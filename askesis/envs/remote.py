"""Episodes on other machines: actors hold an environment and the state of its episodes; here are proxies of them.

An environment knows nothing of it: `RemoteEnv` sets up, calls tools, lets answer and verifies where the state lives.
What needs no state (tasks, oracles, which harness) is asked of an environment here. A machine that is lost takes its
episodes with it; each of them ends typed, and is played again elsewhere.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from askesis.envs.registry import load_env
from askesis.envs.wrapping import WrappedEnv
from askesis.inference.actors import Actor, Answer, Gone, Mortal, answer
from askesis.types import (
    ConfigError,
    Env,
    EnvError,
    Limits,
    Message,
    Outcome,
    Reward,
    RunResult,
    Said,
    SandboxError,
    Session,
    Specialist,
    State,
    Task,
    Thinking,
    Tool,
    ToolError,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    in_line,
    was_in_line,
)

_AGAIN_S = 1.0
_SENT = ("task", "seed", "thinking", "limits", "messages", "specialist", "ended")  # what a tool sees of its session


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What is known of an episode when it was set up. sandbox: whether its state has one."""

    tools: Sequence[ToolSpec]
    specialists: Sequence[Specialist]
    opening: Sequence[Message]
    sandbox: bool


@dataclass(slots=True)
class View:
    """A tool's session where the tool runs: what it says of itself, and how a tool may end it; nothing else."""

    task: Task
    seed: int
    thinking: Thinking
    limits: Limits
    messages: Sequence[Message]
    specialist: str
    ended: bool
    ends: list[tuple[Outcome | None, str]] = field(default_factory=list)

    def end(self, outcome: Outcome | None, *, log: str = "") -> None:
        """See `types.Session`; said there when the tool has returned."""
        self.ends.append((outcome, log))
        self.ended = self.ended or outcome is not None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ToolError(
            f"session.{name}: a tool that runs on another machine has {', '.join(_SENT)} and end() of its session; run "
            "environments whose tools need more in the trainer's process (cluster.envs = 0)"
        )


class EnvHost(Mortal):
    """An actor with an environment (by name and options, made at the first request) and the episodes that it plays."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name, self._options = name, options
        self._made: Env | None = None
        self._episodes: dict[str, tuple[Task, State, Sequence[Tool]]] = {}
        self._opening: set[str] = set()
        self._unwanted: set[str] = set()

    @property
    def _env(self) -> Env:
        if self._made is None:
            self._made = load_env(self._name, **self._options)
        return self._made

    async def ready(self) -> Answer:
        """Make the environment; its name."""

        async def look() -> str:
            return self._env.name

        return await answer(look())

    async def setup(self, episode: str, task: Task) -> Answer:
        """Set up an episode under that name; what is known of it then."""
        return await answer(self._setup(episode, task))

    async def _setup(self, episode: str, task: Task) -> Opened:
        env: Any = self._env
        self._opening.add(episode)
        try:
            state = await env.setup(task)
        finally:
            self._opening.discard(episode)
        try:
            tools = env.tools(task, state)
            specialists = env.specialists(task, state) if hasattr(env, "specialists") else ()
            opening = env.opening(task, state) if hasattr(env, "opening") else ()
            if episode in self._unwanted:
                raise EnvError("nobody waits for this episode any more")
        except BaseException:
            self._unwanted.discard(episode)
            await state.close()
            raise
        self._episodes[episode] = (task, state, tools)
        return Opened(
            tools=[tool.spec for tool in tools],
            specialists=tuple(specialists),
            opening=tuple(opening),
            sandbox=getattr(state, "sandbox", None) is not None,
        )

    def _episode(self, episode: str) -> tuple[Task, Any, Sequence[Tool]]:
        if episode not in self._episodes:
            raise Gone("the machine that held this episode was started again, and no longer knows it")
        return self._episodes[episode]

    async def call(self, episode: str, place: int, args: Mapping[str, Any], sent: Mapping[str, Any]) -> Answer:
        """Call a tool; its result, and what it said of its session's end, in order."""

        async def work() -> tuple[ToolResult, Sequence[tuple[Outcome | None, str]]]:
            view: Any = View(**sent)
            result = await self._episode(episode)[2][place](args, view)
            return result, view.ends

        return await answer(work())

    async def hook(self, episode: str, name: str, given: Any) -> Answer:
        """`respond` or `stops`."""

        async def work() -> Any:
            env: Any = self._env
            return await getattr(env, name)(given, self._episode(episode)[1])

        return await answer(work())

    async def verify(self, episode: str, trace: Trace) -> Answer:
        """The verdict."""

        async def work() -> Sequence[Reward]:
            return tuple(await self._env.verify(trace, self._episode(episode)[1]))

        return await answer(work())

    async def sandbox(self, episode: str, method: str, args: Sequence[Any], how: Mapping[str, Any]) -> Answer:
        """A call of the episode's sandbox."""

        async def work() -> Any:
            return await getattr(self._episode(episode)[1].sandbox, method)(*args, **how)

        return await answer(work())

    async def close(self, episode: str) -> Answer:
        """Close an episode, also one whose setting up is still on its way."""

        async def work() -> None:
            if episode in self._episodes:
                await self._episodes.pop(episode)[1].close()
            elif episode in self._opening:
                self._unwanted.add(episode)

        return await answer(work())

    async def forget(self) -> Answer:
        """Close all episodes: whoever had them has given this machine up, and has come back to it."""
        return await answer(self._forget())

    async def _forget(self) -> None:
        self._unwanted |= self._opening
        episodes, self._episodes = self._episodes, {}
        for _, state, _ in episodes.values():
            with suppress(Exception):
                await state.close()

    async def shut(self) -> Answer:
        """Close all episodes and the environment."""

        async def work() -> None:
            await self._forget()
            if self._made is not None:
                await self._made.close()

        return await answer(work())


@dataclass(slots=True, eq=False)
class _Host:
    """An actor as it is seen from here. why_out: empty while it takes episodes."""

    actor: Actor
    why_out: str = "it is starting"
    episodes: set[str] = field(default_factory=set)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    process: int = 0

    async def ask(self, method: str, *args: Any) -> Any:
        """Its answer, read; what was not its own time counts as time in line. Raises `Gone`, also when it is lost."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        work = asyncio.ensure_future(self.actor.ask(method, *args))
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Gone(f"{self.actor.what} was given up: {self.why_out}")
            try:
                found = work.result()
            except Gone as error:  # it takes no further episode, though it has the fewest now
                self.lose(str(error))
                raise
        finally:
            lost.cancel()
            if not work.done():
                work.cancel()
        was_in_line(clock() - begun - found.own_s)
        return found.read()

    def lose(self, why: str) -> None:
        """Give up all that it holds."""
        self.why_out = why
        self.lost.set()


class RemoteState:
    """An episode that another machine holds."""

    def __init__(self, host: _Host, id: str, opened: Opened) -> None:
        self.host, self.id, self.opened = host, id, opened
        self.sandbox = RemoteSandbox(self) if opened.sandbox else None
        self._closed = False

    async def close(self) -> None:
        """Close it there. A machine that is gone has nothing to close."""
        if not self._closed:
            self._closed = True
            self.host.episodes.discard(self.id)
            with suppress(Gone):
                await self.host.ask("close", self.id)


class RemoteSandbox:
    """An episode's sandbox on another machine: to run programs and to read and write files."""

    def __init__(self, state: RemoteState) -> None:
        self._state = state

    async def run(self, argv: Sequence[str], **how: Any) -> RunResult:
        """See `types.Sandbox`. A door leads to this machine, so there can be none; nor can it be stopped from here."""
        for name in ("door", "stop"):
            if how.pop(name, None) is not None:
                raise ConfigError(
                    f"sandbox.run({name}=...): this sandbox is on another machine; agents whose program speaks to the "
                    "gateway need environments in the trainer's process (cluster.envs = 0)"
                )
        result: RunResult = await self._ask("run", argv, **how)
        return result

    async def python(self, code: str, **how: Any) -> RunResult:
        """See `types.Sandbox`."""
        result: RunResult = await self._ask("python", code, **how)
        return result

    async def read(self, path: str) -> bytes:
        """See `types.Sandbox`."""
        content: bytes = await self._ask("read", path)
        return content

    async def write(self, path: str, data: bytes) -> None:
        """See `types.Sandbox`."""
        await self._ask("write", path, data)

    async def paths(self) -> Sequence[str]:
        """See `types.Sandbox`."""
        found: Sequence[str] = await self._ask("paths")
        return found

    async def terminal(self, *args: Any, **how: Any) -> Any:
        """There is none across machines."""
        raise ConfigError("sandbox.terminal: this sandbox is on another machine, from which no live terminal comes")

    async def snapshot(self) -> Any:
        """There is none across machines."""
        raise ConfigError("sandbox.snapshot: this sandbox is on another machine; read its files instead")

    async def close(self) -> None:
        """Its state closes it."""

    async def _ask(self, method: str, *args: Any, **how: Any) -> Any:
        try:
            return await self._state.host.ask("sandbox", self._state.id, method, args, how)
        except Gone as error:
            raise SandboxError(str(error)) from error


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool of an episode that another machine holds. place: among the episode's tools."""

    state: RemoteState
    spec: ToolSpec
    place: int

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        """Call it there."""
        sent = {name: getattr(session, name) for name in _SENT if hasattr(session, name)}
        sent = {"specialist": "", "ended": False, **sent, "messages": tuple(session.messages)}
        try:
            result, ends = await self.state.host.ask("call", self.state.id, self.place, dict(args), sent)
        except Gone as error:
            raise ToolError(str(error)) from error
        for outcome, log in ends:
            session.end(outcome, log=log)
        found: ToolResult = result
        return found


class RemoteEnv(WrappedEnv):
    """The environment `name` with its `options` in `hosts` actors, spread over the machines of the cluster.

    inner: the same environment here, for what needs no episode. cpus: of each actor. silent_s: an actor that gives no
    sign of life for so long is given up and started again. patience_s: how long a set-up waits where none is there.
    """

    def __init__(
        self,
        inner: Env,
        name: str,
        options: Mapping[str, Any],
        *,
        hosts: int = 2,
        cpus: float = 1.0,
        silent_s: float = 60.0,
        patience_s: float = 120.0,
        before: Callable[[Actor], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(inner)
        if hosts < 1:
            raise ConfigError(f"remote environment {name!r}: hosts={hosts}, expected at least 1")
        self._silent_s, self._patience_s = silent_s, patience_s
        self._hosts = [
            _Host(Actor(EnvHost, name, dict(options), what=f"host {n} of {name!r}", cpus=cpus, before=before))
            for n in range(hosts)
        ]
        self._changed = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        value = getattr(self.inner, name)
        if name == "opening":
            return lambda task, state: state.opened.opening
        if name in ("respond", "stops"):
            return lambda given, state: self._hook(name, given, state)
        return value

    # -- who is there ------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> list[tuple[str, int, str]]:
        """Each actor: what it is, how many episodes it holds, and why it takes none (empty if it does)."""
        return [(one.actor.what, len(one.episodes), one.why_out) for one in self._hosts]

    async def ready(self, seconds: float) -> None:
        """Wait until one of them has made the environment. Raises what is wrong with it, and `EnvError`."""
        self._begin()
        asking = [asyncio.ensure_future(self._made_by(one)) for one in self._hosts]
        try:
            done, _ = await asyncio.wait(asking, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not done:
            raise EnvError(
                f"environment {self.name!r}: no machine of the cluster has started it within {seconds:g} s "
                f"({'; '.join(f'{one.actor.what}: {one.why_out}' for one in self._hosts)}). Has the cluster as many "
                "free CPUs as cluster.envs x cluster.env_cpus (`ray status`), and Askesis installed?"
            )

    async def _made_by(self, host: _Host) -> None:
        """Ask for it until it answers: one that is lost at first is started again."""
        while True:
            try:
                await host.ask("ready")
                return
            except Gone:
                await asyncio.sleep(_AGAIN_S)

    def _begin(self) -> None:
        """Look after the actors, in this event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._changed = loop, asyncio.Event()
            for host in self._hosts:
                host.lost = asyncio.Event()
            self._keepers = [asyncio.create_task(self._keep(one), name="askesis-host") for one in self._hosts]

    async def _keep(self, host: _Host) -> None:
        """See whether it lives, again and again; one that was started again has forgotten its episodes."""
        while True:
            try:
                process = (await asyncio.wait_for(host.actor.ask("ping"), self._silent_s)).value
                if host.why_out and host.process == process:  # else it has forgotten by itself
                    await asyncio.wait_for(host.actor.ask("forget"), self._silent_s)
            except Gone as error:
                host.lose(str(error))
            except TimeoutError:
                if not host.why_out:  # one that has never answered is starting
                    host.lose(f"it was silent for {self._silent_s:g} s")
                    host.actor.kill(restart=True)
            else:
                if host.process not in (0, process):
                    host.lose("its process was started again")
                if host.why_out:
                    host.process, host.why_out, host.lost = process, "", asyncio.Event()
                    host.episodes.clear()
                    self._changed.set()
            await asyncio.sleep(min(1.0, self._silent_s / 4))

    async def _choose(self) -> _Host:
        """The one with the fewest episodes; waits while there is none."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience_s
        while True:
            able = [one for one in self._hosts if not one.why_out]
            if able:
                return min(able, key=lambda one: len(one.episodes))
            left = end - loop.time()
            if left <= 0:
                reasons = "; ".join(f"{one.actor.what}: {one.why_out}" for one in self._hosts)
                raise EnvError(f"environment {self.name!r}: no machine takes episodes ({reasons})")
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    # -- episodes ----------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> State:
        """An episode on the machine that has the fewest."""
        self._begin()
        with in_line():
            host = await self._choose()
        id = secrets.token_hex(8)
        host.episodes.add(id)
        try:
            opened = await host.ask("setup", id, task)
        except Gone as error:
            host.episodes.discard(id)
            raise EnvError(str(error)) from error
        except BaseException:
            host.episodes.discard(id)
            host.actor.tell("close", id)
            raise
        return RemoteState(host, id, opened)

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """Proxies of the episode's."""
        assert isinstance(state, RemoteState)
        return [RemoteTool(state, spec, place) for place, spec in enumerate(state.opened.tools)]

    def specialists(self, task: Task, state: State) -> Sequence[Specialist]:
        """The episode's."""
        assert isinstance(state, RemoteState)
        return state.opened.specialists

    async def _hook(self, name: str, given: Any, state: State) -> Said | Outcome | None:
        assert isinstance(state, RemoteState)
        try:
            found: Said | Outcome | None = await state.host.ask("hook", state.id, name, given)
        except Gone as error:
            raise EnvError(str(error)) from error
        return found

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """The verdict, made where the episode's state is."""
        assert isinstance(state, RemoteState)
        try:
            found: Sequence[Reward] = await state.host.ask("verify", state.id, trace)
        except Gone as error:
            raise VerifierError(str(error)) from error
        return found

    async def close(self) -> None:
        """Close it everywhere, and end the actors."""
        for keeper in self._keepers:
            keeper.cancel()
        shutting = [asyncio.ensure_future(one.actor.ask("shut")) for one in self._hosts if not one.why_out]
        if shutting:
            await asyncio.wait(shutting, timeout=10.0)
        for one in shutting:
            one.cancel()
        await asyncio.gather(*shutting, return_exceptions=True)
        for host in self._hosts:
            host.actor.kill(restart=False)
        await self.inner.close()
