"""The recipes that ship, each run for one small step: from its checkpoint or from nothing, to a checkpoint."""

import pytest

import askesis
from askesis.loop import checkpoints, load_recipe
from askesis.loop.reading import RECIPES

QUICK = {"repair", "research", "research_cold_start"}
SMALL = {
    "run.steps": 1,
    "run.threads": 1,
    "rollout.tasks_per_step": 2,
    "rollout.group_size": 2,
    "rollout.pool": 8,
    "eval.tasks": 2,
    "log.tensorboard": False,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[] if path.stem in QUICK else [pytest.mark.full])
        for path in sorted(RECIPES.glob("*.toml"))
    ],
)
def test_a_recipe_that_ships_runs(name, tmp_path):
    small = {**SMALL, "run.out": str(tmp_path)}
    if load_recipe(name).run.kind == "sft":
        small |= {"demonstrations.per_step": 4}
        small |= {"model.tokenizer.episodes": 20} if load_recipe(name).model.init else {}
    result = askesis.train(name, display=False, overrides=small)
    assert result.state == "finished" and result.steps == 1
    after = result.evaluation("after")
    for row in after.rows:
        assert row.summary.episodes == 2 and row.summary.infrastructure == 0
    assert askesis.load(result.folder).renderer.name == askesis.load("askesis-tiny").renderer.name


def test_checkpoints_that_ship_are_small_and_whole():
    for name, folder in checkpoints.PACKAGED.items():
        assert checkpoints.resolve(name) == folder
        assert (folder / "README.md").read_text().startswith(f"# {name}\n")
        assert sum(path.stat().st_size for path in folder.iterdir()) < 20 * 2**20
