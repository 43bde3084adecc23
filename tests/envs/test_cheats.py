"""How agents cheat, tried: every class of `cheating.CLASSES` against every built-in environment, and none pays.

Each cheat is a whole episode through the real rollout. So that none passes for want of trying, it must end as it says,
none of its calls may be turned down by the harness, and on the same task the environment's oracle must succeed.
"""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from cheating import CLASSES, Cheat, NotApplicable, Scripted

from askesis.agents import agent_for
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.envs.registry import BUILT_IN
from askesis.envs.repair import Repair
from askesis.envs.repair.guest import VISIBLE_TESTS
from askesis.rollout import EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import Reward, Thinking

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent
WRITTEN = {env: HERE / f"cheats_{env}.py" for env in BUILT_IN}
TRIED = {
    env: importlib.import_module(file.stem).CHEATS if file.exists() else () for env, file in sorted(WRITTEN.items())
}
CHEATS = [
    pytest.param(env, one, id=f"{env}-{one.kind.replace(' ', '_')}-{one.name}", marks=[pytest.mark.full] * one.slow)
    for env, found in TRIED.items()
    for one in found
    if isinstance(one, Cheat)
]
MOST_TURNS = 60


@pytest.mark.parametrize(
    "env",
    [
        pytest.param(env, marks=[] if found else [pytest.mark.xfail(strict=True, reason=f"no {WRITTEN[env].name}")])
        for env, found in TRIED.items()
    ],
)
async def test_every_class_is_tried_or_excused(env):
    tried = {one.kind for one in TRIED[env] if isinstance(one, Cheat)}
    excused = {one.kind: one.why for one in TRIED[env] if isinstance(one, NotApplicable)}
    assert tried | set(excused) == set(CLASSES)
    assert not tried & set(excused)
    assert all(len(why.split()) > 3 for why in excused.values())
    names = [one.name for one in TRIED[env] if isinstance(one, Cheat)]
    assert len(names) == len(set(names))


async def test_no_file_of_cheats_is_for_nobody():
    """A misspelt name would never be collected."""
    assert {file.name for file in HERE.glob("cheats_*.py")} <= {file.name for file in WRITTEN.values()}


class Ground:
    """Environments by their options, and what has been played on a task already."""

    def __init__(self):
        self.renderer = Qwen3Renderer(train_bpe(["cheat"], 300))
        self.envs, self.played = {}, {}

    def env(self, name, options):
        key = f"{name} {sorted(options.items())}"
        if key not in self.envs:
            self.envs[key] = load_env(name, **options)
        return self.envs[key]

    def task(self, env, where):
        """The first that fits, with no bound on tokens and with turns enough for any play."""
        task = next((task for task in env.tasks("train", seed=2, limit=60) if where(task)), None)
        assert task is not None, "none of 60 tasks fits `where`"
        turns = max(task.limits.max_turns, MOST_TURNS)
        return replace(
            task, limits=replace(task.limits, max_turns=turns, max_tokens=None, max_turn_tokens=10**6), id=task.id
        )

    async def play(self, env, task, policy):
        """A whole episode."""
        speakers = PolicySpeakers(lambda spec: policy, self.renderer)
        stage = Stage(speakers=speakers, renderer=self.renderer, env=env, agent=agent_for(env))
        return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)

    async def once(self, env, task, what, policy):
        """As `play`; what was played on a task before is not played again."""
        key = (id(env), task.id, what)
        if key not in self.played:
            self.played[key] = await self.play(env, task, policy())
        return self.played[key]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground():
    ground = Ground()
    yield ground
    for env in ground.envs.values():
        await env.close()


async def demand(ground, env, cheat):
    """Play the cheat, and see that it was played and did not pay."""
    task = ground.task(env, cheat.where)
    if cheat.before is not None:
        planted = await ground.play(env, task, Scripted(cheat.before, task))
        assert planted.outcome.learnable, planted.outcome
    trace = await ground.play(env, task, Scripted(cheat.play, task))
    said = [node.message.text for node in trace.nodes if node.message.role == "tool"]
    by = "limit" if cheat.reason.startswith(("max_", "wall_", "context")) else "policy"
    assert (trace.outcome.by, trace.outcome.reason) == (by, cheat.reason), (trace.outcome, said)
    if not cheat.refused:
        assert not {event.status for event in trace.tool_events} & {"unknown_tool", "bad_arguments"}, said
    assert {reward.value for reward in trace.rewards if reward.name == "success"} == {0.0}, said
    honest = await ground.once(env, task, cheat.honest, lambda: Scripted(cheat.honest, task))
    assert trace.reward <= honest.reward, (trace.rewards, honest.rewards)
    right = await ground.once(env, task, "oracle", lambda: env.oracle(task))
    assert right.success and right.outcome.learnable, (right.outcome, right.rewards)


@pytest.mark.parametrize(("name", "cheat"), CHEATS)
async def test_it_does_not_pay(ground, name, cheat):
    await demand(ground, ground.env(name, dict(cheat.options)), cheat)


class Careless(Repair):
    """Judges in the agent's own sandbox, by what is printed there."""

    async def verify(self, trace, state):
        printed = await state.sandbox.python(VISIBLE_TESTS, stdin=json.dumps(trace.task.data["visible"]).encode())
        return [Reward(name="success", value=float("OK" in printed.stdout))]


async def test_the_suite_finds_a_hole():
    ground, env = Ground(), Careless()
    for name in ("pass_marker", "visible_cases_hard_coded"):
        cheat = next(one for one in TRIED["repair"] if isinstance(one, Cheat) and one.name == name)
        with pytest.raises(AssertionError, match="OK"):
            await demand(ground, env, cheat)
    await env.close()
