"""Episodes that another process holds: the same as here, and typed where that process is gone. Without Ray: an actor is
an object here whose every request and answer is pickled."""

import asyncio
import pickle
from typing import ClassVar

import pytest

from askesis.agents import SoloAgent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env, remote
from askesis.inference.actors import Gone
from askesis.rollout import EpisodeSpec, PolicySpeakers, Roller
from askesis.types import (
    Outcome,
    Reward,
    Said,
    Task,
    Thinking,
    ToolError,
    ToolResult,
    ToolSpec,
    assistant,
    user,
)

RENDERER = Qwen3Renderer(train_bpe(["view the file, replace a line, submit"] * 3, 300))


class Double:
    """In the place of `Actor`."""

    made: ClassVar[list] = []

    def __init__(self, kind, *args, what, cpus, gpus=0.0, before=None):
        self.kind, self.args, self.what, self.asked, self.dead = kind, pickle.dumps(args), what, [], False
        self.host = kind(*args)
        Double.made.append(self)

    async def ask(self, method, *args):
        self.asked.append(method)
        if self.dead:
            raise Gone(f"{self.what} is gone")
        found = await getattr(self.host, method)(*pickle.loads(pickle.dumps(args)))
        if self.dead:
            raise Gone(f"{self.what} is gone")
        return pickle.loads(pickle.dumps(found))

    def tell(self, method, *args):
        self.asked.append(method)

    def kill(self, *, restart):
        self.dead = True

    def restart(self):
        self.host, self.dead = self.kind(*pickle.loads(self.args)), False


@pytest.fixture
def actors(monkeypatch):
    monkeypatch.setattr(remote, "Actor", Double)
    monkeypatch.setattr(Double, "made", [])
    return Double.made


def of(name, **more):
    return remote.RemoteEnv(load_env(name), name, {}, silent_s=0.4, patience_s=5.0, **more)


async def played(env, tasks, policy, **options):
    roller = Roller(
        PolicySpeakers(policy=lambda spec: policy(spec.task), renderer=RENDERER),
        RENDERER,
        env,
        SoloAgent(),
        **options,
    )
    off = Thinking(enabled=False)
    specs = [EpisodeSpec(task=task, thinking=off, group=str(n), seed=n) for n, task in enumerate(tasks)]
    return await roller.run(specs)


def told(trace):
    return [node.message.text for node in trace.nodes], [(term.name, term.value) for term in trace.rewards]


async def test_episodes_elsewhere_are_those_here(actors):
    """The oracle of `repair` sees and is paid the same, and its episodes are spread over the actors."""
    here, there = load_env("repair"), of("repair")
    await there.ready(10.0)
    tasks = here.tasks("heldout", limit=4)
    assert list(there.tasks("heldout", limit=4)) == list(tasks)
    ours, theirs = await played(here, tasks, here.oracle), await played(there, tasks, there.oracle)
    assert [told(trace) for trace in theirs] == [told(trace) for trace in ours]
    assert all(trace.success for trace in theirs)
    assert [one.asked.count("setup") for one in actors] == [2, 2]
    assert [len(one.host._episodes) for one in actors] == [0, 0]
    state = await there.setup(tasks[0])
    assert (await state.sandbox.read("solution.py")).decode() == tasks[0].data["source"]
    with pytest.raises(FileNotFoundError):
        await state.sandbox.read("nothing")
    await state.close()
    await here.close()
    await there.close()
    assert all(one.dead for one in actors)


async def test_a_machine_that_is_lost_takes_its_episodes_and_nothing_else(actors):
    """They end typed and are played again elsewhere; the machine is used again when it is back."""
    there = of("repair")
    tasks = there.tasks("heldout", limit=6)
    await there.ready(10.0)
    done = []

    class Killing:
        def __init__(self, task):
            self.inner, self.turns, self.task = there.oracle(task), 0, task

        def act(self, messages, thinking):
            self.turns += 1
            if self.task is tasks[0] and self.turns == 2 and not done:
                done.append(actors[0])
                actors[0].dead = True
            return self.inner.act(messages, thinking)

    traces = []
    finals = await played(there, tasks, Killing, on_trace=traces.append)
    broken = [trace.outcome for trace in traces if not trace.outcome.learnable]
    assert 1 <= len(broken) <= 3  # what it held
    assert {outcome.by for outcome in broken} <= {"tool", "verifier", "environment"}
    assert all("is gone" in outcome.detail for outcome in broken)
    assert all(trace.success for trace in finals)
    actors[0].restart()
    for _ in range(200):
        if not there.hosts[0][2]:
            break
        await asyncio.sleep(0.05)
    assert (await played(there, tasks[:1], there.oracle))[0].success
    await there.close()


async def test_a_process_that_was_started_again_knows_no_episode_of_before(actors):
    there = of("repair", hosts=1)
    task = there.tasks("heldout", limit=1)[0]
    state = await there.setup(task)
    actors[0].restart()
    tool = next(tool for tool in there.tools(task, state) if tool.spec.name == "view")

    class Session:
        seed, messages, thinking, limits = 0, (), Thinking(), task.limits

        def __init__(self):
            self.task = task

    with pytest.raises(ToolError, match="no longer knows it"):
        await tool({}, Session())
    await state.close()
    await there.close()


async def test_a_machine_that_falls_silent_is_given_up(actors):
    there = of("repair", hosts=2)
    await there.ready(10.0)
    task = there.tasks("heldout", limit=1)[0]
    state = await there.setup(task)
    held = next(one for one in actors if one.host._episodes)
    silent = asyncio.Event()

    async def never(*args):
        await silent.wait()

    held.host.ping = held.host.verify = never
    with pytest.raises(Exception, match="was silent for"):
        await asyncio.wait_for(there.verify(None, state), 10)
    assert held.dead
    await there.close()


async def test_a_machine_that_was_given_up_and_lives_closes_what_nobody_asks_for_any_more(actors, monkeypatch):
    """Also an episode whose setting up was still on its way."""
    there = of("repair", hosts=1)
    await there.ready(10.0)
    (actor,), tasks = actors, there.tasks("heldout", limit=2)
    await there.setup(tasks[0])
    (held,) = [state for _, state, _ in actor.host._episodes.values()]
    closed, close = [], type(held).close

    async def closing(state):
        closed.append(state)
        await close(state)

    monkeypatch.setattr(type(held), "close", closing)
    go, env = asyncio.Event(), actor.host._env
    setup = env.setup

    async def slowly(task):
        await go.wait()
        return await setup(task)

    env.setup = slowly
    late = asyncio.create_task(actor.host.setup("late", tasks[1]))  # which nobody could cancel
    await asyncio.sleep(0.01)
    there._hosts[0].lose("it was silent")
    for _ in range(200):
        if not there.hosts[0][2]:
            break
        await asyncio.sleep(0.02)
    assert closed == [held] and there.hosts[0][1:] == (0, "")
    go.set()
    assert "nobody waits" in (await asyncio.wait_for(late, 10)).failure[1]
    assert len(closed) == 2 and actor.host._episodes == {}
    await there.close()


async def test_what_a_tool_elsewhere_says_of_its_sessions_end_is_said_here(actors):
    there = remote.RemoteEnv(Talking(), f"{__file__}:Talking", {})
    task = there.tasks("train")[0]
    state = await there.setup(task)
    ends = []

    class Session:
        seed, messages, thinking, limits, ended = 0, (), Thinking(), task.limits, False

        def end(self, outcome, *, log=""):
            ends.append((outcome and outcome.reason, log))

    Session.task = task
    tool = next(tool for tool in there.tools(task, state) if tool.spec.name == "stop")
    await tool({}, Session())
    assert ends == [(None, "the program's last words"), ("left after 0", "")]
    await there.close()


class Talking:
    """Speaks first, answers, ends by itself, and has a tool that ends the session and one that wants too much."""

    name = "talking"

    def tasks(self, split, *, seed=0, limit=None):
        return [Task(env=self.name, prompt="unused", split=split)]

    async def setup(self, task):
        return TalkingState()

    def tools(self, task, state):
        return [Tells(name, state) for name in ("leave", "spawn", "stop")]

    def opening(self, task, state):
        return [user("Good morning.")]

    async def respond(self, message, state):
        state.heard.append(message.text)
        return Said(messages=[user("Go on.")]) if len(state.heard) < 2 else None

    async def stops(self, messages, state):
        return Outcome(by="policy", reason="enough") if len(messages) > 20 else None

    async def verify(self, trace, state):
        return [Reward(name="success", value=float(len(state.heard)))]

    async def close(self):
        """Nothing is held."""


class TalkingState:
    def __init__(self):
        self.heard = []

    async def close(self):
        """Nothing is held."""


class Tells:
    def __init__(self, name, state):
        self.state = state
        self.spec = ToolSpec(name=name, description=name, parameters={"type": "object", "properties": {}})

    async def __call__(self, args, session):
        if self.spec.name == "spawn":
            await session.spawn("help")
        if self.spec.name == "stop":
            session.end(None, log="the program's last words")
            assert not session.ended
        session.end(Outcome(by="policy", reason=f"left after {len(session.messages)}"))
        return ToolResult(text="bye")


@pytest.mark.parametrize(
    ("says", "reason", "reward"),
    [
        (["one", "two"], "stopped", 2.0),
        (["one", "leave"], "left after 4", 1.0),
        (["spawn"], "error", None),
    ],
)
async def test_what_an_environment_may_do_it_may_do_elsewhere(actors, says, reason, reward):
    from askesis.types import ToolCall

    class Speaks:
        def __init__(self, task):
            self.left = list(says)

        def act(self, messages, thinking):
            word = self.left.pop(0)
            if word in ("leave", "spawn"):
                return assistant(tool_calls=(ToolCall(id="call_0", name=word, arguments={}),))
            return assistant(word)

    there = remote.RemoteEnv(Talking(), f"{__file__}:Talking", {})
    trace = (await played(there, there.tasks("train"), Speaks, retries=0))[0]
    assert trace.outcome.reason == reason, trace.outcome
    assert trace.nodes[0].message.text == "Good morning."
    assert [term.value for term in trace.rewards] == ([] if reward is None else [reward])
    if reward is None:
        assert trace.outcome.by == "tool"
        assert "session.spawn: a tool that runs on another machine" in trace.outcome.detail
    await there.close()
