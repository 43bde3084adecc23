"""A thinking budget is kept, or refused where nobody would keep it: never ignored."""

import pytest

import askesis
from askesis.loop import load_recipe
from askesis.loop.stream import thinking_of
from askesis.types import ConfigError, Thinking

RECIPE = {"run": {"steps": 1}, "env": {"name": "repair"}}


def test_a_recipes_budget_reaches_its_mode():
    recipe = load_recipe(RECIPE | {"rollout": {"modes": [{"thinking": True, "budget": 7}, {"thinking": False}]}})
    assert [thinking_of(mode).mode for mode in recipe.rollout.modes] == ["think:7", "no_think"]
    with pytest.raises(ConfigError, match=r"rollout\.modes\[0\]: budget = 0 has no use where thinking = false"):
        load_recipe(RECIPE | {"rollout": {"modes": [{"thinking": False, "budget": 0}]}})


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"thinking": False, "budget": 3}, "budget=3 has no use with thinking=False"),
        ({"thinking": Thinking(), "budget": 3}, "budget=3 has no use"),
        ({"thinking": "off"}, "thinking='off', expected True, False, 'both' or a Thinking"),
    ],
)
def test_an_evaluation_refuses_what_it_would_ignore(toy_model, asked, part):
    from toy_env import TOY

    with pytest.raises(ConfigError, match=part):
        askesis.evaluate(toy_model, env=TOY, tasks=1, **asked)


def test_an_evaluation_keeps_to_its_budget(toy_model):
    from toy_env import TOY

    evaluation = askesis.evaluate(toy_model, env=TOY, tasks=4, budget=2)
    assert [row.mode for row in evaluation.rows] == ["think:2", "no_think"]
