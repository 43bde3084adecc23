"""One episode, start to end: set up, let the agent play, verify, pay, close. A bad rollout is data, not a crash.

Invariant: a started episode gives exactly one `Trace`, whatever fails; and its state is closed, its engine session
released.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.rollout.bounded import bounded, finished
from askesis.rollout.costs import Costs
from askesis.rollout.hosted import Reach
from askesis.rollout.hosting import Reception
from askesis.rollout.session import EpisodeEnded, EpisodeOptions, EpisodeSession, Meter
from askesis.rollout.speakers import EpisodeSpec, Speaker, Speakers
from askesis.types import (
    Agent,
    ConfigError,
    Door,
    Env,
    EnvError,
    Message,
    Outcome,
    Renderer,
    Reward,
    Said,
    SandboxError,
    Specialist,
    State,
    Task,
    Timing,
    Tool,
    Trace,
    VerifierError,
    counted,
    nearest,
)

PORT = 7007  # of the door, inside the sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every episode of a run is played with. reception: where an agent's program reaches its episode."""

    speakers: Speakers
    renderer: Renderer
    env: Env
    agent: Agent
    reception: Reception | None = None
    options: EpisodeOptions = field(default_factory=EpisodeOptions)
    costs: Costs = field(default_factory=Costs)
    meter: Meter = field(default_factory=Meter)


async def run_episode(spec: EpisodeSpec, stage: Stage) -> Trace:
    """Play one attempt at one episode. Raises nothing.

    Run it in a task of its own: cancelling that task makes it close up and return a trace with outcome `cancelled`.
    What was cancelled though nobody asked for it is a failure of the agent, as any other exception of its would be.
    """
    episode = _Episode(spec=spec, stage=stage)
    try:
        await episode.play()
    except asyncio.CancelledError:
        ended = Outcome(by="cancelled", reason="cancelled") if _asked_to_end() else _from_within()
        episode.outcome, episode.rewards = ended, ()
    except Exception as error:  # ours to repair, but no reason to lose the episode or the run
        episode.outcome, episode.rewards = Outcome(by="engine", reason="internal", detail=repr(error)), ()
    await episode.close()
    return episode.trace()


@dataclass(slots=True, kw_only=True)
class _Episode:
    spec: EpisodeSpec
    stage: Stage
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    name: str = field(default_factory=lambda: secrets.token_hex(16))  # at the gateway: nobody else can guess it
    outcome: Outcome = field(default_factory=lambda: Outcome(by="cancelled", reason="cancelled"))
    rewards: tuple[Reward, ...] = ()
    session: EpisodeSession | None = None
    speaker: Speaker | None = None
    state: State | None = None
    begun: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    setup_s: float = 0.0
    verify_s: float = 0.0
    closed: bool = False

    async def play(self) -> None:
        clock = asyncio.get_running_loop().time
        failure = await self._set_up()
        self.setup_s = clock() - self.begun
        if failure is not None:
            self.outcome = failure
            return
        await self._act()
        if not self.outcome.learnable:
            return
        begun = clock()
        await self._verify()
        self.verify_s = clock() - begun

    async def _set_up(self) -> Outcome | None:
        """Make state, speaker and session; what went wrong, or None."""
        spec, stage = self.spec, self.stage
        try:
            await bounded(self._keep_state(), stage.options.setup_s)
            assert self.state is not None
            own, foreseen = shared_out(stage.env, spec.task, self.state)
            self.speaker = stage.speakers.open(spec, self.id)
            self.session = EpisodeSession(
                spec=spec,
                speaker=self.speaker,
                renderer=stage.renderer,
                toolset=own,
                foreseen=foreseen,
                opens=_opening(stage.env, spec.task, self.state),
                responds=_responds(stage.env, self.state),
                stops=_stops(stage.env, self.state),
                place=getattr(self.state, "sandbox", None),
                options=stage.options,
                clock=asyncio.get_running_loop().time,
                meter=stage.meter,
            )
            if stage.reception is not None:
                path = await stage.reception.admit(self.name, self.session.host)
                url = f"http://127.0.0.1:{PORT}/s/{self.name}"
                self.session.reach = Reach(url=url, door=Door(port=PORT, path=path))
        except (EnvError, ConfigError) as error:
            return Outcome(by="environment", reason="setup", detail=str(error))
        except SandboxError as error:
            return Outcome(by="sandbox", reason="setup", detail=str(error))
        except TimeoutError as error:
            return Outcome(by="environment", reason="setup_timeout", detail=str(error))
        except Exception as error:
            return Outcome(by="environment", reason="setup", detail=f"{type(error).__name__}: {error}")
        return None

    async def _keep_state(self) -> None:
        """Set up. A state that comes when nobody waits for it any more is closed at once."""
        state = await self.stage.env.setup(self.spec.task)
        if self.closed:
            await state.close()
        else:
            self.state = state

    async def _act(self) -> None:
        session = self.session
        assert session is not None
        try:
            with counted(session.waits_here):
                await self.stage.agent.run(session)
        except EpisodeEnded:
            pass
        except asyncio.CancelledError:
            if _asked_to_end():
                raise
            session.outcome = session.outcome or _from_within()
        except Exception as error:
            failure = Outcome(by="agent", reason="error", detail=f"{type(error).__name__}: {error}")
            session.outcome = session.outcome or failure
        await session.settle()
        self.outcome = session.conclude()

    async def _verify(self) -> None:
        """Have the environment judge, and charge the costs. Who fails at it, verifier or environment, has ended it."""
        stage, played = self.stage, self.trace()
        assert self.state is not None
        try:
            longest_s = max(stage.options.verify_s, getattr(stage.env, "verify_s", 0.0))
            verdict = await bounded(_verdict(stage.env, played, self.state), longest_s)
            for term in verdict:
                if not math.isfinite(term.value * term.weight):
                    raise VerifierError(
                        f"reward {term.name!r} is {term.value} x {term.weight}, expected finite numbers"
                    )
            costs = stage.costs.terms(verdict, thinking_tokens=played.thinking_tokens, turns=played.turns)
            self.rewards = (*verdict, *costs)
        except Exception as error:
            reason = "timeout" if isinstance(error, TimeoutError) else "error"
            ended = f"{self.outcome.by}, {self.outcome.reason}"
            detail = f"{type(error).__name__}: {error} (the episode itself had ended by {ended})"
            failed = isinstance(error, EnvError)
            self.outcome = Outcome(by="environment" if failed else "verifier", reason=reason, detail=detail)

    async def close(self) -> None:
        """Release and close what there is; never fails, and finishes even while being cancelled."""
        if self.outcome.by == "cancelled" and self.session is not None:
            what = f"stopping the agents of episode {self.id} of task {self.spec.task.id}"
            await finished(self.session.settle(), self.stage.options.close_s, what)
            self.session.outcome = self.outcome
            self.outcome = self.session.conclude()
        self.closed = True
        await finished(
            self._release(), self.stage.options.close_s, f"closing episode {self.id} of task {self.spec.task.id}"
        )

    async def _release(self) -> None:
        try:
            if self.session is not None:
                await self.session.settle()
            if self.stage.reception is not None:
                await self.stage.reception.dismiss(self.name)
            if self.speaker is not None:
                self.speaker.close()
        finally:
            if self.state is not None:
                await self.state.close()

    def trace(self) -> Trace:
        """The episode as it stands."""
        spec, session = self.spec, self.session
        return Trace(
            id=self.id,
            task=spec.task,
            harness=self.stage.agent.name,
            nodes=tuple(session.nodes) if session is not None else (),
            rewards=self.rewards,
            outcome=self.outcome,
            timing=Timing(
                setup_s=self.setup_s,
                engine_s=session.engine_s if session is not None else 0.0,
                tool_s=session.tool_s if session is not None else 0.0,
                verify_s=self.verify_s,
                total_s=asyncio.get_running_loop().time() - self.begun,
            ),
            thinking=spec.thinking,
            tool_events=tuple(session.events) if session is not None else (),
            seed=spec.seed,
            attempt=spec.attempt,
            temperature=self.stage.options.temperature,
            group=spec.group,
            log=session.log if session is not None else "",
            forks=session.forks if session is not None else (),
            artifacts=tuple(session.artifacts) if session is not None else (),
        )


def shared_out(env: Env, task: Task, state: State) -> tuple[Sequence[Tool], list[tuple[Specialist, Sequence[Tool]]]]:
    """The tools of an episode's own agent, and those of each specialist that the environment foresees.

    Raises `ConfigError` for two tools or specialists of one name, and for a specialist's tool that there is not.
    """
    tools: dict[str, Tool] = {}
    for tool in env.tools(task, state):
        if tools.setdefault(tool.spec.name, tool) is not tool:
            raise ConfigError(f"environment {env.name!r}: two tools share a name: {tool.spec.name!r}")
    foresees = getattr(env, "specialists", None)
    foreseen: Sequence[Specialist] = () if foresees is None else foresees(task, state)
    names = [specialist.name for specialist in foreseen]
    if len({*names}) != len(names) or "" in names:
        raise ConfigError(f"environment {env.name!r}: specialists {names}: expected names, each of them once")
    for specialist in foreseen:
        for name in specialist.tools:
            if name not in tools:
                raise ConfigError(
                    f"environment {env.name!r}: specialist {specialist.name!r} has a tool {name!r}"
                    f"{nearest(name, tools)} that is none of the episode's: {', '.join(tools)}"
                )
    theirs = {name for specialist in foreseen for name in specialist.tools}
    return (
        [tool for name, tool in tools.items() if name not in theirs],
        [(specialist, [tools[name] for name in specialist.tools]) for specialist in foreseen],
    )


def _asked_to_end() -> bool:
    """Whether somebody cancels this task: what an agent awaits may have been cancelled, which looks the same to it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _from_within() -> Outcome:
    return Outcome(by="agent", reason="error", detail="what the agent awaited was cancelled, though nobody ended it")


def _opening(env: Env, task: Task, state: State) -> Sequence[Message]:
    opening = getattr(env, "opening", None)
    return () if opening is None else tuple(opening(task, state))


def _responds(env: Env, state: State) -> Callable[[Message], Coroutine[Any, Any, Said | None]] | None:
    respond = getattr(env, "respond", None)
    return None if respond is None else lambda message: respond(message, state)


def _stops(env: Env, state: State) -> Callable[[Sequence[Message]], Coroutine[Any, Any, Outcome | None]] | None:
    stops = getattr(env, "stops", None)
    return None if stops is None else lambda messages: stops(messages, state)


async def _verdict(env: Env, trace: Trace, state: State) -> Sequence[Reward]:
    return tuple(await env.verify(trace, state))
