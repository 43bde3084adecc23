"""OpenEnv servers: one that speaks as they do and fails as it is told, and (in `make test-full`) the package's own."""

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cheating import Scripted, call

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.loop.checking import Checker
from askesis.loop.scripted import play_policy
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import ConfigError, Thinking

HERE = Path(__file__).parent
DOUBLE = {"folder": str(HERE), "prompt": "Come to 10.", "start_s": 60.0}
ORACLE = {"oracle": f"{HERE / 'openenv_double.py'}:ten"}
REAL = Path(__file__).parents[2] / ".venv-openenv" / "bin"
RENDERER = Qwen3Renderer(train_bpe(["step"], 300))


def children():
    return {one for path in Path("/proc/self/task").glob("*/children") for one in path.read_text().split()}


async def play(env, task, *steps):
    policy = Scripted(lambda task: list(steps), task)
    speakers = PolicySpeakers(lambda spec: policy, RENDERER)
    stage = Stage(speakers=speakers, renderer=RENDERER, env=env, agent=load_agent("solo"))
    task = replace(task, limits=replace(task.limits, max_turn_tokens=10**6))
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def heard(trace):
    return [node.message.text for node in trace.nodes if node.message.role == "tool"]


@pytest.fixture(scope="module")
def server():
    """One that stays for all tests of this module."""
    env = load_env("openenv:openenv_double:app", **DOUBLE)
    yield env._address()
    env._stop()


async def test_a_server_that_is_started_here_keeps_all_that_an_environment_promises():
    before = children()
    options = DOUBLE | ORACLE | {"first": "prompt"}
    report = await Checker("openenv:openenv_double:steady", options=options, tasks=5).run()
    assert {one.name for one in report.checks if one.state != "ok"} <= {"setup"}, report.checks
    assert report.policies["oracle"].rows[0].summary.success == 1.0
    assert children() <= before


async def test_actions_observations_and_rewards_are_the_servers(server):
    env = load_env(f"openenv:{server}", kwargs={"more": 2}, step_s=5.0)
    task = env.tasks("train", limit=1)[0]
    assert task.prompt == "adding: Come to 10." and task.data["kwargs"] == {"more": 2}
    state = await env.setup(task)
    step, look = (one.spec for one in env.tools(task, state))
    assert set(step.parameters["properties"]) == {"number", "how"} and step.parameters["required"] == ["number"]
    assert "raise" in step.parameters["$defs"]["How"]["enum"] and look.name == "look"
    await state.close()
    at = task.data["seed"] % 5 + 2
    bad, number = call("step", number=12), call("step", number=10 - at)
    trace = await play(env, task, call("look"), bad, call("step", number=1, how="down"), call("step", number=1), number)
    assert heard(trace)[0] == f"at {at}" and "12 is greater" in heard(trace)[1]
    assert heard(trace)[2] == f'total: {at - 1}\nseen: [1, "down"]\nreward: 0'
    assert (trace.outcome.reason, trace.success, trace.reward) == ("terminated", True, 1.0)
    shown = load_env(f"openenv:{server}", first="prompt", show=f"{HERE / 'openenv_double.py'}:shown")
    assert shown.tasks("train", limit=1)[0].prompt.endswith("<{'message': 'at " + str(task.data["seed"] % 5) + "'}>")
    await shown.close()


async def test_whatever_a_server_does_wrong_on_the_same_actions_again_is_the_policys_doing(server):
    for raising in ("replay", "infrastructure"):
        env = load_env(f"openenv:{server}", step_s=1.0, raising=raising)
        task = env.tasks("train", limit=1)[0]
        for how, reason, said in (
            ("hang", "hung", "no answer to 'step' within 1 s"),
            ("raise", "raised", "EXECUTION_ERROR: the dice are lost"),
            ("leave", "raised", "the server is gone"),
            ("babble", "raised", "answered ['what?']"),
        ):
            trace = await play(env, task, call("step", number=1), call("step", number=1, how=how))
            assert said in trace.outcome.detail, trace.outcome
            if raising == "replay":
                assert (trace.outcome.by, trace.outcome.reason, trace.reward) == ("policy", reason, 0.0)
            else:
                assert (trace.outcome.by, trace.rewards) == ("environment", ())
        await env.close()


async def test_a_server_that_dies_is_started_again_and_its_episodes_are_played_again():
    env = load_env("openenv:openenv_double:app", **DOUBLE | ORACLE)
    tasks = env.tasks("heldout", limit=3)
    killed, kept = [], []

    class Unlucky(Scripted):
        """Before its first step, of all episodes together, the server is killed from outside."""

        def act(self, messages, thinking):
            if not killed:
                killed.append(env._served._process)
                killed[0].kill()
                killed[0].wait()
            return super().act(messages, thinking)

    class Store:
        def add(self, traces, **_):
            kept.extend(traces)

    def made(spec, tools):
        steps = [call(one["tool"], **one["arguments"]) for one in env.oracle(spec.task)._actions]
        return Unlucky(lambda task: steps, spec.task)

    found = await play_policy(env, made, tasks=tasks, store=Store(), concurrency=1)
    assert found.rows[0].summary.success == 1.0 and found.rows[0].summary.episodes == 3
    lost = [trace.outcome for trace in kept if trace.outcome.by == "environment"]
    assert len(lost) == 1 and "not when the same actions were taken again" in lost[0].detail
    await env.close()


async def test_sessions_that_are_taken_are_waited_for():
    env = load_env("openenv:openenv_double:narrow", **DOUBLE | ORACLE)
    found = await play_policy(env, "oracle", tasks=env.tasks("heldout", limit=4), concurrency=4)
    assert found.rows[0].summary.success == 1.0 and set(found.rows[0].summary.outcomes) == {"policy:terminated"}
    await env.close()


async def test_an_environment_of_tools_offers_them_by_their_names():
    env = load_env("openenv:openenv_double:calling", **DOUBLE, success_at=1.5)
    task = env.tasks("train", limit=1)[0]
    trace = await play(
        env, task, call("look"), call("add", a=2, b=3), call("add", a="x", b=1), call("lose"), call("add", a=4, b=6)
    )
    said = heard(trace)
    assert (said[0], said[1], said[3]) == ("ready", "5\nreward: 0.5", "error: it is lost\nreward: 0")
    assert "bad_arguments" in {event.status for event in trace.tool_events}
    assert trace.success and trace.reward == 1.5 and trace.outcome.reason == "terminated"
    await env.close()


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("http://127.0.0.1:9", {}, "does not answer as an OpenEnv server does: .*refused"),
        ("nowhere", {}, "http://host:port, or package.module:app"),
        ("openenv_double:ap", {}, "ended with exit code 1; its last words: (.|\n)*has no attribute 'ap'"),
        ("openenv_double:app", {"python": "/no/python"}, "could not be started with /no/python"),
        ("openenv_double:app", {"first": "see"}, "expected 'look' or 'prompt'"),
        ("openenv_double:app", {"unfinished": "auto"}, "expected a number, or 'sum'"),
    ],
)
def test_what_does_not_answer_is_said_before_anything_is_played(target, options, said):
    before = children()
    with pytest.raises(ConfigError, match=said):
        load_env(f"openenv:{target}", **DOUBLE | options)
    assert children() <= before


@pytest.fixture
def echo(tmp_path):
    """The folder in which `openenv init` has made its environment."""
    assert REAL.is_dir(), "no .venv-openenv here, against which this is tested: make venv-openenv (make test-full does)"
    subprocess.run([REAL / "openenv", "init", "echo_env"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.mark.full
async def test_the_environment_that_the_package_makes(echo):
    """Its server in its own interpreter, by its application and by its class."""
    options = {"python": str(REAL / "python"), "folder": str(echo), "start_s": 300.0, "prompt": "Say it."}
    for target in ("echo_env.server.app:app", "echo_env.server.echo_env_environment:EchoEnvironment"):
        env = load_env(f"openenv:{target}", **options, first="prompt", success_at=1.0)
        task = env.tasks("train", limit=1)[0]
        assert task.prompt.startswith("Say it.\n\nechoed_message: ") and "environment ready!" in task.prompt
        traces = await asyncio.gather(
            *(play(env, task, call("step", message="Hello " * n), call("step", message=1)) for n in (1, 2, 3))
        )
        for n, trace in enumerate(traces, 1):
            assert f"echoed_message: {'Hello ' * n}\nmessage_length: {6 * n}\nreward: {0.6 * n:g}" in heard(trace)[0]
            assert "is not of type 'string'" in heard(trace)[1]
            assert (trace.outcome.reason, trace.success) == ("stopped", False)  # it has no end
        await env.close()
    env = load_env(f"openenv:{target}", **options | {"prompt": ""})
    assert env.tasks("train", limit=1)[0].prompt.startswith("EchoEnvironment: ")
    await env.close()
