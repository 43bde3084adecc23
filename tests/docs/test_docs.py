"""What the pages say is so: files are quoted as they are, code runs as it stands, links lead somewhere."""

import io
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from toy_env import TOY

import askesis
from askesis.agents import load_agent
from askesis.cli import main
from askesis.envs import load_env, registry
from askesis.loop import RunFolder, checkpoints, load_recipe, play_policy, reading, reference, to_toml
from askesis.rollout import TraceStore

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_files_are_quoted_as_they_are():
    quoted = {name: text for page in PAGES for name, text in QUOTED.findall(page.read_text())}
    assert set(quoted) == {f"examples/{path.name}" for path in (DOCS / "examples").glob("*.*")}
    for name, text in quoted.items():
        assert text == (DOCS / name).read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        assert (DOCS / link).exists(), link


def test_the_table_of_keys_is_the_schemas():
    page = DOCS / "recipes.md"
    assert reference.written(page.read_text()) == page.read_text(), "python -m askesis.loop.reference docs/recipes.md"


def test_every_page_is_in_the_index():
    assert {*LINK.findall((DOCS / "README.md").read_text())} >= {page.name for page in PAGES} - {"README.md"}


def test_the_python_page_runs_as_it_stands(toy_model, toy_recipe, tmp_path, monkeypatch):
    """`repair` and `askesis-tiny` stand for the toy environment and its model here, which are quicker."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "repair.toml").write_text(to_toml(toy_recipe))
    monkeypatch.setattr(reading, "RECIPES", tmp_path / "recipes")
    monkeypatch.setitem(registry.BUILT_IN, "repair", TOY)
    monkeypatch.setitem(checkpoints.PACKAGED, "askesis-tiny", toy_model)
    monkeypatch.chdir(tmp_path)
    blocks = [code for language, code in BLOCK.findall((DOCS / "python.md").read_text()) if language == "python"]
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)


@pytest.mark.parametrize("page", ["mcp.md", "perturbations.md"])
def test_recipes_on_pages_about_options_are_recipes(page):
    for text in (code for language, code in BLOCK.findall((DOCS / page).read_text()) if language == "toml"):
        recipe = {"run": {"steps": 1}, "env": {"name": "repair"}}
        given = tomllib.loads(text)
        recipe["env"] |= given["env"]
        settings = load_recipe(recipe)
        assert load_env(settings.env.name, **settings.env.options).name == "repair"


def test_the_page_of_audits_has_recipes():
    texts = [code for language, code in BLOCK.findall((DOCS / "audit.md").read_text()) if language == "toml"]
    sections = [given for given in map(tomllib.loads, texts) if "suppress" not in given]
    assert [set(given) for given in sections] == [{"audit"}, {"monitors"}]
    for given in sections:
        load_recipe({"run": {"steps": 1}, "env": {"name": "repair"}} | given)


async def test_the_page_of_harnesses_runs_as_it_stands():
    blocks = BLOCK.findall((DOCS / "agents.md").read_text())
    (recipe,) = [tomllib.loads(text) for language, text in blocks if language == "toml"]
    agent = load_recipe({"run": {"steps": 1}, "env": {"name": "repair"}} | recipe).agent
    assert load_agent(agent.name, **agent.options).name.startswith("compact@1+")
    names = {}
    for code in (text for language, text in blocks if language == "python"):
        exec(compile(code, "docs/agents.md", "exec"), names)
    assert [one.name for one in names["Mine"]().specialists(None, None)] == ["reader"]
    env = load_env("team")
    evaluation = await play_policy(env, "null", tasks=2, agent=names["Reviewer"]())
    assert evaluation.agent == "reviewer@1" and evaluation.rows[0].summary.turns == 2


def test_the_guide_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """Its commands up to where training begins, and its Python."""
    page = (DOCS / "environments.md").read_text()
    commands = BLOCK.findall(page)[0][1].splitlines()
    assert len(commands) == 8
    monkeypatch.chdir(tmp_path)
    for command in (line.partition("#")[0].split() for line in commands):
        if command[0] == "cd":
            monkeypatch.chdir(tmp_path / command[1])
        elif command[1] == "envs" or "--dry-run" in command:
            monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
            with pytest.raises(SystemExit) as ended:
                main(command[1:])
            assert not ended.value.code, command
        else:
            recipe = command[2] if command[1] == "train" else "train.toml"
            assert load_recipe(recipe).env.name in page
    capsys.readouterr()
    (code,) = [code for language, code in BLOCK.findall(page) if "play_policy" in code]
    exec(compile(code, "docs/environments.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("oracle        1.00") and lines[3].startswith("null          0.00")


# -- the example of an environment ---------------------------------------------------------------------------------


@pytest.fixture
def in_the_repository(tmp_path, monkeypatch):
    """Where the recipes' paths lead; runs go elsewhere."""
    monkeypatch.chdir(DOCS.parent)
    return {"run.out": str(tmp_path), "run.threads": 1, "log.tensorboard": False}


def trained(recipe, **overrides):
    return askesis.train(DOCS / "examples" / recipe, display=False, overrides=overrides)


def test_the_example_trains(in_the_repository, tmp_path):
    """A few steps of both recipes: demonstrations play as they should, the second finds what the first made."""
    few = in_the_repository | {"model.tokenizer.episodes": 60, "eval.tasks": 4, "run.steps": 6}
    cold = trained("lookup_cold_start.toml", **few)
    losses = [record.trainer["loss"] for record in cold.history]
    assert all(after < before for before, after in pairwise(losses))
    with TraceStore(RunFolder(cold.folder).traces, readonly=True) as store:
        shown = list(store.traces(label="train"))
    assert {trace.outcome.reason for trace in shown} == {"submitted"}
    assert 0.3 < sum(trace.success for trace in shown) / len(shown) < 0.8
    few = in_the_repository | {"model.checkpoint": f"{tmp_path}/lookup_cold_start", "eval.tasks": 4, "run.steps": 1}
    assert trained("lookup.toml", **few).state == "finished"


@pytest.mark.full
def test_the_example_learns(in_the_repository, tmp_path):
    """What the page claims, with room for chance: from about a half to well above what was demonstrated."""
    cold = trained("lookup_cold_start.toml", **in_the_repository)
    start = in_the_repository | {"model.checkpoint": f"{tmp_path}/lookup_cold_start"}
    reinforced = trained("lookup.toml", **start)
    for mode in ("think", "no_think"):
        before, after = (one.evaluation("after").row(mode).summary.success for one in (cold, reinforced))
        assert 0.3 < before < 0.65
        assert after > 0.65
