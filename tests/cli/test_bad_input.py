"""Bad input of every kind ends in one clear message on stderr and exit code 2: no traceback, nothing on stdout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_env import TOY

from askesis.types import ConfigError


def complaint(done) -> str:
    """The one message."""
    assert (done.code, done.out) == (2, ""), done.err
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("error: "))
    assert all(line.startswith("  ") for line in lines[at + 1 :]), "the message is the last thing that is said"
    return "\n".join(lines[at:])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "run.stepz=3"], ["'run.stepz'", "did you mean 'steps'?"]),
        (["--set", "lr=3"], ["'lr'", "did you mean 'train.lr'?"]),
        (["--set", "rollout.group_size=two", "--set", "train.lr=-1"], ['"two", expected an integer', "train.lr is -1"]),
        (["--set", "run.steps"], ["expected section.key=value"]),
        (["--set", "model.checkpoint=askesis-tini"], ["askesis-tini", "did you mean 'askesis-tiny'?"]),
        (["--set", "env.name=repare"], ["'repare'", "did you mean 'repair'?"]),
        (["--set", "env.name=nowhere.py:Env"], ["no environment file nowhere.py"]),
        (["--set", "env.name=nowhere:Env"], ["cannot import nowhere"]),
        (["--set", "env.options.brokn=1"], ["['brokn'] do not fit"]),
        (["--set", "env.options.broken=100"], ["task", "environment, setup: OSError: the disk is full"]),
        (["--set", "agent.name=sole"], ["no agent 'sole'", "did you mean 'solo'?"]),
        (["--set", "rollout.context_length=500"], ["the longest first prompt has 537 tokens", "is 500"]),
        (["--set", "rollout.context_length=5000"], ["5000", "the model has positions for 1024"]),
        (["--set", "run.kind=sft"], ["[demonstrations] is missing"]),
        (["--resume", "latest"], ["either a recipe or --resume, not both"]),
        (["--resume", "latest", "--dry-run"], ["goes without --resume"]),
    ],
    ids=lambda value: value[1] if isinstance(value[1:], list) and value[1:] else None,
)
def test_train(cli, toy, arguments, parts):
    message = complaint(cli("train", toy, *arguments))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train"], "train what?"),
        (["train", "repairs"], "no recipe 'repairs'"),
        (["train", "nowhere/mine.toml"], "no recipe file nowhere/mine.toml"),
        (["train", "--resume", "nothing"], "no run 'nothing'"),
        (["runs", "show", "nothing"], "no run 'nothing'"),
        (["eval", "nowhere", "--env", TOY], "no checkpoint 'nowhere'"),
        (["eval", ".", "--env", TOY], "has no config.json"),
    ],
)
def test_what_is_not_there(cli, arguments, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert part in complaint(cli(*arguments))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[run\n", "is not TOML: Expected ']'"),
        ('[run]\nsteps = 1\n[env]\nname = "x"\n[run]\n', "is not TOML: Cannot declare"),
        (b"\xff\xfe", "is not TOML: 'utf-8'"),
        ("steps = 1\n", "unknown key 'steps'; did you mean 'run.steps'?"),
    ],
)
def test_a_recipe_that_cannot_be_read(cli, tmp_path, text, part):
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = complaint(cli("train", path))
    assert part in message
    assert str(path) in message


# -- checkpoints ---------------------------------------------------------------------------------------------------


def changed(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_thinking(tokenizer):
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if "think" not in token["content"]]


def of_another_model(tokenizer):
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 5000, "content": "<|more|>"})


DAMAGES = {
    "no tokenizer": (lambda at: (at / "tokenizer.json").unlink(), ["no tokenizer at"]),
    "a tokenizer without Qwen's tokens": (
        lambda at: changed(at / "tokenizer.json", without_thinking),
        ["lacks <think>, </think>", "is this the tokenizer that belongs to the checkpoint?"],
    ),
    "a tokenizer with more tokens than the model has": (
        lambda at: changed(at / "tokenizer.json", of_another_model),
        ["the model embeds only 281", "belongs to another checkpoint"],
    ),
    "no tokenizer that can be read": (lambda at: (at / "tokenizer.json").write_text("{}"), ["is no tokenizer"]),
    "a template without tools": (
        lambda at: (at / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        ["have no tools", '"calls": "json" or "xml"'],
    ),
    "another architecture": (
        lambda at: changed(at / "config.json", lambda config: config.update(architectures=["LlamaForCausalLM"])),
        ["LlamaForCausalLM", "Qwen3ForCausalLM"],
    ),
    "a configuration that is no JSON": (lambda at: (at / "config.json").write_text("{"), ["is not readable JSON"]),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), ["weights file model.safetensors is missing"]),
    "half the weights": (
        lambda at: (at / "model.safetensors").write_bytes((at / "model.safetensors").read_bytes()[:1000]),
        ["is no readable safetensors file"],
    ),
    "weights of another size": (
        lambda at: changed(at / "config.json", lambda config: config.update(intermediate_size=96)),
        ["has shape", "expected"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_wrong(cli, toy_model, tmp_path, damage):
    at = tmp_path / "model"
    shutil.copytree(toy_model, at)
    spoil, parts = DAMAGES[damage]
    spoil(at)
    message = complaint(cli("eval", at, "--env", TOY, "--tasks", 1, "--context-length", 640))
    for part in parts:
        assert part in message


# -- environments --------------------------------------------------------------------------------------------------

BODIES = {
    "tasks that fail": ("def tasks(self, split, **_): return self.rows[split]", "AttributeError"),
    "tasks that are none": ("def tasks(self, split, **_): return [{'prompt': 'Add.'}]", "gave a dict, expected"),
    "no tasks": ("def tasks(self, split, **_): return []", "has no tasks in its 'heldout' split"),
    "tools that fail": ("def tools(self, task, state): raise KeyError('x')", "environment, setup: KeyError: 'x'"),
    "a verifier that fails": ("async def verify(self, trace, state): return 1 / 0", "ZeroDivisionError"),
    "closing that fails": ("async def close(self): raise OSError('busy')", "close() failed: OSError: busy"),
    "making that fails": ("def __init__(self): raise ValueError('no data')", "could not be made: ValueError: no data"),
    "a name that is missing": ("name = property(lambda self: self._name)", "lacks name; see docs/environments.md"),
}


@pytest.fixture
def own_env(tmp_path):
    """An environment file of one's own, made of the toy's and one thing more."""

    def write(body: str) -> str:
        (tmp_path / "own.py").write_text(f"from toy_env import Toy\n\nclass Own(Toy):\n    {body}\n")
        return f"{tmp_path}/own.py:Own"

    return write


@pytest.mark.parametrize("fault", BODIES)
def test_an_environment_that_is_wrong(cli, toy_model, own_env, fault):
    body, part = BODIES[fault]
    asked = ("--tasks", 2, "--context-length", 640, "--thinking", "off")
    assert part in complaint(cli("eval", toy_model, "--env", own_env(body), *asked))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def broken(:\n", "own.py failed to import: SyntaxError"),
        ("import nowhere\n", "own.py failed to import: ModuleNotFoundError: No module named 'nowhere' (line 1)"),
        ("x = 1\ny = x / 0\n", "own.py failed to import: ZeroDivisionError: division by zero (line 2)"),
        ("import sys\nsys.exit(0)\n", "own.py failed to import: SystemExit: 0 (line 2)"),
        ("class Owl: ...\n", "own.py has no 'Own'; did you mean 'Owl'?"),
        ("class Own: ...\n", "Own lacks name, tasks, setup, tools, verify, close; see docs/environments.md"),
    ],
)
def test_an_environment_file_that_is_wrong(cli, toy_model, tmp_path, text, part):
    (tmp_path / "own.py").write_text(text)
    assert part in complaint(cli("eval", toy_model, "--env", f"{tmp_path}/own.py:Own"))


SFT = ("--set", "run.kind=sft", "--set", "demonstrations.per_step=4")


@pytest.mark.parametrize(
    ("body", "more", "part"),
    [
        ("demonstrator = None", (), "has no demonstrator(task, seed=...)"),
        ("...", ("--set", "demonstrations.options.skill=1"), "options ['skill'] failed: TypeError"),
        ("def tasks(self, split, **_): return super().tasks('train', limit=9)", (), "is in 'train' and in 'heldout'"),
    ],
)
def test_what_a_run_would_only_find_out_later_it_finds_out_first(cli, toy, own_env, tmp_path, body, more, part):
    assert part in complaint(cli("train", toy, *SFT, *more, "--set", f"env.name={own_env(body)}"))
    assert not (tmp_path / "runs").exists()


# -- the rest ------------------------------------------------------------------------------------------------------


def test_a_place_where_nothing_can_be_written(cli, toy, monkeypatch):
    monkeypatch.chdir("/proc")
    assert "cannot make a folder for the run in runs" in complaint(cli("train", toy, "--set", "run.out="))


def test_options_of_an_environment(cli, toy_model):
    message = complaint(cli("eval", toy_model, "--env", TOY, "--option", "broken"))
    assert "--option 'broken': expected key=value" in message
    message = complaint(cli("eval", toy_model, "--env", TOY, "--agent", "external", "--agent-option", "broken"))
    assert "--agent-option 'broken': expected key=value" in message
    message = complaint(cli("eval", toy_model, "--env", TOY, "--agent-option", 'instrctions="x"'))
    assert "options ['instrctions'] do not fit" in message


def test_usage(cli):
    for arguments in (["trian"], ["train", "--fast"], ["eval", "x"], ["eval", "x", "--env", "y", "--tasks", "0"]):
        done = cli(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "Usage: askesis" in done.err


def test_debug_shows_where_an_error_came_from(cli):
    from askesis.cli import main

    for arguments in (["--debug", "train", "nothing"], ["train", "nothing", "--debug"]):
        with pytest.raises(ConfigError, match="no recipe 'nothing'"):
            main(arguments)


def test_a_true_process_says_it_in_one_line(tmp_path):
    askesis = Path(sys.executable).with_name("askesis")
    done = subprocess.run(
        [askesis, "train", "repairs"], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: no recipe 'repairs'")
