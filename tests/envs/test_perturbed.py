"""Faults in tools: the same for the same seeds, seen by the agent, recorded, and no fault of the machinery."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.envs import load_env
from askesis.envs.perturbed import DELAYED, FAILED, FAULTS, Injected, Perturbation, fault_metrics
from askesis.loop.scripted import play_policy
from askesis.types import ConfigError, ToolCall, assistant

LOOKUP = f"{Path(__file__).parents[2]}/docs/examples/lookup.py:Lookup"
ALL = {"fail": 0.1, "timeout": 0.1, "truncate": 0.1, "delay": 0.1, "noise": 0.1, "partial": 0.1}


class Kept(list):
    def add(self, traces, **_):
        self.extend(traces)


class Reader:
    """Looks the same entry up, over and over."""

    def act(self, messages, thinking):
        start = messages[0].text.removeprefix("Start at ").rstrip(".")
        return assistant(tool_calls=(ToolCall(id="c", name="lookup", arguments={"text": start}),))


async def read(perturb, tasks=10, seed=7):
    kept = Kept()
    env = load_env(LOOKUP, perturb=perturb)
    evaluation = await play_policy(env, lambda spec, tools: Reader(), tasks=tasks, seed=seed, store=kept)
    kept.sort(key=lambda trace: trace.task.id)
    return evaluation.rows[0], kept


def seen(traces):
    return [[node.message.text for node in trace.nodes if node.message.role == "tool"] for trace in traces]


async def test_faults_are_seeded_and_recorded_and_nobodys_failure():
    row, traces = await read(ALL)
    again = await read(ALL)
    assert seen(traces) == seen(again[1])
    assert seen(traces) != seen((await read(ALL | {"seed": 1}))[1])
    assert seen(traces) != seen((await read(ALL, seed=8))[1])
    assert row.summary.infrastructure == 0
    told = [json.loads(term.evidence) for trace in traces for term in trace.rewards if term.evidence]
    kinds = Counter(fault["kind"] for faults in told for fault in faults)
    assert set(kinds) == set(FAULTS)
    assert row.metrics["faults_injected"] == (sum(kinds.values()) / 10, 10)
    plain = seen((await read({}))[1])
    for trace, texts, true in zip(traces, seen(traces), plain, strict=True):
        faults = [f for term in trace.rewards if term.evidence for f in json.loads(term.evidence)]
        hit = {fault["turn"] - 1 for fault in faults}
        assert [(e.fault, e.name) for e in trace.tool_events if e.fault] == [(f["kind"], f["tool"]) for f in faults]
        late = {fault["turn"] for fault in faults if fault["kind"] == "delay"}
        for place, (text, right) in enumerate(zip(texts, true, strict=True)):
            if place not in hit | late:
                assert text == right
            elif place in hit:
                assert text != right
    assert FAILED in str(seen(traces)) and DELAYED in str(seen(traces))


async def test_an_episode_has_at_most_so_many():
    row, traces = await read({"fail": 1.0, "most": 2})
    assert row.metrics["faults_injected"] == (2.0, 10)
    assert all(texts[:2] == [FAILED] * 2 and FAILED not in texts[2:] for texts in seen(traces))
    assert row.metrics["recovered"] == (1.0, 10)
    assert row.metrics["turns_to_recover"] == (1.5, 10)  # the first fault waits for two turns, the second for one


def test_recovery_by_hand():
    faults = [
        Injected("fail", "view", 1, recovered_turn=2),
        Injected("noise", "view", 3, recovered_turn=6),
        Injected("timeout", "submit", 7),
    ]
    values = {term.name: (term.value, term.weight) for term in fault_metrics(faults, 0.0)}
    assert values == {
        "faults_injected": (3.0, 0.0),
        "success_hit": (0.0, 0.0),
        "recovered": (2 / 3, 0.0),
        "turns_to_recover": (2.0, 0.0),
    }
    assert {term.name: term.value for term in fault_metrics(faults[2:], 1.0)} == {
        "faults_injected": 1.0,
        "success_hit": 1.0,
        "recovered": 1.0,
    }
    assert {term.name: term.value for term in fault_metrics([], 1.0)} == {"faults_injected": 0.0, "success_spared": 1.0}


async def test_tools_have_other_names_among_useless_ones_and_an_oracle_copes():
    perturb = {"rename": 1.0, "useless": 3, "fail": 0.2, "delay": 0.1, "truncate": 0.1, "timeout": 0.1}
    env = load_env("repair", perturb=perturb, max_turns=40)
    kept = Kept()
    evaluation = await play_policy(env, "oracle", tasks=12, store=kept)
    await env.close()
    assert evaluation.rows[0].summary.successes == 12
    assert evaluation.rows[0].metrics["success_hit"][0] == 1.0
    task = kept[0].task
    state = await env.setup(task)
    names = [one.spec.name for one in env.tools(task, state)]
    assert names == [one.spec.name for one in env.tools(task, state)]
    await state.close()
    await env.close()
    assert len(names) == 7 and not {"view", "replace", "submit", "run_tests"} & set(names)
    assert {event.name for event in kept[0].tool_events} <= set(names)


async def test_the_verifier_sees_the_tools_own_names():
    seen = []
    env = load_env(LOOKUP, perturb={"rename": 1.0})
    verify = env.inner.verify

    async def noting(trace, state):
        seen.append({call.name for node in trace.nodes for call in node.message.tool_calls})
        seen.append({event.name for event in trace.tool_events})
        return await verify(trace, state)

    env.inner.verify = noting
    kept = Kept()
    await play_policy(env, "random", tasks=8, store=kept)
    assert set.union(*seen) == {"lookup", "answer"}
    assert not {"lookup", "answer"} & {event.name for trace in kept for event in trace.tool_events}


@given(st.dictionaries(st.sampled_from([*FAULTS, "rename"]), st.floats(-0.5, 1.5, allow_nan=False)))
def test_what_is_no_probability_is_refused(given):
    good = all(0 <= value <= 1 for value in given.values())
    good = good and sum(value for key, value in given.items() if key != "rename") <= 1
    if good:
        assert Perturbation.of(given).seed == 0
    else:
        with pytest.raises(ConfigError, match="perturb: "):
            Perturbation.of(given)


def test_what_is_no_perturbation_is_said():
    for table, said in (({"fial": 0.1}, r"'fial'; did you mean 'fail'\?"), (0.5, "expected a table")):
        with pytest.raises(ConfigError, match=said):
            load_env(LOOKUP, perturb=table)
    assert load_env(LOOKUP, **{"perturb.fail": 0.5, "perturb.seed": 3}).perturbation == Perturbation(fail=0.5, seed=3)
