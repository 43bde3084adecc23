"""`web` at its door: tasks that can be done in a real browser, and a verdict that no page has a part in."""

import random
from collections import Counter

import pytest
import pytest_asyncio
from cheating import Scripted, call
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs.web import TEMPLATES, Web
from askesis.envs.web.environment import SITES
from askesis.envs.web.policies import Habits, Oracle
from askesis.envs.web.serving import Form
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, TraceStore, run_episode
from askesis.types import ConfigError, EnvError, Task, Thinking
from askesis.view import Episode, Story
from askesis.view.episode import spread

in_loop = pytest.mark.asyncio(loop_scope="module")
RENDERER = Qwen3Renderer(train_bpe(["web"], 300))
QUICK = {"contact": 3, "catalogue": 3, "shop": 1, "account": 3, "tickets": 3, "build": 2}  # a level of each


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def env():
    env = Web(max_turn_tokens=10**6, processes=1)
    yield env
    await env.close()


async def play(env, task, policy):
    speakers = PolicySpeakers(lambda spec: policy, RENDERER)
    stage = Stage(speakers=speakers, renderer=RENDERER, env=env, agent=load_agent("solo"))
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def drawn(template, level, split="train"):
    return Web(templates=[template], levels=[level], max_turn_tokens=10**6).tasks(split, seed=5, limit=1)[0]


@in_loop
@pytest.mark.parametrize("template", TEMPLATES)
async def test_the_oracle_succeeds_and_doing_nothing_does_not(env, template):
    task = drawn(template, QUICK[template])
    trace = await play(env, task, env.oracle(task))
    assert trace.success, (trace.outcome, trace.rewards, [node.message.text for node in trace.nodes])
    answer = {"answer": "0"} if task.data["check"]["kind"] == "answer" else {}
    idle = await play(env, task, Scripted(lambda task: [call("submit", **answer)], task))
    assert not idle.success and idle.outcome.reason == "submitted"


@pytest.mark.full
@in_loop
async def test_the_oracle_succeeds_at_two_hundred_heldout_tasks(env):
    for task in env.tasks("heldout", seed=9, limit=200):
        trace = await play(env, task, env.oracle(task))
        assert trace.success, (task.data["template"], task.data["level"], trace.outcome, trace.rewards)


@in_loop
async def test_screenshots_are_in_the_trace_the_store_and_the_page_that_shows_it(tmp_path):
    env = Web(max_turn_tokens=10**6, processes=1, screenshots="every")
    task = drawn("catalogue", 2)
    trace = await play(env, task, env.oracle(task))
    await env.close()
    assert trace.success and len(trace.artifacts) == len(trace.tool_events)
    assert {one.media_type for one in trace.artifacts} == {"image/jpeg"}
    with TraceStore(tmp_path / "t.db") as store:
        store.add([trace])
        kept = store.get(trace.id)
    assert kept.artifacts == trace.artifacts
    pieces = [["x"] * len(node.token_ids) if node.sampled else ["x"] for node in kept.nodes]
    shown = spread(Story(title="t", why="w", tone="a", episodes=[Episode(title="e", trace=kept, pieces=pieces)]))
    pictures = [picture for entry in shown.sheets[0].entries for picture in entry.pictures]
    assert len(pictures) == len(trace.artifacts) and all(one.source for one in pictures)


@in_loop
async def test_only_what_was_submitted_is_paid(env):
    task = drawn("catalogue", 1)
    want = task.data["check"]["want"]
    for text, paid in ((want, 1.0), (f' "{want.upper()}". ', 1.0), (f"it is {want}", 0.0), ("", 0.0)):
        trace = await play(env, task, Scripted(lambda task, text=text: [call("submit", answer=text)], task))
        assert trace.rewards[0].value == paid, text
    stopped = await play(env, task, Scripted(lambda task: [], task))
    assert stopped.outcome.reason == "stopped" and not stopped.success


def test_tasks_are_reproducible_and_of_all_templates_and_levels():
    env = Web()
    tasks = env.tasks("train", seed=3, limit=300)
    assert [task.id for task in tasks[:30]] == [task.id for task in Web().tasks("train", seed=3, limit=30)]
    assert {task.data["template"] for task in tasks} == set(TEMPLATES)
    assert min(Counter(task.data["level"] for task in tasks).values()) > 70
    assert not {task.id for task in tasks} & {task.id for task in env.tasks("heldout", seed=3, limit=100)}
    wants = [str(t.data["check"]["want"]) for t in tasks if t.data["check"]["kind"] == "answer"]
    assert Counter(wants).most_common(1)[0][1] <= 0.2 * len(wants)
    for task in tasks:
        assert len(task.data["solution"]) + 4 <= task.limits.max_turns, task.data["template"]


PATHS = ["/", "/contact", "/cart", "/cart/add", "/cart/coupon", "/checkout", "/checkout/review", "/signin", "/profile"]
PATHS += ["/security", "/security/confirm", "/inbox", "/close", "/item/1", "/product/2", "/ticket/x", "/ticket/٣", "//"]
NAMES = [
    "place",
    "count",
    "colour",
    "page",
    "sort",
    "category",
    "topic",
    "ticket",
    "password",
    "user",
    "email",
    "do",
    "x",
]
VALUES = st.sampled_from(["", "1", "-1", "99999999999", "²", "yes", "Send", "-price", "Repair"]) | st.text(max_size=12)


@pytest.mark.parametrize("name", SITES)
@settings(max_examples=60)
@given(data=st.data())
def test_a_site_answers_whatever_is_sent_to_it(name, data):
    """An exception would count as the machinery's fault, and so would let a policy out of its reward."""
    task = drawn(name, data.draw(st.sampled_from([1, 2, 3])))
    site = SITES[name](task.data["content"])
    before = str(task.data)
    if name == "account":
        login = [("user", task.data["content"]["user"]), ("password", task.data["content"]["password"])]
        site.post("/signin", Form(login))
    paths = [*PATHS, *(f"/ticket/{one['id']}" for one in task.data["content"].get("tickets", [])[:2])]
    for _ in range(6):
        fields = data.draw(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6))
        handle = data.draw(st.sampled_from([site.get, site.post]))
        assert handle(data.draw(st.sampled_from(paths)), Form(fields)).status_code in (200, 303, 404)
    assert str(task.data) == before, "a site changed the task that it was made from"


def test_the_demonstrator_slips_and_a_good_one_does_not():
    task = drawn("shop", 2)
    page = "\n".join(f"{step[1]} [e{at}]" for at, step in enumerate(task.data["solution"]) if len(step) > 1)

    def calls(policy):
        from askesis.types import tool_result, user

        messages, made = [user(task.prompt)], []
        for _ in range(60):
            said = policy.act(messages, Thinking(enabled=True))
            made.append((said.tool_calls[0].name, dict(said.tool_calls[0].arguments)))
            messages += [said, tool_result(f"Page\n{page}", tool_call_id="call_0")]
            if made[-1][0] == "submit":
                return made
        raise AssertionError("it never submits")

    good = [calls(Oracle(task, habits=Habits.good(), seed=seed)) for seed in range(5)]
    poor = [calls(Oracle(task, habits=Habits(), seed=seed)) for seed in range(20)]
    assert all(one == good[0] for one in good) and len(good[0]) == len(task.data["solution"])
    assert sum(one != good[0] for one in poor) > 3


@in_loop
async def test_bad_input_is_named(env):
    with pytest.raises(ConfigError, match="did you mean 'shop'"):
        Web(templates=["shopp"])
    with pytest.raises(ConfigError, match="levels"):
        Web(levels=[0])
    with pytest.raises(ConfigError, match="screenshots"):
        Web(screenshots="sometimes")
    with pytest.raises(EnvError, match="made by"):
        await env.setup(Task(env="web", prompt="x", data={}))
    with pytest.raises(ConfigError, match="did you mean 'poor'"):
        env.demonstrator(drawn("shop", 1), seed=0, quality="por")


def test_every_template_draws_other_tasks_for_other_seeds():
    for name, template in TEMPLATES.items():
        drawn = [template(random.Random(seed), 2) for seed in range(20)]
        assert len({one.prompt + str(one.content) for one in drawn}) == 20, name
