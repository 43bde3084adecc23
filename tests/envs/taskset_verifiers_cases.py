"""Tasksets of verifiers, against the real package, in what `make venv-verifiers` makes."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from cheating import Scripted, call

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import ConfigError, Thinking, ToolCall, assistant, user

NAME = "verifiers:vf_sums"
RENDERER = Qwen3Renderer(train_bpe(["play"], 300))


async def played(env, play, agent=None, **limits):
    task = env.tasks("heldout", limit=1)[0]
    task = replace(task, limits=replace(task.limits, **limits), id=task.id)
    stage = Stage(
        speakers=PolicySpeakers(lambda spec: Scripted(play, spec.task), RENDERER),
        renderer=RENDERER,
        env=env,
        agent=agent or load_agent("solo"),
    )
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def rewards(trace):
    return {term.name: (term.value, term.weight) for term in trace.rewards}


def right(task):
    return task.data["task"]["answer"]


async def test_a_task_is_set_up_finalized_and_scored_by_its_own_hooks():
    trace = await played(load_env(NAME), lambda task: [assistant(right(task))])
    assert [node.message.text for node in trace.nodes][:2] == ["Say a number.", trace.task.prompt]
    assert rewards(trace) == {
        **{"success": (1, 0), "right": (1, 1), "counted": (0, 0.5)},
        **{"turns": (1, 0), "branches": (1, 0)},
    }
    assert trace.success and trace.outcome.by == "policy"
    wrong = await played(load_env(NAME), lambda task: [assistant("many")])
    assert wrong.reward == 0.0 and not wrong.success


async def test_tools_share_the_tasks_state_and_stops_end_an_episode():
    env = load_env(NAME, tools=True)
    two = tuple(ToolCall(id=str(n), name="bump", arguments={"by": n}) for n in (1, -1))
    trace = await played(env, lambda task: [assistant(tool_calls=two), call("bump"), call("bump", by=5), call("bump")])
    results = [node.message.text for node in trace.nodes if node.message.role == "tool"]
    assert results == ["count=1", "error: ValueError: only upwards", "count=2", "count=7"]
    assert (trace.outcome.reason, trace.outcome.detail) == ("finished", "enough")
    assert rewards(trace)["counted"] == (7.0, 0.5) and rewards(trace)["turns"] == (3.0, 0.0)
    again = await played(env, lambda task: [call("bump"), assistant(right(task))])
    assert rewards(again)["counted"] == (1.0, 0.5) and again.success
    refused = await played(env, lambda task: [call("bump", by="many"), "x"])
    assert [event.status for event in refused.tool_events] == ["bad_arguments"]


async def test_stops_are_asked_between_turns_whatever_became_of_the_calls():
    env = load_env(NAME, tools=True, turns=2)
    beside = (
        ToolCall(id="0", name="bump", arguments={"by": "many"}),
        ToolCall(id="1", name="bump", arguments={"by": 1}),
        ToolCall(id="2", name="nope", arguments={}),
    )
    trace = await played(env, lambda task: [assistant(tool_calls=beside)] * 9)
    assert (trace.outcome.reason, trace.outcome.detail, trace.turns) == ("finished", "turned", 2)
    assert rewards(trace)["counted"] == (2.0, 0.5)
    refused = await played(env, lambda task: [call("nope")] * 9)
    assert (refused.outcome.detail, refused.turns) == ("turned", 2)


async def test_what_toolsets_hold_is_closed_before_the_verdict_by_the_task_that_opened_it():
    from vf_sums import HELD

    HELD.clear()
    trace = await played(load_env(NAME, tools=True), lambda task: [call("bump"), assistant(right(task))])
    assert trace.success and HELD == ["open", "closed"]
    env = load_env(NAME, tools=True)
    state = await env.setup(env.tasks("train", limit=1)[0])
    await state.close()
    await state.close()
    assert HELD == ["open", "closed"] * 2 and len(asyncio.all_tasks()) == 1


class Shortens:
    """Goes on from less after its first turn, and lets another one have the last word."""

    name = "shortens@1"

    async def run(self, session):
        session.add(*session.opening)
        await session.call((await session.turn()).tool_calls)
        session.restart([user("Go on.")])
        await session.call((await session.turn()).tool_calls)
        if not session.ended:
            assert (await session.spawn("Say something.")).text == "something else"


async def test_their_trace_branches_where_ours_does_and_a_sub_agents_words_are_not_the_last():
    plays = [lambda task: [call("bump"), assistant(right(task))], lambda task: [assistant("something else")]]
    trace = await played(load_env(NAME, tools=True), lambda task: plays.pop(0)(task), agent=Shortens())
    assert trace.success and rewards(trace)["branches"] == (3.0, 0.0) and rewards(trace)["turns"] == (3.0, 0.0)
    stopped = await played(load_env(NAME, tools=True, turns=2), lambda task: [call("bump")] * 2, agent=Shortens())
    assert (stopped.outcome.detail, rewards(stopped)["turns"]) == ("turned", (2.0, 0.0))


async def test_failures_are_typed():
    broken = await played(load_env(NAME, broken=True), lambda task: [assistant("1")])
    assert (broken.outcome.by, broken.rewards) == ("verifier", ()) and "no luck" in broken.outcome.detail
    unprepared = await played(load_env(NAME, unprepared=True), lambda task: [assistant("1")])
    assert (unprepared.outcome.by, unprepared.outcome.reason) == ("environment", "setup")
    assert "no room" in unprepared.outcome.detail


async def test_programs_of_theirs_run_only_where_that_is_asked_for():
    with pytest.raises(ConfigError, match=r"setup.*run programs.*runtime=subprocess"):
        load_env("verifiers:vf_programs")
    env = load_env("verifiers:vf_programs", runtime="subprocess")
    assert (await played(env, lambda task: [assistant("7")])).success
    assert not (await played(env, lambda task: [assistant("8")])).success


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("verifiers:vf_talks", {}, "Talking drives the conversation itself"),
        ("verifiers:vf_nothing", {}, "no module 'vf_nothing'"),
        (NAME, {"row": 3}, "cannot be loaded.*row"),
        (NAME, {"rows": 0}, "has no tasks"),
        (NAME, {"runtime": "docker"}, "expected none or subprocess"),
        ("verifiers:textarena", {"game": "Wordle-v0"}, "cannot import verifiers.v1.tasksets.textarena"),
    ],
)
def test_what_cannot_be_is_refused(name, options, found):
    with pytest.raises(ConfigError, match=found):
        load_env(name, **options)


def test_splits_and_the_command_line(tmp_path):
    env = load_env(NAME, most=48)
    train, held = env.tasks("train"), env.tasks("heldout")
    assert len(train) + len(held) == 48 and held and not {t.id for t in train} & {t.id for t in held}

    def command(*arguments):
        run = [sys.executable, "-m", "askesis", *map(str, arguments)]
        done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    report = json.loads(command("envs", "check", NAME, "--tasks", 4, "--json"))
    assert report["ok"] and report["policies"]["random"]["success"] == 0.0
    where = ("--env", NAME, "--option", "tools=true", "--tasks", 2, "--context-length", 900)
    assert json.loads(command("eval", "askesis-tiny", *where, "--json"))
    recipe = tmp_path / "r.toml"
    text = f'[run]\nsteps = 1\n[model]\ncheckpoint = "askesis-tiny"\n[env]\nname = "{NAME}"\n'
    recipe.write_text(text + "[rollout]\ncontext_length = 900\n")
    assert "What is" in command("train", recipe, "--dry-run")
