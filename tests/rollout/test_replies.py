"""Environments that speak: how a conversation begins, what a turn that calls nothing is answered, how that ends."""

import asyncio
from dataclasses import dataclass, field

import pytest

from askesis.agents import SoloAgent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs.wrapping import WrappedEnv
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import EnvError, Limits, Outcome, Reward, Said, Task, Thinking, ToolCall, assistant, system, user

RENDERER = Qwen3Renderer(train_bpe(["reply"], 300))


@dataclass
class State:
    heard: list = field(default_factory=list)

    async def close(self): ...


class Echo:
    """Says back what it hears, twice; then ends, or falls silent."""

    name = "echo"

    def __init__(self, last=None, slow=False):
        self.last, self.slow = last, slow

    def tasks(self, split, *, seed=0, limit=None):
        return [Task(env="echo", prompt="p", limits=Limits(max_turns=5, tool_s=0.1 if self.slow else 60.0))]

    async def setup(self, task):
        return State()

    def opening(self, task, state):
        return [system("be brief"), user("hello"), assistant("hi"), user("go")]

    def tools(self, task, state):
        return ()

    async def respond(self, message, state):
        state.heard.append(message.text)
        if self.slow:
            await asyncio.sleep(60)
        if len(state.heard) == 3:
            if isinstance(self.last, Exception):
                raise self.last
            return self.last
        return Said(messages=[user(f"you said {message.text}")])

    async def verify(self, trace, state):
        return [Reward(name="success", value=float(len(state.heard)))]

    async def close(self): ...


class Counter:
    def __init__(self):
        self.n = 0

    def act(self, messages, thinking):
        self.n += 1
        return assistant(str(self.n))


async def played(env, instructions=None):
    speakers = PolicySpeakers(lambda spec: Counter(), RENDERER)
    stage = Stage(speakers=speakers, renderer=RENDERER, env=env, agent=SoloAgent(instructions=instructions))
    spec = EpisodeSpec(task=env.tasks("train")[0], thinking=Thinking(enabled=False), group="g", seed=0)
    return await run_episode(spec, stage)


ENDED = Outcome(by="policy", reason="finished")


@pytest.mark.parametrize("wrap", [lambda env: env, WrappedEnv])
@pytest.mark.parametrize(
    ("last", "outcome", "words"),
    [
        (None, ("policy", "stopped"), []),
        (Said(messages=[user("bye")], end=ENDED), ("policy", "finished"), ["bye"]),
        (Said(end=Outcome(by="limit", reason="moves")), ("limit", "moves"), []),
        (ValueError("no"), ("environment", "respond"), []),
        (Said(messages=[user("more")]), ("limit", "max_turns"), ["more", "you said 4", "you said 5"]),
    ],
)
async def test_a_conversation_is_as_long_as_the_environment_answers(wrap, last, outcome, words):
    trace = await played(wrap(Echo(last)))
    assert (trace.outcome.by, trace.outcome.reason) == outcome
    said = [node.message.text for node in trace.nodes if node.message.role == "user"]
    assert said[:4] == ["hello", "go", "you said 1", "you said 2"] and said[4:] == words[: len(said) - 4]
    assert [node.message.text for node in trace.nodes if node.sampled][:3] == ["1", "2", "3"]
    assert not trace.nodes[2].sampled and trace.nodes[2].message.text == "hi"
    assert bool(trace.rewards) == trace.outcome.learnable


async def test_one_that_does_not_answer_in_time_is_the_environments_failure():
    trace = await played(Echo(slow=True))
    assert (trace.outcome.by, trace.outcome.reason) == ("environment", "timeout")


async def test_instructions_and_its_system_message_are_one():
    trace = await played(Echo(), instructions="Think first.")
    assert [n.message.text for n in trace.nodes if n.message.role == "system"] == ["Think first.\n\nbe brief"]


class Strict(Echo):
    """Has no tools, and is asked after each turn whether that is enough."""

    def __init__(self, says):
        super().__init__()
        self.says = says

    async def stops(self, messages, state):
        state.heard.append([one.text for one in messages if one.role == "tool"])
        return await self.says(len(state.heard))

    async def verify(self, trace, state):
        assert state.heard[-1][0].startswith("error: no tool 'nope'")
        if trace.outcome.reason == "lost":
            raise EnvError("it had failed long before")
        return [Reward(name="success", value=float(len(state.heard)))]


class Caller(Counter):
    def act(self, messages, thinking):
        return assistant(tool_calls=(ToolCall(id="call_0", name="nope", arguments={}),))


async def _stops(number, reason="enough"):
    return Outcome(by="policy", reason=reason) if number == 2 else None


async def _raises(number):
    raise ValueError("no")


@pytest.mark.parametrize("wrap", [lambda env: env, WrappedEnv])
@pytest.mark.parametrize(
    ("says", "outcome", "asked"),
    [
        (_stops, ("policy", "enough"), 2),
        (lambda number: _stops(number - 9), ("limit", "max_turns"), 5),
        (_raises, ("environment", "stops"), None),
        (lambda number: _stops(number, "lost"), ("environment", "error"), None),
    ],
)
async def test_an_environment_may_stop_after_the_calls_of_a_turn_whatever_became_of_them(
    monkeypatch, wrap, says, outcome, asked
):
    monkeypatch.setattr(Counter, "act", Caller.act)
    trace = await played(wrap(Strict(says)))
    assert (trace.outcome.by, trace.outcome.reason) == outcome
    assert [term.value for term in trace.rewards] == ([asked] if asked else [])
