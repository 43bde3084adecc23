"""Recipes: what is wrong is named with its path and what was meant; overrides; text that reads back."""

import tomllib
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.loop import dry_run, find_recipe, load_recipe, parse_override, to_mapping, to_toml
from askesis.loop.reading import RECIPES
from askesis.loop.recipe import Recipe
from askesis.types import ConfigError

GOOD = {"env": {"name": "repair"}, "run": {"steps": 3}}


def complaint(raw, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_recipe(raw, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ({"run": {"step": 3}}, ["'run.step'", "did you mean 'steps'?", "minutes"]),
        ({"lr": 1e-3}, ["'lr'", "did you mean 'train.lr'?"]),
        ({"rollout": {"limits": {"max_turn": 3}}}, ["'rollout.limits.max_turn'", "'max_turns'"]),
        ({"rollout": {"modes": [{"thinking": True, "shares": 1.0}]}}, ["'rollout.modes[0].shares'", "'share'"]),
        ({"rollout": {"temperature": "hot"}}, ["rollout.temperature", '"hot"', "expected a number"]),
        ({"rollout": {"group_size": True}}, ["rollout.group_size", "true", "expected an integer"]),
        ({"rollout": {"group_size": 1}}, ["rollout.group_size is 1", "at least 2"]),
        ({"run": {"steps": 0}}, ["run.steps", "0", "greater than or equal to 1"]),
        ({"run": {"minutes": float("nan")}}, ["run.minutes", "finite"]),
        ({"run": {"kind": "slf"}}, ["run.kind", "'sft'", "did you mean"]),
        ({"env": {"options": {}}}, ["env.name is missing"]),
        ({"env": 3}, ["env is 3", "expected a table"]),
        ({"run": {}}, ["run.minutes or run.steps is missing"]),
        ({"run": {"kind": "sft"}}, ["[demonstrations] is missing"]),
        ({"demonstrations": {}}, ["'sft'", "'rl'"]),
        ({"model": {"init": {}}}, ["model.init", "'sft'"]),
        ({"rollout": {"vllm": {"url": "http://x"}}}, ["[rollout.vllm] is set", "'embedded'"]),
        ({"rollout": {"engine": "vllm", "vllm": {"url": "http://x"}}}, ["rollout.vllm.url", "'vllm-server'"]),
        (
            {"rollout": {"engine": "vllm-server", "vllm": {"url": "http://x"}}, "cluster": {"address": "local"}},
            ["cluster.engines = 1 starts that many", "rollout.vllm.url"],
        ),
        (
            {"rollout": {"engine": "vllm", "vllm": {"transfer": "ipc"}}, "cluster": {"address": "local"}},
            ["rollout.vllm.transfer = 'ipc'", "'shared_memory'"],
        ),
        (
            {"rollout": {"engine": "vllm-server", "vllm": {"url": ["http://127.0.0.1:80", "http://10.0.0.2:80"]}}},
            ["'http://10.0.0.2:80'", "'shared_memory'", "cluster.engines"],
        ),
        (
            {"rollout": {"engine": "vllm-server", "vllm": {"url": "http://gpu2:80", "transfer": "nccl"}}},
            ["'http://gpu2:80'", "rollout.vllm.address = '127.0.0.1'"],
        ),
        ({"rollout": {"engine": "vllm-server", "vllm": {"transfer": "ipc"}}}, ["'ipc'", "engine = 'vllm'"]),
        ({"rollout": {"engine": "vlm"}}, ["rollout.engine", "did you mean"]),
        ({"train": {"corrections": [{"name": "tys"}]}}, ["train.corrections[0].name", "'tis'"]),
        ({"train": {"corrections": [{"name": "tis"}, {"name": "mis"}]}}, ["tis and mis weigh by the same ratios"]),
        ({"train": {"corrections": [{"name": "tis"}], "proximal": "sampler"}}, ["tis weighs", "'recompute'"]),
    ],
)
def test_what_is_wrong_is_named(raw, parts):
    message = complaint({**GOOD, **raw})
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "vllm",
    [
        {"url": ["http://127.0.0.1:8000", "http://localhost:8001/", "http://[::1]:8002"]},
        {"url": "http://10.0.0.2:8000", "transfer": "nccl", "address": "10.0.0.1"},
    ],
)
def test_servers_that_weights_get_to_are_taken(vllm):
    recipe = Recipe.model_validate({**GOOD, "rollout": {"engine": "vllm-server", "vllm": vllm}})
    assert recipe.rollout.vllm.urls


def test_every_fault_is_named_at_once():
    message = complaint({**GOOD, "rollouts": {}, "train": {"lr": -1.0}})
    assert "'rollouts'; did you mean 'rollout'?" in message
    assert "train.lr" in message


def test_losses_and_corrections_are_those_of_the_trainer():
    from askesis.loop.recipe import CorrectionSettings, Train
    from askesis.train import CORRECTIONS, POLICY_LOSSES

    assert typing.get_args(Train.model_fields["algorithm"].annotation) == (*POLICY_LOSSES,)
    assert typing.get_args(CorrectionSettings.model_fields["name"].annotation) == (*CORRECTIONS,)


def test_overrides_come_before_checks_and_speak_toml():
    recipe = load_recipe(
        {"env": {"name": "x"}, "train": {"lr": "wrong"}},
        [
            "train.lr=1e-4",
            "run.steps = 7",
            "env.name=repair",
            "rollout.modes=[{thinking=false}]",
            "env.options.a.b=[1]",
        ],
    )
    assert (recipe.train.lr, recipe.run.steps, recipe.env.name) == (1e-4, 7, "repair")
    assert [mode.thinking for mode in recipe.rollout.modes] == [False]
    assert recipe.env.options == {"a": {"b": [1]}}
    assert load_recipe(GOOD | {"run": {"steps": 3, "minutes": 1.0}}, ["run.minutes="]).run.minutes is None
    assert load_recipe(GOOD, {"run.steps": 9}).run.steps == 9


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("steps", "expected section.key=value"),
        ("run.stepz=3", "did you mean 'steps'?"),
        ("run.steps.x=3", "run.steps is no table"),
        ("rollout.modes=[{thinking=", "is not a TOML value"),
        (".=1", "expected section.key=value"),
    ],
)
def test_a_wrong_override_says_so(override, part):
    assert part in complaint(GOOD, [override])


def test_recipes_are_found_by_name_or_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[run]\nsteps = 1\n[env]\nname = "repair"\n')
    assert find_recipe(path) == path
    assert load_recipe(path).run.name == "mine"
    with pytest.raises(ConfigError, match="no recipe file"):
        find_recipe(tmp_path / "other.toml")
    with pytest.raises(ConfigError, match="no recipe 'nothing-like-it'"):
        find_recipe("nothing-like-it")
    (tmp_path / "broken.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        load_recipe(tmp_path / "broken.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_reads(path):
    recipe = load_recipe(path.stem)
    assert load_recipe(tomllib.loads(to_toml(to_mapping(recipe)))) == recipe


SCALARS = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
SAFE_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TABLES = st.recursive(
    st.dictionaries(SAFE_KEYS, SCALARS, max_size=3),
    lambda inner: st.dictionaries(SAFE_KEYS, inner | SCALARS | st.lists(inner | SCALARS, max_size=2), max_size=3),
)


@given(TABLES)
def test_toml_reads_back(values):
    assert tomllib.loads(to_toml(values, comment="two\nlines")) == values


@given(SCALARS)
def test_override_values_read_back(value):
    text = to_toml({"x": value}).removeprefix("x = ").strip()
    assert parse_override(f"a.x={text}") == ("a.x", value)


def test_parts_without_room_for_more_than_a_prompt_are_said_beforehand(toy_recipe):
    toy_recipe["train"]["batch_tokens"] = 4096
    assert not any("batch_tokens" in warning for warning in dry_run(toy_recipe)[1].warnings)
    toy_recipe["train"]["batch_tokens"] = 64
    assert any("train.batch_tokens is 64, less than twice" in warning for warning in dry_run(toy_recipe)[1].warnings)
