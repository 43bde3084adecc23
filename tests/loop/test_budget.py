"""A thinking budget is kept, or refused where nobody would keep it: never ignored."""

from collections import Counter

import pytest

import askesis
from askesis.loop import load_recipe
from askesis.loop.stream import ModeDeal, all_thinkings
from askesis.types import ConfigError, Thinking

RECIPE = {"run": {"steps": 1}, "env": {"name": "repair"}}


def test_a_recipes_budget_reaches_its_mode():
    recipe = load_recipe(RECIPE | {"rollout": {"modes": [{"thinking": True, "budget": 7}, {"thinking": False}]}})
    assert [one.mode for one in all_thinkings(recipe.rollout.modes)] == ["think:7", "no_think"]
    with pytest.raises(ConfigError, match=r"rollout\.modes\[0\]: budget = 0 has no use where thinking = false"):
        load_recipe(RECIPE | {"rollout": {"modes": [{"thinking": False, "budget": 0}]}})


def test_the_budgets_of_a_mode_share_its_tasks_evenly():
    modes = [
        {"thinking": True, "share": 0.8, "budgets": [0, 8, 32, "none"], "episode_budget": 90},
        {"thinking": False, "share": 0.2},
    ]
    deal = ModeDeal(load_recipe(RECIPE | {"rollout": {"modes": modes}}).rollout.modes)
    dealt = Counter(deal[place].mode for place in range(100))
    assert dealt == {"think:0/90": 20, "think:8/90": 20, "think:32/90": 20, "think:/90": 20, "no_think": 20}


@pytest.mark.parametrize(
    ("mode", "part"),
    [
        ({"thinking": True, "budget": 3, "budgets": [0, 3]}, "give one of them"),
        ({"thinking": True, "budgets": []}, "budgets is empty"),
        ({"thinking": True, "budgets": [4, 4]}, "names one twice"),
        ({"thinking": True, "budgets": ["all"]}, "budgets"),
        ({"thinking": False, "budgets": [4]}, r"budgets = \[4\] has no use where thinking = false"),
        ({"thinking": False, "episode_budget": 4}, "episode_budget = 4 has no use"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(mode, part):
    with pytest.raises(ConfigError, match=part):
        load_recipe(RECIPE | {"rollout": {"modes": [mode]}})


def test_a_demonstrator_keeps_to_no_budget():
    shown = {"episodes": 4, "modes": [{"thinking": True, "budget": 3}]}
    recipe = {"run": {"kind": "sft"}, "env": {"name": "repair"}, "demonstrations": shown}
    with pytest.raises(ConfigError, match="a demonstrator keeps to none"):
        load_recipe(recipe)


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
