"""Gymnasium's own environments, and classes of their kind, as tasks: real ones, played to their end."""

import asyncio
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from cheating import Scripted, call
from gymnasium import spaces

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.envs.adapters.gym_spaces import Unfit, action_of, schema_of, told, uncoloured
from askesis.envs.policies import RandomPolicy
from askesis.loop.checking import Checker
from askesis.loop.scripted import play_policy
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import ConfigError, EnvError, Thinking, ToolSpec

HERE = Path(__file__).with_name("gym_classes.py")
RENDERER = Qwen3Renderer(train_bpe(["step"], 300))
LAKES = {"vary": f"{HERE}:maps", "oracle": f"{HERE}:crossing"}


def children():
    return {one for path in Path("/proc/self/task").glob("*/children") for one in path.read_text().split()}


async def play(env, task, *actions):
    """An episode that takes these actions and stops."""
    steps = [call("step", action=action) for action in actions]
    policy = Scripted(lambda task: steps, task)
    speakers = PolicySpeakers(lambda spec: policy, RENDERER)
    stage = Stage(speakers=speakers, renderer=RENDERER, env=env, agent=load_agent("solo"))
    task = replace(task, limits=replace(task.limits, max_turn_tokens=10**6))
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def paid(trace):
    return {term.name: term.value for term in trace.rewards}, trace.reward


async def test_a_registered_environment_keeps_all_that_an_environment_promises():
    before = children()
    report = await Checker("gymnasium:FrozenLake-v1", options=LAKES, tasks=10).run()
    wrong = [one for one in report.checks if one.state != "ok"]
    assert not wrong, wrong
    assert report.policies["oracle"].rows[0].summary.success == 1.0
    assert report.policies["random"].rows[0].summary.success < 0.5
    assert children() <= before


async def test_a_picture_is_read_and_the_rewards_are_the_environments():
    env = load_env("gymnasium:FrozenLake-v1", **LAKES, actions=["left", "down", "right", "up"])
    (task,) = env.tasks("train", seed=3, limit=1)
    assert task.prompt.startswith("Frozen lake involves crossing") and "- 0: Move left" in task.prompt
    assert task.prompt.endswith("\n".join(task.data["kwargs"]["desc"]).replace("S", "[S]", 1))
    named = [["left", "down", "right", "up"][action] for action in env.oracle(task)._actions]
    trace = await play(env, task, *named)
    assert (trace.outcome.by, trace.outcome.reason) == ("policy", "terminated")
    assert paid(trace) == ({"success": 1.0, "return": 1.0, "steps": len(named)}, 1.0)
    assert "[G]" in trace.nodes[-1].message.text and "The episode is over." in trace.nodes[-1].message.text
    stopped = await play(env, task, "sideways", "left")
    assert (stopped.outcome.reason, paid(stopped)[0]["steps"], stopped.reward) == ("stopped", 1, 0.0)
    assert "bad_arguments" in {event.status for event in stopped.tool_events}
    await env.close()


async def test_colours_that_say_something_and_what_a_success_is():
    env = load_env("gymnasium:Taxi-v4", max_turns=12, pay="success", success_at=-1000)
    task = env.tasks("heldout", limit=1)[0]
    assert "yellow ground" in task.prompt and "blue" in task.prompt and "magenta" in task.prompt
    trace = await play(env, task, 4, 4)
    assert paid(trace) == ({"success": 0.0, "return": -20.0, "steps": 2.0}, 0.0)  # it was left, not ended
    limited = await play(env, task, *[4] * 13)
    assert (limited.outcome.by, limited.outcome.reason, limited.turns) == ("limit", "max_turns", 12)
    await env.close()


async def test_leaving_early_is_no_success_and_pays_no_more_than_an_attempt_where_steps_cost():
    car = load_env("gymnasium:MountainCar-v0", pay="success")  # registered with -110
    assert paid(await play(car, car.tasks("train", limit=1)[0], 0)) == ({"success": 0, "return": -1, "steps": 1}, 0.0)
    await car.close()
    for name, kwargs in (("MountainCar-v0", {}), ("CliffWalking-v1", {"max_episode_steps": 20}), ("Taxi-v4", {})):
        env = load_env(f"gymnasium:{name}", kwargs=kwargs)
        task = env.tasks("train", limit=1)[0]
        left, once, tried = await play(env, task), await play(env, task, 0), await play(env, task, *[0] * 200)
        assert tried.outcome.reason == "truncated" and left.reward == once.reward <= tried.reward < -19, name
        await env.close()
        again = load_env(f"gymnasium:{name}", kwargs=kwargs)
        assert again._judging == env._judging  # the same at every time
        await again.close()
    cards = load_env("gymnasium:Blackjack-v1")
    assert (await play(cards, cards.tasks("train", limit=1)[0])).reward == -1.0  # no hand is passed
    await cards.close()
    given = load_env("gymnasium:Taxi-v4", unfinished=-200.0)
    assert (await play(given, given.tasks("train", limit=1)[0], 0)).reward == -200.0
    await given.close()
    for name, options in (("CartPole-v1", {}), ("Taxi-v4", {"unfinished": "sum"})):
        env = load_env(f"gymnasium:{name}", **options)
        trace = await play(env, env.tasks("train", limit=1)[0], 0)
        assert abs(trace.reward) == 1.0 and trace.outcome.reason == "stopped"
        await env.close()


async def test_arrays_are_read_a_threshold_counts_and_the_environments_own_limit_is_a_limit():
    env = load_env("gymnasium:CartPole-v1", show=f"{HERE}:shown", kwargs={"max_episode_steps": 3}, scale=0.1)
    task = env.tasks("train", limit=1)[0]
    assert "cart at " in task.prompt.splitlines()[-1] and task.limits.max_turns == 3
    trace = await play(env, task, 0, 1, 0)
    assert (trace.outcome.by, trace.outcome.reason, round(trace.reward, 6)) == ("limit", "truncated", 0.3)
    assert paid(trace)[0]["success"] == 0.0  # it is registered with 475
    await env.close()
    plain = load_env("gymnasium:CartPole-v1", prompt="Balance the pole.")
    assert plain.tasks("train", limit=1)[0].prompt.startswith("Balance the pole.\n\n[")
    await plain.close()


async def test_blackjack_is_won_and_lost_as_chance_has_it():
    env = load_env("gymnasium:Blackjack-v1")
    tasks = env.tasks("heldout", limit=60)
    assert [task.id for task in tasks[:9]] == [task.id for task in env.tasks("heldout", limit=9)]
    assert not {task.data["seed"] for task in tasks} & {task.data["seed"] for task in env.tasks("train", limit=200)}
    row = (await play_policy(env, "random", tasks=tasks)).rows[0].summary
    assert row.outcomes == {"policy:terminated": 60}
    assert 0.05 < row.success < 0.6
    await env.close()


FAILURES = {
    "raise": ("raised", "error", "RuntimeError: the dice are lost (gym_classes.py, line"),
    "nan": ("raised", "error", "reward of a step is nan"),
    "die": ("raised", "error", "ended with exit code 7"),
    "hang": ("hung", "timeout", "no answer to 'step' within 1 s"),
}


async def test_what_fails_in_an_environment_again_on_the_same_actions_is_the_policys_doing():
    env = load_env(f"gymnasium:{HERE}:Guess", step_s=1.0, success_key="won", workers=0)
    tasks = env.tasks("train", limit=6)
    assert tasks[0].prompt.endswith("A number from 1 to 9.")
    number = str(tasks[0].data["seed"] % 9 + 1)
    fine, *failed = await asyncio.gather(
        play(env, tasks[0], "0", number), *(play(env, tasks[1], action) for action in FAILURES)
    )
    assert (fine.success, fine.reward, fine.turns) == (True, 1.0, 2)
    assert "too large" not in fine.nodes[-1].message.text and "right\nreward: 1" in fine.nodes[-1].message.text
    for trace, (reason, _, said) in zip(failed, FAILURES.values(), strict=True):
        assert (trace.outcome.by, trace.outcome.reason) == ("policy", reason) and said in trace.outcome.detail
        assert paid(trace) == ({"success": 0.0, "return": 0.0, "steps": 0.0}, 0.0)
    later = await play(env, tasks[2], "0", "raise")
    assert (later.outcome.reason, paid(later)[0]["steps"], later.reward) == ("raised", 1.0, 0.0)
    again = await play(env, tasks[4], *"12345")
    assert again.outcome.reason in ("terminated", "truncated")
    await env.close()
    await env.close()


async def test_who_makes_an_environment_fail_is_paid_no_more_than_who_leaves_it():
    env = load_env(f"gymnasium:{HERE}:Ledge")
    task = env.tasks("train", limit=1)[0]
    fell, left, tried = await play(env, task, 0, 2), await play(env, task), await play(env, task, *[0] * 9)
    assert (fell.outcome.by, fell.outcome.reason) == ("policy", "raised") and fell.outcome.learnable
    assert fell.reward == left.reward < -1.0 and tried.reward == -9.0
    await env.close()


async def test_what_fails_once_or_always_is_the_environments_failure(tmp_path):
    flaky = {"kwargs": {"flag": str(tmp_path / "failed")}}
    for name, options, said in (
        ("Flaky", flaky, "not when the same actions were taken again: .*OSError: no memory"),
        ("Broken", {}, "fails on every first action that was tried: .*ImportError: no dice here"),
    ):
        env = load_env(f"gymnasium:{HERE}:{name}", **options)
        trace = await play(env, env.tasks("train", limit=1)[0], "1")
        assert (trace.outcome.by, trace.rewards) == ("environment", ()) and not trace.outcome.learnable
        assert re.search(said, trace.outcome.detail), trace.outcome
        await env.close()
    for action, (reason, other, said) in FAILURES.items():
        for raising, end in (("infrastructure", ("environment", other)), ("end", ("policy", reason))):
            env = load_env(f"gymnasium:{HERE}:Guess", step_s=1.0, raising=raising)
            trace = await play(env, env.tasks("train", limit=1)[0], action)
            assert (trace.outcome.by, trace.outcome.reason) == end and said in trace.outcome.detail
            assert bool(trace.rewards) == (raising == "end")
            await env.close()


async def test_an_environment_of_the_old_kind_whose_arguments_are_drawn():
    env = load_env(f"gymnasium:{HERE}:Old", vary=f"{HERE}:sizes", kwargs={"size": 1}, workers=0)
    train, heldout = env.tasks("train", limit=300), env.tasks("heldout", limit=300)
    sizes = [{task.data["kwargs"]["size"] for task in split} for split in (train, heldout)]
    assert len(train) == 300 and not sizes[0] & sizes[1] and len(sizes[0] | sizes[1]) == 40
    assert "[20 x 20 numbers from" in train[0].prompt
    trace = await play(env, train[0], "30", "30")
    assert trace.outcome.reason == "terminated" and trace.success and "at: " in trace.nodes[-1].message.text
    await env.close()


async def test_an_environment_that_does_not_follow_its_seed_is_found_out():
    env = load_env(f"gymnasium:{HERE}:Drifting")
    with pytest.raises(EnvError, match="does not follow its seed"):
        await env.setup(env.tasks("train", limit=1)[0])
    await env.close()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("FrozenLak-v1", {}, "doesn't exist|NameNotFound"),
        ("FrozenLake-v1", {"kwargs": {"colour": 1}}, "could not be made with"),
        ("FrozenLake-v1", {"kwargs": {"desc": ("S", "G")}}, "plain JSON"),
        ("FrozenLake-v1", {"actions": ["left"]}, "one name for each action"),
        ("FrozenLake-v1", {"observe": "pixels"}, "expected one of auto, ansi"),
        ("CartPole-v1", {"observe": "ansi"}, "draws no text"),
        ("CartPole-v1", {"pay": "sucess"}, "expected 'return'"),
        ("CartPole-v1", {"raising": "stop"}, "expected one of replay, end, infrastructure"),
        ("CartPole-v1", {"unfinished": "least"}, "expected a number, 'auto' or 'sum'"),
        ("CartPole-v1", {"show": f"{HERE}:shwn"}, "did you mean 'shown'"),
        ("CartPole-v1", {"vary": "nothing"}, "package.module:function"),
        (f"{HERE}:Gues", {}, "has no 'Gues'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_played(name, options, said):
    before = children()
    with pytest.raises(ConfigError, match=said):
        load_env(f"gymnasium:{name}", **options)
    assert children() <= before


SPACES = [
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 5]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(4),
    spaces.Box(-1.5, 2.5, (2, 3), np.float32),
    spaces.Box(np.array([0, -5]), np.array([9, 5]), dtype=np.int64),
    spaces.Box(-np.inf, np.inf, (1,)),
    spaces.Text(5, charset="abc"),
    spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
    spaces.Dict({"turn": spaces.Discrete(2), "by": spaces.Box(0, 90, (), np.float64)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_whatever_fits_the_schema_of_an_action_is_one(space):
    schema = {"type": "object", "properties": {"action": schema_of(space)}, "required": ["action"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    policy = RandomPolicy([ToolSpec(name="step", description="x", parameters=schema)], seed=1)
    fits = 0
    for _ in range(40):
        given = json.loads(json.dumps(policy.act([], Thinking()).tool_calls[0].arguments))["action"]
        try:
            assert space.contains(action_of(space, given))
            fits += 1
        except Unfit:
            assert isinstance(space, spaces.Text)  # a schema knows nothing of its characters
    assert fits or isinstance(space, spaces.Text)
    for wrong in ("x" * 9, None, [1e9] * 9, {"turn": 7}):
        with pytest.raises(Unfit):
            action_of(space, wrong)


def test_spaces_that_no_call_can_say_are_refused():
    for space, said in ((spaces.Graph(spaces.Discrete(2), None), "Graph"), (spaces.Box(0, 1, (99,)), "room for 64")):
        with pytest.raises(Unfit, match=said):
            schema_of(space)


def test_observations_are_short_and_readable():
    assert told((np.int64(3), 0.123456, True, "x")) == "(3, 0.1235, true, x)"
    assert told(np.array([[1.0, -2.5]])) == "[[1, -2.5]]"
    assert (
        told({"image": np.zeros((210, 160, 3), np.uint8)})
        == "image: [210 x 160 x 3 numbers from 0 to 0, 0 in the mean]"
    )
    assert uncoloured("S\x1b[41mF\x1b[0mG") == "S[F]G"
    assert uncoloured("\x1b[31mA\x1b[0m\nB\x1b[1;44mC\x1b[0m") == (
        "A\nBC\nMarked: red 'A' at row 1, column 1, blue ground 'C' at row 2, column 2."
    )


def test_the_process_ends_with_whoever_started_it():
    code = (
        "import os; from askesis.envs import load_env; env = load_env('gymnasium:CartPole-v1'); "
        "print(env._workers._all[0]._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    process = Path(f"/proc/{int(done.stdout)}/cmdline")
    while process.exists() and process.read_bytes():
        time.sleep(0.05)
