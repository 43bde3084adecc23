"""`terminal` at its door: tasks that a shell can do, and a verdict on what is left."""

import random
from collections import Counter

import pytest
import pytest_asyncio
from cheating import Scripted, call

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs.terminal import TEMPLATES, TerminalTasks
from askesis.envs.terminal.services import SERVICES
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import ConfigError, EnvError, Task, Thinking

in_loop = pytest.mark.asyncio(loop_scope="module")
RENDERER = Qwen3Renderer(train_bpe(["terminal"], 300))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def env():
    env = TerminalTasks(max_turn_tokens=10**6)
    yield env
    await env.close()


async def play(env, task, policy):
    speakers = PolicySpeakers(lambda spec: policy, RENDERER)
    stage = Stage(speakers=speakers, renderer=RENDERER, env=env, agent=load_agent("solo"))
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def drawn(template, level, split="train"):
    return TerminalTasks(templates=[template], levels=[level], max_turn_tokens=10**6).tasks(split, seed=5, limit=1)[0]


@in_loop
async def test_careful_workers_succeed_and_hurried_ones_often_do_not(env):
    tasks = env.tasks("train", seed=3, limit=12)
    good = [await play(env, task, env.demonstrator(task, seed=0, quality="good")) for task in tasks]
    poor = [await play(env, task, env.demonstrator(task, seed=0)) for task in tasks]
    assert all(trace.success for trace in good)
    assert 0 < sum(trace.success for trace in poor) < len(tasks)
    assert all(trace.outcome.reason == "submitted" for trace in (*good, *poor))
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        env.demonstrator(tasks[0], seed=0, quality="goood")


@in_loop
@pytest.mark.parametrize("template", TEMPLATES)
async def test_the_oracle_succeeds_and_an_untouched_tree_does_not(env, template):
    for level in (1, 2, 3):
        task = drawn(template, level)
        trace = await play(env, task, env.oracle(task))
        assert trace.success, (level, trace.outcome, [node.message.text for node in trace.nodes])
        if template in SERVICES and level != 2:
            continue  # a service on another port is waited for
        answer = {"answer": "0"} if task.data["check"]["kind"] == "answer" else {}
        idle = await play(env, task, Scripted(lambda task, a=answer: [call("submit", **a)], task))
        assert not idle.success and idle.outcome.reason == "submitted"


@pytest.mark.full
@in_loop
async def test_the_oracle_succeeds_at_two_hundred_heldout_tasks(env):
    for task in env.tasks("heldout", seed=9, limit=200):
        assert (await play(env, task, env.oracle(task))).success, (task.data["template"], task.data["level"])


def test_tasks_are_reproducible_and_of_all_templates_and_levels():
    env = TerminalTasks()
    tasks = env.tasks("train", seed=3, limit=400)
    assert [task.id for task in tasks[:50]] == [task.id for task in TerminalTasks().tasks("train", seed=3, limit=50)]
    assert {task.data["template"] for task in tasks} == set(TEMPLATES)
    assert min(Counter(task.data["level"] for task in tasks).values()) > 90
    assert not {task.id for task in tasks} & {task.id for task in env.tasks("heldout", seed=3, limit=100)}
    for task in tasks:
        if task.data["check"]["kind"] == "answer":
            assert not any(value in task.prompt for value in task.data["check"]["want"] if len(value) > 4)


def test_no_answer_can_be_guessed_by_always_saying_the_same():
    tasks = TerminalTasks(templates=[t for t in TEMPLATES if t != "newest_release"]).tasks("train", seed=1, limit=1000)
    wants = [",".join(task.data["check"]["want"]) for task in tasks if task.data["check"]["kind"] == "answer"]
    assert Counter(wants).most_common(1)[0][1] / len(wants) < 0.08


@in_loop
async def test_only_what_was_asked_for_is_judged(env):
    task = drawn("edit_config", 1)
    fix, path = task.data["solution"][0], next(iter(task.data["files"]))
    for extra, paid in (
        ("true", 1.0),
        ("echo notes > scratch", 1.0),
        (f"echo >> {path}", 1.0),
        (f"echo '# more' >> {path}", 0.0),
        (f"sed -i '/^#/d' {path}", 0.0),
        (f"mv {path} x; ln -s ../x {path}", 0.0),
        (f"mv {path} x; mkdir {path}", 0.0),
    ):
        steps = [call("run", command=f"{fix}; {extra}"), call("submit")]
        trace = await play(env, task, Scripted(lambda task, steps=steps: steps, task))
        assert trace.rewards[0].value == paid, extra
    unsubmitted = await play(env, task, Scripted(lambda task: [call("run", command=fix)], task))
    assert unsubmitted.outcome.reason == "stopped" and not unsubmitted.success


@in_loop
async def test_an_answer_is_one_answer(env):
    task = drawn("top_clients", 2)
    want = task.data["check"]["want"]
    for said, paid in (
        (", ".join(want), 1.0),
        (f" {','.join(want)}\n", 1.0),
        (",".join(reversed(want)), 0.0),
        (",".join([*want, want[0]]), 0.0),
        (f"it is {','.join(want)}", 0.0),
        ("", 0.0),
    ):
        trace = await play(env, task, Scripted(lambda task, said=said: [call("submit", answer=said)], task))
        assert trace.rewards[0].value == paid, said


@in_loop
async def test_a_service_is_judged_by_a_new_start_on_other_data(env):
    task = drawn("table_service", 1)
    mend = task.data["solution"][0]
    for commands, paid in (
        ([mend], 1.0),
        (
            [mend, "python3 service.py > /dev/null 2>&1 & disown"],
            1.0,
        ),  # one of the agent's own does not stand in the way
        ([mend, "sed -i 's/^TABLE = {}/import time; time.sleep(2); TABLE = {}/' service.py"], 1.0),
        ([mend, "rm table.txt; mkdir table.txt"], 0.0),
        ([mend, "echo 'import sys; sys.exit(0)' > service.py"], 0.0),
        ([mend, "sed -i 's/return .error./return line/' service.py"], 0.0),
    ):
        steps = [*(call("run", command=command) for command in commands), call("submit")]
        trace = await play(env, task, Scripted(lambda task, steps=steps: steps, task))
        assert trace.outcome.learnable and trace.rewards[0].value == paid, commands


def test_every_template_draws_other_tasks_for_other_seeds():
    for name, template in TEMPLATES.items():
        assert (
            len(
                {
                    template(random.Random(seed), 2).prompt + str(template(random.Random(seed), 2).files)
                    for seed in range(20)
                }
            )
            == 20
        ), name


@in_loop
async def test_bad_input_is_named(env):
    with pytest.raises(ConfigError, match="did you mean 'rename'"):
        TerminalTasks(templates=["renam"])
    with pytest.raises(ConfigError, match="levels"):
        TerminalTasks(levels=[4])
    with pytest.raises(EnvError, match="made by"):
        await env.setup(Task(env="terminal", prompt="x", data={}))
