"""Environments of verifiers before 0.4, against the real package, in what `make venv-verifiers` makes."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from cheating import Scripted, call

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import ConfigError, EnvError, Thinking, ToolCall, assistant

NAME = "verifiers:vf_examples"
RENDERER = Qwen3Renderer(train_bpe(["play"], 300))


async def played(env, play, *, task=None, **limits):
    task = task or env.tasks("heldout", limit=1)[0]
    task = replace(task, limits=replace(task.limits, **limits), id=task.id)
    stage = Stage(
        speakers=PolicySpeakers(lambda spec: Scripted(play, spec.task), RENDERER),
        renderer=RENDERER,
        env=env,
        agent=load_agent("solo"),
    )
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def said(trace, *roles):
    return [node.message.text for node in trace.nodes if node.message.role in (roles or ("user", "tool"))]


def rewards(trace):
    return {term.name: (term.value, term.weight) for term in trace.rewards}


def right(task):
    return f"<answer>{task.data['row']['answer']}</answer>"


async def test_an_oracle_says_the_right_answer_of_a_column_as_their_parser_would_have_it():
    env = load_env(NAME, oracle="answer")
    task = env.tasks("heldout", limit=1)[0]
    trace = await played(env, lambda task: [env.oracle(task).act([], Thinking(enabled=False))], task=task)
    assert trace.success and task.data["row"]["answer"] in trace.nodes[-1].message.text
    assert not hasattr(load_env(NAME), "oracle")
    with pytest.raises(EnvError, match="a row has"):
        load_env(NAME, oracle="gold").oracle(task)
    await env.close()


async def test_a_single_turn_is_judged_by_their_rubric_and_parser():
    env = load_env(NAME)
    trace = await played(env, lambda task: [assistant(right(task))])
    assert said(trace, "system") == ["Answer in <answer> tags."] and said(trace)[0].startswith("What is ")
    assert (trace.outcome.by, trace.outcome.reason) == ("policy", "finished")
    assert trace.success and trace.reward == 1.25 and trace.turns == 1
    assert rewards(trace)["exact"] == (1.0, 1.0) and rewards(trace)["short"] == (1.0, 0.25)
    assert rewards(trace)["success"] == (1.0, 0.0)
    wrong = await played(env, lambda task: [assistant("<answer>7</answer>")])
    assert not wrong.success and wrong.reward == 0.25
    assert not (await played(load_env(NAME, success_at=1.5), lambda task: [assistant(right(task))])).success
    await env.close()
    await env.close()


async def test_what_a_reward_raises_is_the_verifiers_failure():
    trace = await played(load_env(NAME, broken=True), lambda task: [assistant(right(task))])
    assert (trace.outcome.by, trace.rewards) == (
        "verifier",
        (),
    ) and "exact raised RuntimeError: no luck" in trace.outcome.detail


async def test_what_a_reward_raises_may_be_0_as_it_is_with_them():
    trace = await played(load_env(NAME, broken=True, raising="zero"), lambda task: [assistant(right(task))])
    assert trace.outcome.by == "policy" and not trace.success and trace.reward == 0.25


async def test_a_turn_that_calls_what_there_is_not_is_judged():
    trace = await played(load_env(NAME), lambda task: [call("nope"), "x"])
    assert (trace.outcome.by, trace.outcome.reason, trace.success) == ("limit", "max_turns", False)
    assert rewards(trace)["short"] == (1.0, 0.25)


async def test_tools_are_theirs_also_two_in_a_turn_and_what_they_raise():
    env = load_env(NAME, kind="tools")

    def play(task):
        numbers = [int(n) for n in re.findall(r"\d+", task.prompt)]
        both = (
            ToolCall(id="a", name="add", arguments={"a": numbers[0], "b": numbers[1]}),
            ToolCall(id="b", name="add", arguments={"a": 1, "b": 1}),
            ToolCall(id="c", name="nope", arguments={}),
        )
        yield assistant("Let me see.", tool_calls=both)
        yield call("fail", text="it")
        yield assistant(right(task))

    trace = await played(env, play)
    results = said(trace, "tool")
    assert results[:2] == [trace.task.data["row"]["answer"], "2"] and "no tool 'nope'" in results[2]
    assert "cannot do it" in results[3] and trace.success, (results, trace.outcome)
    assert (trace.outcome.by, rewards(trace)["total_tool_calls"]) == ("policy", (3.0, 0.0))
    assert [event.name for event in trace.tool_events] == ["add", "add", "nope", "fail"]
    endless = await played(env, lambda task: [call("add", a=1, b=n) for n in range(9)])
    assert (endless.outcome.by, endless.outcome.reason) == ("limit", "max_turns") and not endless.success


async def test_hidden_arguments_of_stateful_tools():
    trace = await played(load_env(NAME, kind="stateful"), lambda task: [call("bump", by=2), call("bump", by=5), "done"])
    assert said(trace, "tool") == ["2 after 1", "7 after 2"]


async def test_an_environment_that_answers():
    env = load_env(NAME, kind="guessing")

    def search(task):
        low, high = 0, 100
        while True:
            guess = (low + high) // 2
            heard = yield assistant(f"<answer>{guess}</answer>")
            low, high = (guess + 1, high) if heard == "too low" else (low, guess)

    trace = await played(env, search)
    turns = said(trace, "user")[1:]
    assert set(turns) <= {"too low", "too high", "Right."} and trace.turns <= 6
    assert trace.success == (turns[-1] == "Right.") and trace.outcome.by in ("policy", "limit")
    first = await played(env, lambda task: [assistant(right(task))])
    assert first.success and said(first, "user")[-1] == "Right."
    cut = await played(env, lambda task: [assistant("<answer>1</answer>")] * 9, max_turns=2)
    assert (cut.outcome.by, cut.turns, cut.success) == ("limit", 2, False) and "exact" in rewards(cut)
    unheard = assistant("<answer>boom</answer>", tool_calls=(call("nope"),))  # they hear of it from the verdict
    last = await played(env, lambda task: [unheard], max_turns=1)
    assert (last.outcome.by, last.rewards) == ("environment", ()) and "boom" in last.outcome.detail, last.outcome
    broken = await played(env, lambda task: [assistant("<answer>boom</answer>")])
    assert (broken.outcome.by, broken.rewards) == ("environment", ())
    failing = await played(load_env(NAME, kind="guessing", failing_setup=True), lambda task: [assistant("x")])
    assert (failing.outcome.by, failing.outcome.reason) == (
        "environment",
        "setup",
    ) and "no room" in failing.outcome.detail
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_the_environment_for_reasoning_gym_that_comes_with_it():
    env = load_env(NAME, kind="reasoning_gym")
    train, held = env.tasks("train", limit=100), env.tasks("heldout", limit=100)
    assert len(train) == 30 and len(held) == 12 and not {t.id for t in train} & {t.id for t in held}
    dataset = env._env.rg_dataset
    trace = await played(
        env, lambda t: [assistant(f"<answer>{dataset[int(t.data['row']['answer'])]['answer']}</answer>")]
    )
    assert trace.success and trace.reward == 1.0
    assert (await played(env, lambda t: [assistant("<answer>1000000</answer>")])).reward == 0.0


def test_splits_seeds_and_data():
    env = load_env(NAME)
    train, held = env.tasks("train"), env.tasks("heldout")
    assert len(train) + len(held) == 40 and len(held) >= 1 and not {t.prompt for t in train} & {t.prompt for t in held}
    assert [t.id for t in env.tasks("train", limit=5)] == [t.id for t in train[:5]]
    assert [t.id for t in env.tasks("train", seed=1)] != [t.id for t in train]
    assert json.loads(json.dumps(dict(train[0].data))) == train[0].data


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("verifiers:vf_nothing", {}, "no module 'vf_nothing'"),
        (NAME, {"kind": "group"}, "comparing those of a group"),
        (NAME, {"nonsense": 1}, "cannot be loaded.*nonsense"),
        (NAME, {"judge": True}, "OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_is_refused(name, options, found, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=found):
        load_env(name, **options)


def test_ctrl_c_stays_ours():
    before = signal.getsignal(signal.SIGINT)
    load_env(NAME)
    assert signal.getsignal(signal.SIGINT) is before


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "askesis", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_command_line_takes_it(tmp_path):
    report = json.loads(command("envs", "check", NAME, "--tasks", 4, "--option", "rows=200", "--json"))
    assert report["ok"] and report["policies"]["null"]["success"] == 0.0
    where = ("--env", NAME, "--option", "rows=200", "--tasks", 2, "--context-length", 900)
    assert json.loads(command("eval", "askesis-tiny", *where, "--json"))
    recipe = tmp_path / "r.toml"
    text = f'[run]\nsteps = 1\n[model]\ncheckpoint = "askesis-tiny"\n[env]\nname = "{NAME}"\n'
    recipe.write_text(text + "[rollout]\ncontext_length = 900\n")
    assert "What is" in command("train", recipe, "--dry-run")
