"""One episode: tokens exact, every end typed, nothing lost."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_doubles import (
    OFF,
    ON,
    RENDERER,
    ScriptedEngine,
    ToyEnv,
    call,
    line,
    says,
    toy_task,
)

from askesis.agents import SoloAgent, load_agent
from askesis.rollout import Costs, EngineSpeakers, EpisodeOptions, EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import (
    Artifact,
    ConfigError,
    ContextOverflow,
    EngineError,
    EnvError,
    Outcome,
    Reward,
    SandboxError,
    Thinking,
    ToolError,
    ToolResult,
    VerifierError,
    ids,
    in_line,
)
from bench.schedule_machine import in_virtual_time

SUBMIT = says("", call("submit"))


async def forever(*_):
    await asyncio.sleep(1e5)


async def stubborn(*_):
    """Hangs and will not be cancelled, at least not the first three times."""
    for _ in range(3):
        try:
            await asyncio.sleep(1e5)
        except asyncio.CancelledError:
            continue


def fails(error):
    async def fail(*_):
        raise error

    return fail


def stage(engine, env=None, agent=None, **rest):
    speakers = engine if isinstance(engine, PolicySpeakers) else EngineSpeakers(engine)
    return Stage(speakers=speakers, renderer=RENDERER, env=env or ToyEnv(), agent=agent or SoloAgent(), **rest)


def play(engine, *, task=None, thinking=OFF, cancel_at=None, **rest):
    made = stage(engine, **rest)

    async def main():
        spec = EpisodeSpec(task=task or toy_task(), thinking=thinking, group="g", seed=1)
        episode = asyncio.create_task(run_episode(spec, made))
        if cancel_at is not None:
            asyncio.get_running_loop().call_later(cancel_at, episode.cancel)
        return await episode

    trace = in_virtual_time(main)
    assert all(state.closed for state in made.env.states)
    if isinstance(engine, ScriptedEngine):
        check_tokens(trace, engine)
    return trace


def check_tokens(trace, engine):
    """What the trace holds is what the engine saw and sampled, bit for bit; only sampled tokens may carry loss."""
    requests = engine.requests.get(trace.id, [])
    assert engine.released == [trace.id] or not requests
    sampled = [i for i, node in enumerate(trace.nodes) if node.sampled]
    answered = [request for request in requests if request.completion is not None]
    assert [node.parent for node in trace.nodes] == list(range(-1, len(trace.nodes) - 1))
    for at, request in zip(sampled, answered, strict=False):  # one that was refused or interrupted left no node
        before = [node.token_ids for node in trace.nodes[:at]]
        assert np.array_equal(np.concatenate(before), request.tokens)
        node, said = trace.nodes[at], request.completion
        assert np.array_equal(node.token_ids, said.token_ids)
        assert np.array_equal(node.mask, ~said.forced)
        assert np.array_equal(node.logprobs, said.logprobs)
        assert np.array_equal(node.policy_versions, said.policy_versions)
    for node in trace.nodes:
        if not node.sampled:
            assert not node.mask.any() and not node.logprobs.any() and (node.policy_versions == -1).all()
    if sampled:
        [(tokens, mask, _, _)] = trace.sequences()
        seen = sampled[-1] + 1
        assert len(tokens) == sum(len(node.token_ids) for node in trace.nodes[:seen]), "no model saw what came after"
        assert mask.sum() == sum(int(node.mask.sum()) for node in trace.nodes)


def ended(trace):
    return trace.outcome.by, trace.outcome.reason


def test_an_episode_with_two_turns():
    script = line(says("So:", call("add", a=12, b=30)), says("", call("add", a=1, b=1), call("submit"), call("wait")))
    trace = play(ScriptedEngine(script, seconds=2.0), agent=SoloAgent(instructions="Be brief."))
    assert ended(trace) == ("policy", "submitted") and trace.success and trace.reward == 1.0
    assert [node.message.role for node in trace.nodes] == "system user assistant tool assistant tool tool".split()
    assert [node.message.text for node in trace.nodes[-2:]] == ["2", "submitted"], "the call after the end is not run"
    assert [(event.name, event.status, event.node) for event in trace.tool_events] == [
        ("add", "ok", 2),
        ("add", "ok", 4),
        ("submit", "ok", 4),
    ]
    assert (trace.timing.engine_s, trace.turns, trace.harness) == (4.0, 2, SoloAgent(instructions="Be brief.").name)


WORDS = st.text('ab {}"\n<>é', max_size=12)
CALLS = st.sampled_from(
    [call("add", a=1, b=2), call("add", a="x"), call("ad", a=1), call("submit"), call("wait", seconds=2)]
)
MESSAGES = st.builds(
    lambda text, reasoning, calls: says(text, *calls, reasoning=reasoning), WORDS, WORDS, st.lists(CALLS, max_size=3)
)
BROKEN = WORDS.map(lambda text: ids([*RENDERER.tokenizer.encode(f"<tool_call>{text}"), RENDERER.stop_ids[0]]))


@given(
    st.lists(MESSAGES | BROKEN, min_size=6, max_size=6),
    st.integers(1, 120),
    st.none() | st.integers(1, 300),
    st.integers(890, 1600),
    st.sampled_from([OFF, ON, Thinking(budget=5)]),
)
def test_tokens_are_exact_whatever_is_said(script, turn_tokens, tokens, context, thinking):
    task = toy_task(max_turns=5, max_turn_tokens=turn_tokens, max_tokens=tokens)
    trace = play(ScriptedEngine(line(*script), context_length=context), task=task, thinking=thinking)
    if ended(trace) != ("environment", "prompt_too_long"):
        assert trace.outcome.learnable, trace.outcome
    assert trace.turns <= 5 and sum(len(n.token_ids) for n in trace.nodes) <= context
    spoken = sum(len(node.token_ids) for node in trace.nodes if node.sampled)
    assert tokens is None or spoken <= tokens


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (says("", call("ad", a=1, b=2)), "error: no tool 'ad'; did you mean 'add'? (tools: add, wait, custom, submit)"),
        (says("", call("add", a="1", b=2)), "error: add: a: '1' is not of type 'number'"),
        (says("", call("add", a=1)), "error: add: 'b' is a required property"),
        (
            ids([*RENDERER.tokenizer.encode("<tool_call>\nadd(1)\n</tool_call>"), RENDERER.stop_ids[0]]),
            "not valid JSON",
        ),
        (ids([*RENDERER.tokenizer.encode('<tool_call>\n{"name": "a'), RENDERER.stop_ids[0]]), "never closed"),
    ],
)
def test_the_agent_reads_what_it_did_wrong_and_goes_on(said, heard):
    trace = play(ScriptedEngine(line(said, SUBMIT)))
    assert ended(trace) == ("policy", "submitted")
    assert heard in trace.nodes[2].message.text


def test_a_truncated_call_is_answered_while_tokens_are_left():
    long = says("word " * 50, call("add", a=1, b=2))
    cut = len(RENDERER.render_completion(long, thinking=OFF)) - 3
    trace = play(ScriptedEngine(line(long, SUBMIT)), task=toy_task(max_turn_tokens=cut))
    assert trace.nodes[1].finish_reason == "length" and "never closed" in trace.nodes[2].message.text
    assert ended(trace) == ("policy", "submitted")
    trace = play(ScriptedEngine(line(long, SUBMIT)), task=toy_task(max_tokens=cut))
    assert ended(trace) == ("limit", "max_tokens") and trace.outcome.learnable


def speaking(script, **engine):
    return {"engine": ScriptedEngine(script, **engine)}


def with_custom(fault, **options):
    env = ToyEnv()
    env.custom = fault
    return {**speaking(line(says("", call("custom")))), "env": env, **options}


def with_env(method, fault, **options):
    env = ToyEnv()
    setattr(env, method, fault)
    return {**speaking(line(SUBMIT)), "env": env, **options}


def with_engine(script, **options):
    return {**speaking(script if callable(script) else lambda *_: script), **options}


def damaged(**changes):
    engine = ScriptedEngine(None)

    def script(turn, request):
        return replace(engine.completion(SUBMIT, request.sampling), **changes)

    return with_engine(script)


class Agent:
    name = "broken@1"

    def __init__(self, run):
        self.run = run


CHAT = says("", call("add", a=1, b=1))
FAULTS = {
    "stopped": (with_engine(says("Done.")), "policy", "stopped"),
    "max_turns": (with_engine(CHAT, task=toy_task(max_turns=3)), "limit", "max_turns"),
    "max_turn_tokens": (with_engine(says("word " * 99), task=toy_task(max_turn_tokens=9)), "limit", "max_turn_tokens"),
    "max_tokens": (with_engine(CHAT, task=toy_task(max_tokens=100)), "limit", "max_tokens"),
    "context": (speaking(lambda *_: CHAT, context_length=1100), "limit", "context"),
    "context refused": (with_engine(ContextOverflow("full")), "environment", "prompt_too_long"),
    "prompt too long": (speaking(None, context_length=9), "environment", "prompt_too_long"),
    "wall": (with_engine(says("", call("wait", seconds=6)), task=toy_task(wall_s=15)), "limit", "wall_s"),
    "tool hangs": (with_custom(forever), "tool", "timeout"),
    "tool hangs and clings": (with_custom(stubborn), "tool", "timeout"),
    "tool fails": (with_custom(fails(ToolError("no"))), "tool", "error"),
    "tool crashes": (with_custom(fails(ZeroDivisionError())), "tool", "error"),
    "tool cancels itself": (with_custom(fails(asyncio.CancelledError())), "tool", "error"),
    "tool's sandbox": (with_custom(fails(SandboxError("no"))), "sandbox", "error"),
    "setup": (with_env("setup", fails(EnvError("no"))), "environment", "setup"),
    "setup crashes": (with_env("setup", fails(KeyError("no"))), "environment", "setup"),
    "setup hangs": (with_env("setup", forever), "environment", "setup_timeout"),
    "setup's sandbox": (with_env("setup", fails(SandboxError("no"))), "sandbox", "setup"),
    "tools": (with_env("tools", lambda *_: 1 / 0), "environment", "setup"),
    "verifier": (with_env("verify", fails(VerifierError("no"))), "verifier", "error"),
    "verifier crashes": (with_env("verify", fails(ZeroDivisionError())), "verifier", "error"),
    "verifier hangs": (with_env("verify", stubborn), "verifier", "timeout"),
    "engine": (with_engine(EngineError("no")), "engine", "error"),
    "engine crashes": (with_engine(ZeroDivisionError()), "engine", "error"),
    "engine hangs": (speaking(None, seconds=1e5), "engine", "timeout"),
    "log-probabilities": (damaged(logprobs=np.full(99, np.nan, dtype=np.float32)), "engine", "error"),
    "unstopped": (damaged(token_ids=ids([1]), finish_reason="stop"), "engine", "error"),
    "empty": (with_engine(ids([])), "engine", "error"),
    "agent": ({**speaking(None), "agent": Agent(fails(ZeroDivisionError()))}, "agent", "error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_end_is_typed(fault):
    setting, by, reason = FAULTS[fault]
    trace = play(**setting)
    assert ended(trace) == (by, reason), trace.outcome
    assert trace.outcome.learnable == (by in ("policy", "limit")) == bool(trace.rewards)


def test_a_busy_engine_is_not_the_policys_time():
    trace = play(ScriptedEngine(line(CHAT, SUBMIT), seconds=200.0), task=toy_task(wall_s=15))
    assert ended(trace) == ("policy", "submitted")


def in_line_for(*seconds, then):
    """An environment whose `custom` waits for its turn, each time for as long as it says, and then works."""

    async def custom(session):
        await asyncio.gather(*(wait(time) for time in seconds))
        await asyncio.sleep(then)
        return ToolResult(text="done")

    async def wait(time):
        with in_line():
            await asyncio.sleep(time)

    env = ToyEnv()
    env.custom = custom
    return env


def test_the_time_in_line_is_nobodys():
    script = line(says("", call("custom")), says("", call("custom")), SUBMIT)
    task = toy_task(wall_s=5, tool_s=2)
    trace = play(ScriptedEngine(script), env=in_line_for(100, 90, then=1.5), task=task)
    assert ended(trace) == ("policy", "submitted")
    assert trace.timing.tool_s == pytest.approx(203)
    # its own time is counted as ever, after the wait too
    trace = play(ScriptedEngine(script), env=in_line_for(100, then=2.5), task=task)
    assert ended(trace) == ("tool", "timeout")
    trace = play(ScriptedEngine(script), env=in_line_for(100, then=1.5), task=toy_task(wall_s=2, tool_s=2))
    assert ended(trace) == ("limit", "wall_s")


def test_a_verifier_may_stand_in_line():
    env = ToyEnv()
    judge = env.verify

    async def verify(trace, state):
        with in_line():
            await asyncio.sleep(1000)
        return await judge(trace, state)

    env.verify = verify
    assert ended(play(ScriptedEngine(line(CHAT, SUBMIT)), env=env)) == ("policy", "submitted")


def test_a_token_array_changed_in_place_is_noticed():
    engine = ScriptedEngine(None)
    said = []

    def script(turn, request):
        if turn:
            said[0].token_ids[0] += 1
        said.append(engine.completion((CHAT, SUBMIT)[turn], request.sampling))
        return said[-1]

    engine.script = script
    env = ToyEnv()
    trace = in_virtual_time(
        lambda: run_episode(EpisodeSpec(task=toy_task(), thinking=OFF, group="", seed=0), stage(engine, env))
    )
    assert ended(trace) == ("engine", "invariant") and not env.verified


@pytest.mark.parametrize("tenths", range(0, 90, 4))
def test_cancelled_at_any_moment(tenths):
    """Set-up, turn, tool, turn, verifier and closing take 1 s each; whatever is cut, the trace says so and is whole."""
    env = ToyEnv()

    def slowly(method):
        async def slow(*args):
            await asyncio.sleep(1.0)
            return await method(*args)

        return slow

    env.setup, env.verify = slowly(env.setup), slowly(env.verify)
    engine = ScriptedEngine(line(says("", call("wait", seconds=1.0)), SUBMIT), seconds=1.0)
    trace = play(engine, env=env, cancel_at=tenths / 10)
    assert ended(trace) == (("cancelled", "cancelled") if tenths < 50 else ("policy", "submitted"))
    assert trace.turns == (0 if tenths <= 20 else 1 if tenths <= 40 else 2)
    assert bool(trace.rewards) == trace.outcome.learnable


def test_a_state_that_comes_too_late_is_closed():
    env = ToyEnv()
    ready = asyncio.Event()
    setup = env.setup

    async def late(task):
        while not ready.is_set():
            try:
                await ready.wait()
            except asyncio.CancelledError:
                continue
        return await setup(task)

    env.setup = late

    async def main():
        trace = await run_episode(
            EpisodeSpec(task=toy_task(), thinking=OFF, group="", seed=0), stage(ScriptedEngine(None), env)
        )
        ready.set()
        await asyncio.sleep(1)
        return trace

    assert ended(in_virtual_time(main)) == ("environment", "setup_timeout")
    assert [state.closed for state in env.states] == [1]


def test_sampling_is_what_was_asked_for_and_repeats():
    options = EpisodeOptions(temperature=0.7, top_p=0.9, top_k=5)
    engines = [ScriptedEngine(line(CHAT, SUBMIT)) for _ in range(2)]
    thinking = Thinking(budget=5)
    for engine in engines:
        play(engine, thinking=thinking, task=toy_task(max_turn_tokens=50), options=options)
    first, second = ([request.sampling for request in next(iter(engine.requests.values()))] for engine in engines)
    assert first == second and first[0].seed != first[1].seed
    assert (first[0].temperature, first[0].top_p, first[0].top_k, first[0].max_tokens) == (0.7, 0.9, 5, 50)
    assert first[0].thinking == RENDERER.thinking_limit(thinking) and first[0].stop == RENDERER.stop_ids


@pytest.mark.parametrize(
    ("costs", "success", "expected"),
    [
        (Costs(), 1.0, 1.0),
        (Costs(thinking_token=0.01, turn=0.1), 1.0, 1.0 - 0.1 - 0.2),
        (Costs(thinking_token=0.01, turn=0.1), 0.0, 0.0),
        (Costs(thinking_token=0.01, turn=0.1, on_success_only=False), 0.0, -0.3),
        (Costs(thinking_token=5.0), 1.0, 0.1),
    ],
)
def test_costs(costs, success, expected):
    terms = (Reward(name="success", value=success),)
    paid = terms + costs.terms(terms, thinking_tokens=10, turns=2)
    assert sum(term.value * term.weight for term in paid) == pytest.approx(expected)
    assert len(paid) == (1 if costs == Costs() else 3)


def test_costs_are_charged_in_an_episode():
    thoughtful = says("", call("submit"), reasoning="Let me think.")
    trace = play(ScriptedEngine(line(thoughtful)), thinking=ON, costs=Costs(thinking_token=0.01, turn=0.05))
    thought = RENDERER.thinking_tokens(trace.nodes[1].token_ids)
    assert trace.thinking_tokens == thought > 0
    assert trace.reward == pytest.approx(1 - 0.05 - 0.01 * thought)
    with pytest.raises(ConfigError, match="turn is -1"):
        Costs(turn=-1)


class Scripted:
    def __init__(self, *messages):
        self.messages = list(messages)

    def act(self, messages, thinking):
        return self.messages.pop(0)


def test_a_scripted_policy_leaves_the_tokens_that_a_model_would_have():
    script = (says("", call("add", a=1, b=2), reasoning="Add."), says("", call("submit"), reasoning="Done."))
    spoken = play(ScriptedEngine(line(*script)), thinking=ON)
    played = play(PolicySpeakers(lambda spec: Scripted(*script), RENDERER), thinking=ON)
    assert ended(played) == ended(spoken) and played.reward == spoken.reward
    (tokens, mask, logprobs, versions), (as_sampled, same_mask, _, _) = played.sequences()[0], spoken.sequences()[0]
    assert np.array_equal(tokens, as_sampled) and np.array_equal(mask, same_mask)
    assert not logprobs.any() and (versions == -1).all()
    failing = play(PolicySpeakers(lambda spec: Scripted(), RENDERER))
    assert ended(failing) == ("engine", "error") and "Scripted" in failing.outcome.detail


def test_a_tool_may_end_the_episode_for_another():
    async def out_of_memory(session):
        return ToolResult(text="killed", error=True, end=Outcome(by="limit", reason="memory"))

    trace = play(**with_custom(out_of_memory))
    assert ended(trace) == ("limit", "memory") and trace.tool_events[0].status == "error" and trace.rewards


def test_what_a_tool_leaves_for_people_is_in_the_trace_under_its_call():
    async def look(session):
        return ToolResult(text="seen", artifacts=(Artifact(name="shot", media_type="image/png", data=b"1"),))

    trace = play(**with_custom(look))
    [left] = trace.artifacts
    asked = trace.nodes[left.node].message
    assert (left.name, left.data) == ("shot", b"1") and left.call in [call.id for call in asked.tool_calls]


def test_agents_by_name():
    assert load_agent("solo").name == load_agent().name == "solo@1" != load_agent("solo", instructions="x").name
    with pytest.raises(ConfigError, match="did you mean 'solo@1'"):
        load_agent("solo@2")
    with pytest.raises(ConfigError, match="options"):
        load_agent("solo", temperature=1)
