"""What the commands do and print: for people on a terminal's 80 columns, for programs as JSON on stdout."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from toy_env import TOY

from askesis import __version__
from askesis.loop import find_run, load_recipe, runs_in
from askesis.rollout import TraceStore

SIZES = {  # layers, heads, tied, experts, context, parameters, non-embedding
    "0.6B": (28, 16, 8, True, 0, 32768, 596_049_920, 440_467_456),
    "1.7B": (28, 16, 8, True, 0, 32768, 1_720_574_976, 1_409_410_048),
    "4B": (36, 32, 8, True, 0, 131072, 4_022_468_096, 3_633_511_936),
    "8B": (36, 32, 8, False, 0, 131072, 8_190_735_360, 6_946_075_648),
    "14B": (40, 40, 8, False, 0, 131072, 14_768_307_200, 13_212_482_560),
    "32B": (64, 64, 8, False, 0, 131072, 32_762_123_264, 31_206_298_624),
    "30B-A3B": (48, 32, 4, False, 128, 131072, 30_532_122_624, None),
    "235B-A22B": (94, 64, 4, False, 128, 131072, 235_093_634_560, None),
}
ACTIVE = {"30B-A3B": 3.35, "235B-A22B": 22.19}  # billions


def fits(text: str) -> bool:
    return "…" not in text and max(map(len, text.splitlines())) <= 80


def test_models(cli):
    rows = json.loads(cli("models", "--json").out)["models"]
    keys = ("layers", "query_heads", "kv_heads", "tied", "experts", "context", "parameters", "non_embedding")
    assert {row["name"]: tuple(row[key] for key in keys) for row in rows} == {
        name: (*values[:-1], values[-1] or row["non_embedding"])
        for (name, values), row in zip(SIZES.items(), rows, strict=True)
    }
    assert {row["name"]: round(row["active"] / 1e9, 2) for row in rows if row["experts"]} == ACTIVE
    done = cli("models")
    assert (done.code, done.err) == (0, "")
    assert fits(done.out)
    assert all(f"{values[6]:,}" in done.out for values in SIZES.values())


def test_a_dry_run_resolves_everything_and_samples_nothing(cli, toy, tmp_path):
    done = cli("train", toy, "--dry-run", "--set", "rollout.group_size=3", "--json")
    resolved = json.loads(done.out)
    plan = resolved["plan"]
    assert (done.code, done.err) == (0, "")
    assert load_recipe(resolved["recipe"]) == load_recipe(toy, ["rollout.group_size=3"])
    assert plan["first_prompt"].startswith("<|im_start|>system\n# Tools")
    assert (plan["tools"][0]["name"], plan["episodes_per_step"], plan["max_turn_tokens"]) == ("answer", 12, 12)
    assert 500 < plan["longest_prompt"] < plan["context_length"] == 640
    text = cli("train", toy, "--dry-run").out
    recipe = text.partition("\nmodel   ")[0]
    assert load_recipe(tomllib.loads(recipe)) == load_recipe(toy)
    for part in ("27,648 parameters", "longest 537 tokens", "up to 2 turns of 12 tokens", plan["first_prompt"]):
        assert part in text
    assert not (tmp_path / "runs").exists()


def test_a_run_from_its_recipe_to_its_continuation(cli, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `runs` and `--resume` look into runs/
    assert cli("runs").out == "no runs in runs\n"

    trained = cli("train", toy, "--set", "run.steps=2", "--set", "train.lr=1e-3")
    assert (trained.code, trained.out) == (0, "")
    for part in ("step 1 · reward", "success think", "tokens/s", "2 steps in", "means of an episode: before → after"):
        assert part in trained.err
    (folder,) = runs_in(tmp_path / "runs")
    assert load_recipe(folder.recipe).train.lr == 1e-3

    longer = cli("train", "--resume", "latest", "--set", "run.steps=4", "--json")
    result = json.loads(longer.out)
    assert (longer.code, result["id"], result["steps"], result["state"]) == (0, folder.id, 4, "finished")
    assert "resumed after step 2" in longer.err
    with TraceStore(folder.traces, readonly=True) as store:
        assert store.ledger.check() == []

    (row,) = json.loads(cli("runs", "--json").out)["runs"]
    assert (row["id"], row["state"], row["step"], set(row["score"])) == (
        folder.id,
        "finished",
        4,
        {"think", "no_think"},
    )
    assert folder.id in cli("runs").out
    shown = json.loads(cli("runs", "show", folder.id, "--json").out)
    assert shown["result"]["evaluations"] == result["evaluations"]
    text = cli("runs", "show", "latest").out
    assert f"run         runs/{folder.id}" in text
    assert "thinking, sampled" in text
    assert cli("runs", folder.id).out == cli("runs", "show", "latest").out
    assert "no run 'shwo'" in cli("runs", "shwo").err
    folder.result.unlink()  # as in a run that was killed: what is known so far is shown
    assert "success on 8 held-out tasks of toy" in cli("runs", "show", "latest").out
    same = [cli("eval", name, "--env", TOY, "--tasks", 2, "--context-length", 640) for name in (folder.id, "latest")]
    assert same[0].out == same[1].out and f"runs/{folder.id}/checkpoints/step-4" in same[0].out

    asked = ("eval", "runs/toy", "--env", TOY, "--tasks", 5, "--context-length", 640)
    whole = json.loads(cli(*asked, "--option", "max_turn_tokens=3", "--json").out)
    assert [(row["mode"], row["summary"]["episodes"]) for row in whole["rows"]] == [("think", 5), ("no_think", 5)]
    assert all(row["metrics"]["said"][0] <= 3 for row in whole["rows"])
    one = cli(*asked, "--thinking", "on", "--budget", 2, "--greedy")
    assert "thinking up to 2, greedy" in one.out
    assert "no thinking" not in one.out


def test_an_interrupted_run_says_how_it_goes_on(toy, tmp_path):
    command = [sys.executable, "-m", "askesis", "train", str(toy), "--set", "run.steps=100000", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as child:
        until = time.monotonic() + 120
        while time.monotonic() < until and child.poll() is None:
            if any(run.status().get("step", 0) >= 2 for run in runs_in(tmp_path / "runs")):
                break
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    run = find_run("latest", out=tmp_path / "runs")
    assert child.returncode == 130, err
    assert json.loads(out)["state"] == run.status()["state"] == "interrupted"
    assert f"askesis train --resume {run.path}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["eval", "--help"], ["--version"], ["runs"], ["train", "no-such"]]
)
def test_what_needs_no_torch_loads_none(arguments, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "askesis", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "askesis" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers", "tensorboard"}
    if "--help" in arguments:
        assert done.stdout.startswith("Usage: askesis")
    if "--version" in arguments:
        assert done.stdout == f"askesis {__version__}\n"


def test_a_sweep_of_budgets_is_a_table_and_a_picture(cli, toy_model, tmp_path):
    picture = tmp_path / "p.html"
    sweep = ("eval", toy_model, "--env", TOY, "--tasks", 4, "--picture", picture)
    done = cli(*sweep, "--budgets", "0, 3,none")
    assert done.code == 0 and fits(done.out) and f"picture: {picture}" in done.err
    assert all(name in done.out for name in ("no thinking", "budget 0", "budget 3", "no bound", "Hybrid accuracy"))
    assert picture.read_text().startswith("<!doctype html>")
    found = json.loads(cli(*sweep, "--budgets", "0,3", "--json").out)
    assert [row["mode"] for row in found["rows"]][:3] == ["think:0", "think:3", "no_think"]
    assert {"triggered", "closed_by_itself", "closed_by_budget", "budget_error"} <= found["rows"][0]["summary"].keys()
    for wrong, part in (("0,x", "'x' is no budget"), ("", "'' is no budget"), ("-3", "'-3' is no budget")):
        done = cli(*sweep, f"--budgets={wrong}")
        assert done.code == 2 and part in done.err
    done = cli(*sweep, "--effort", "low")
    assert done.code == 2 and "--save-effort" in done.err
    assert "needs --budgets" in cli(*sweep, "--save-effort").err
