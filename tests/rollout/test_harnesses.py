"""Harnesses with several conversations in one trace: compaction and sub-agents, to the token."""

import asyncio
from collections import Counter, defaultdict

import numpy as np
import pytest
from rollout_doubles import (
    OFF,
    RENDERER,
    ScriptedEngine,
    ToyEnv,
    ToyTool,
    call,
    says,
    toy_task,
)

from askesis.agents import CompactingAgent, OrchestratorAgent, agent_for, load_agent
from askesis.agents.compacting import ASK
from askesis.envs.perturbed import Perturbed
from askesis.loop.samples import group_samples, trace_samples
from askesis.rollout import EngineSpeakers, EpisodeSpec, Stage, run_episode
from askesis.types import (
    ConfigError,
    Group,
    Limits,
    Specialist,
    Task,
    ToolCall,
    ToolResult,
    assistant,
    system,
    user,
)
from bench.schedule_machine import in_virtual_time

SUBMIT = says("", call("submit"))
NOTE = ToolCall(id="call_0", name="notes", arguments={"action": "write", "name": "plan", "text": "go on to the end"})


def play(engine, agent, *, env=None, thinking=OFF, **limits):
    """One episode, whose every token is looked at."""
    stage = Stage(speakers=EngineSpeakers(engine), renderer=RENDERER, env=env or ToyEnv(), agent=agent)
    spec = EpisodeSpec(task=toy_task(**limits), thinking=thinking, group="g", seed=1)
    trace = in_virtual_time(lambda: run_episode(spec, stage))
    assert trace.outcome.learnable, trace.outcome
    check_branches(trace, engine)
    return trace


def check_branches(trace, engine):
    """Each completion is in the trace once, after exactly the tokens that the engine was given for it."""
    asked = defaultdict(list)  # two agents may have been asked the same
    for session, requests in engine.requests.items():
        assert session.partition("/")[0] == trace.id
        for request in requests:
            asked[request.tokens.tobytes()].append(request.completion)
    sampled = [i for i, node in enumerate(trace.nodes) if node.sampled]
    assert len(sampled) == sum(map(len, engine.requests.values()))
    for at in sampled:
        path, node = [], trace.nodes[at]
        while (parent := trace.nodes[path[-1] if path else at].parent) >= 0:
            path.append(parent)
        context = np.concatenate([trace.nodes[i].token_ids for i in reversed(path)])
        said = asked[context.tobytes()].pop(0)
        assert np.array_equal(said.token_ids, node.token_ids) and np.array_equal(said.logprobs, node.logprobs)
    carried = Counter()
    for sample in trace_samples(trace, 1.0, group="g"):
        assert len(sample.token_ids) == len(sample.mask) == len(sample.logprobs)
        carried["masked"] += int(sample.mask.sum())
        carried["logprobs"] += float(sample.logprobs[sample.mask].sum())
    assert carried["masked"] == sum(int(node.mask.sum()) for node in trace.nodes)
    assert carried["logprobs"] == pytest.approx(sum(float(n.logprobs[n.mask].sum()) for n in trace.nodes), rel=1e-4)
    roots = [at for at, node in enumerate(trace.nodes) if node.parent < 0]
    assert roots[1:] == sorted(fork.root for fork in trace.forks)


def texts(trace, at):
    """The messages of the branch that ends in a node."""
    path = next(path for path in trace.branches() if at in path)
    return [trace.nodes[i].message for i in path[: path.index(at) + 1]]


# -- compaction --------------------------------------------------------------------------------------------------------


class Talker(ToyEnv):
    """`custom` gives a long answer, another one each time."""

    length = 300

    async def custom(self, session):
        self.states[-1].calls.append("said")
        return ToolResult(text=f"answer {len(self.states[-1].calls) // 2}: " + "z" * self.length)


class Compacted:
    """Speaks for a policy: sums up when asked, asks `custom` a number of times, then submits."""

    def __init__(self, calls, summary="I asked {}."):
        self.left, self.asked, self.summary = calls, 0, summary

    def __call__(self, turn, request):
        seen = RENDERER.decode(request.tokens)
        if seen.rpartition("<|im_start|>user")[2].startswith("\n" + ASK):
            return says(self.summary.format(self.asked))
        if self.asked == self.left:
            return SUBMIT
        self.asked += 1
        if self.asked == 1:
            return says("", NOTE)
        return says(f"Number {self.asked}.", call("custom"))


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_long_conversation_goes_on_from_a_summary(keep):
    env, context = Talker(), 2600
    engine = ScriptedEngine(Compacted(12), context_length=context)
    trace = play(engine, CompactingAgent(at=0.6, keep=keep), env=env, max_turns=40)
    assert trace.success and trace.outcome.reason == "submitted"
    kinds = [fork.kind for fork in trace.forks]
    assert len(kinds) >= 3 and set(kinds) == {"compaction"}
    asks = [i for i, node in enumerate(trace.nodes) if node.message.text == ASK]
    assert len(asks) == len(kinds)
    for fork in trace.forks:
        summed = trace.nodes[fork.origin]
        assert summed.sampled and summed.message.text.startswith("I asked") and summed.mask.any()
        head = trace.nodes[fork.root].message.text
        assert head.startswith("Add 12 and 30.") and summed.message.text in head
        assert "[plan]\ngo on to the end" in head
        later = [node for node in trace.nodes[fork.root + 1 :] if node.parent >= fork.root]
        repeated = 0
        for node in later:
            if node.sampled:
                break
            repeated += node.message.role == "assistant"
        assert repeated <= keep
    assert sum(node.sampled and bool(node.message.tool_calls) for node in trace.nodes) == 13
    assert max(len(request.tokens) for requests in engine.requests.values() for request in requests) < context
    assert env.states[0].calls.count("said") == 11, "no call is run twice"


def test_what_the_environment_begins_with_is_not_said_twice():
    class Opening(Talker):
        def opening(self, task, state):
            return system("Sums."), user("An example."), assistant("Understood."), user("And now 12 and 30.")

    context = 2600
    engine = ScriptedEngine(Compacted(8), context_length=context)
    trace = play(engine, CompactingAgent(at=0.6, instructions="Work."), env=Opening(), max_turns=40)
    assert trace.success and len(trace.forks) >= 2
    began = [(node.message.role, node.message.text) for node in trace.nodes[:4]]
    assert [text for _, text in began[1:]] == ["An example.", "Understood.", "And now 12 and 30."]
    for fork in trace.forks:
        path = texts(trace, next(at for at in range(fork.root, len(trace.nodes)) if trace.nodes[at].sampled))
        assert [(one.role, one.text) for one in path[:3]] == began[:3]
        assert path[3].text.startswith("And now 12 and 30.\n\nYour notes:") and path[3].role == "user"


def test_an_answer_that_fills_the_context_is_cut_before_the_summary():
    env = Talker()
    env.length = 5000
    engine = ScriptedEngine(Compacted(2), context_length=2600)
    trace = play(engine, CompactingAgent(), env=env)
    assert trace.success and [fork.kind for fork in trace.forks] == ["compaction", "compaction"]
    cut = [node.message.text for node in trace.nodes if "characters left out" in node.message.text]
    assert cut and all(text.startswith("answer 1: zzz") for text in cut)


def test_limits_hold_over_all_branches():
    engine = ScriptedEngine(Compacted(100), context_length=2600)
    trace = play(engine, CompactingAgent(at=0.6), env=Talker(), max_turns=9)
    assert (trace.outcome.by, trace.outcome.reason, trace.turns) == ("limit", "max_turns", 9)
    assert trace.forks


def test_without_a_need_it_plays_as_solo():
    script = [says("", call("add", a=1, b=2)), SUBMIT]
    traces = [
        play(ScriptedEngine(lambda turn, request: script[turn]), agent)
        for agent in (CompactingAgent(notes=False), load_agent("solo"))
    ]
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(*(t.nodes for t in traces), strict=True))


# -- sub-agents --------------------------------------------------------------------------------------------------------


class Staffed(ToyEnv):
    """`wait` is the sleeper's alone; `add` the adder's."""

    harness = "orchestrator@1"

    def specialists(self, task, state):
        return [
            Specialist(
                name="adder", description="adds", tools=["add"], instructions="You add.", limits=Limits(max_turns=3)
            ),
            Specialist(name="sleeper", description="waits", tools=["wait"]),
        ]


def ask(who, task):
    return call("delegate", specialist=who, task=task)


def by_session(**scripts):
    """A script for the episode's agent (`top`), one for each sub-agent by its number (`agent0`), and for `others`."""

    def at(session):
        return session.rpartition("/")[2] if "/" in session else "top"

    class Engine(ScriptedEngine):
        async def generate(self, token_ids, sampling, *, session=None):
            lines = scripts[at(session)] if at(session) in scripts else scripts["others"]
            self.script = lambda turn, request: lines[turn]
            return await super().generate(token_ids, sampling, session=session)

    return Engine(None)


def test_specialists_work_at_the_same_time_and_report():
    engine = by_session(
        top=[says("", ask("sleeper", "sleep 5"), ask("sleeper", "sleep 6"), ask("adder", "add 1 and 2")), SUBMIT],
        agent0=[says("", call("wait", seconds=5)), says("slept five")],
        agent1=[says("", call("wait", seconds=6)), says("slept six")],
        agent2=[says("", call("add", a=1, b=2)), says("it is 3")],
    )
    env = Staffed()
    trace = play(engine, agent_for(env), env=env, tool_s=7.0)
    assert trace.success and trace.harness == "orchestrator@1"
    assert [(fork.kind, fork.name) for fork in trace.forks] == [
        ("agent", "sleeper"),
        ("agent", "sleeper"),
        ("agent", "adder"),
    ]
    assert [n.message.text for n in trace.nodes if n.message.text in ("slept five", "slept six", "it is 3")]
    reports = [node.message.text for node in trace.nodes if node.message.role == "tool"][-4:-1]
    assert reports == ["slept five", "slept six", "it is 3"], "in the order of the calls"
    assert trace.timing.total_s < 8, "at the same time"
    first = {fork.name: trace.nodes[fork.root].message for fork in trace.forks}
    assert first["adder"].text == "You add."
    offered = RENDERER.decode(engine.requests[trace.id][0].tokens)
    assert '"delegate"' in offered and '"add"' not in offered and '"wait"' not in offered
    assert '"add"' in RENDERER.decode(engine.requests[f"{trace.id}/agent2"][0].tokens)


@pytest.mark.parametrize(
    ("lines", "report"),
    [
        ([says("", call("add", a=1, b=1))] * 3, "limit max_turns"),
        ([says("")], "without an answer"),
        ([says("", call("submit")), says("no such tool, then")], "no such tool, then"),
        ([says("", call("delegate", specialist="sleeper", task="x")), says("nobody")], "nobody"),
        ([says("y" * 480)], "left out"),
    ],
)
def test_what_becomes_of_a_sub_agent_is_a_bounded_report(lines, report):
    engine = by_session(top=[says("", ask("adder", "add")), SUBMIT], agent0=lines)
    trace = play(engine, OrchestratorAgent(report=400), env=Staffed())
    told = [node.message.text for node in trace.nodes if node.message.role == "tool" and report in node.message.text]
    assert told and len(told[-1]) < 500 and trace.success


def test_where_nobody_is_foreseen_a_general_one_has_the_tools_but_not_the_last_word():
    engine = by_session(
        top=[says("", call("delegate", task="add 2 and 3")), SUBMIT],
        agent0=[says("", call("submit")), says("", call("add", a=2, b=3)), says("5")],
    )
    trace = play(engine, load_agent("orchestrator"))
    assert trace.success and [event.status for event in trace.tool_events] == ["unknown_tool", "ok", "ok", "ok"]
    seen = RENDERER.decode(engine.requests[f"{trace.id}/agent0"][0].tokens)
    assert "reads only the last thing" in seen and '"submit"' not in seen and '"specialist"' not in seen


def test_what_all_spend_is_bounded_together():
    busy = [says("", call("wait", seconds=0))] * 20
    engine = by_session(top=[says("", ask("sleeper", "a"), ask("sleeper", "b"))] * 9, agent0=busy, agent1=busy)
    trace = play(engine, OrchestratorAgent(), env=Staffed(), max_turns=8)
    assert (trace.outcome.by, trace.outcome.reason, trace.turns) == ("limit", "max_turns", 8)


def test_sub_agents_may_be_played_by_another_harness():
    seen = []

    class Long(Staffed):
        def tools(self, task, state):
            found = super().tools(task, state)

            async def long(args, session):
                seen.append(len(seen))
                return ToolResult(text="z" * 300)

            tool = ToyTool(self, state, "wait", {"properties": {}})
            return [LongTool(tool.spec, long) if one.spec.name == "wait" else one for one in found]

    class LongTool:
        def __init__(self, spec, run):
            self.spec, self.run = spec, run

        async def __call__(self, args, session):
            return await self.run(args, session)

    def script(turn, request):
        text = RENDERER.decode(request.tokens)
        if text.rpartition("<|im_start|>user")[2].startswith("\n" + ASK):
            return says("some were waited for")
        if "wait long" in text and '"delegate"' not in text:
            return says("", call("wait")) if len(seen) < 9 else says("done")
        return SUBMIT if "done" in text else says("", ask("sleeper", "wait long"))

    engine = ScriptedEngine(script, context_length=2600)
    trace = play(engine, OrchestratorAgent(worker="compact"), env=Long(), max_turns=60)
    assert trace.success and {fork.kind for fork in trace.forks} == {"agent", "compaction"}
    assert {fork.name for fork in trace.forks} == {"sleeper"}
    assert [fork.outcome.reason for fork in trace.forks if fork.kind == "agent"] == ["stopped"]


def test_perturbed_and_wrapped_environments_keep_their_specialists():
    env = Perturbed(Staffed(), {"rename": 1.0, "fail": 0.5})
    assert agent_for(env).name == "orchestrator@1"
    renamed = env.names(toy_task(), ["add", "wait", "custom", "submit"])
    engine = by_session(
        top=[says("", ask("adder", "add"), ask("adder", "add")), says("", call(renamed["submit"]))] * 9,
        others=[says("", call(renamed["add"], a=1, b=2))] * 9,
    )
    trace = play(engine, agent_for(env), env=env)
    statuses = {event.status for event in trace.tool_events}
    assert statuses <= {"ok", "error"} and "error" in statuses


# -- both, and what the trainer gets -----------------------------------------------------------------------------------


def test_a_group_of_them_is_samples():
    agents = OrchestratorAgent(), CompactingAgent(at=0.6)
    one = play(
        by_session(top=[says("", ask("adder", "add")), says("no")], agent0=[says("three")]), agents[0], env=Staffed()
    )
    two = play(ScriptedEngine(Compacted(9), context_length=2600), agents[1], env=Talker(), max_turns=40)
    group = Group(id="g", task=one.task, thinking=OFF, traces=[one, two])
    samples = group_samples(group, lambda rewards: [r - sum(rewards) / len(rewards) for r in rewards])
    assert len(samples) == 2 + len(two.branches())
    by_trace = Counter()
    for sample in samples:
        assert np.array_equal(sample.advantages != 0, sample.mask)
        by_trace[sample.trace_id] += int(sample.mask.sum())
    assert by_trace == {t.id: sum(int(node.mask.sum()) for node in t.nodes) for t in (one, two)}


def test_senseless_options_are_refused():
    for name, options, said in (
        ("compact", {"at": 1.0}, "at=1.0"),
        ("compact", {"keep": -1}, "keep=-1"),
        ("compact", {"ask": " "}, "ask="),
        ("orchestrator", {"at_once": 0}, "at_once=0"),
        ("orchestrator", {"worker": "orchestrator"}, "worker='orchestrator'"),
        ("orchestrator", {"worker": "solo@7"}, "no agent 'solo@7'"),
        ("orchestrator", {"withhold": "submit"}, "withhold='submit'"),
        ("orchestrator", {"depth": 2}, "do not fit"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_agent(name, **options)
    assert load_agent("compact").name == "compact@1" != load_agent("compact", keep=1).name
    assert load_agent("orchestrator").name == "orchestrator@1" != load_agent("orchestrator", at_once=1).name
    task = Task(env="toy", prompt="x")

    class Noted(ToyEnv):
        def tools(self, task, state):
            return [ToyTool(self, state, "notes", {})]

    stage = Stage(
        speakers=EngineSpeakers(ScriptedEngine(None)), renderer=RENDERER, env=Noted(), agent=CompactingAgent()
    )
    spec = EpisodeSpec(task=task, thinking=OFF, group="g", seed=1)
    outcome = asyncio.run(run_episode(spec, stage)).outcome
    assert outcome.by == "agent" and "notes=false" in outcome.detail
