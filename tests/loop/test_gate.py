"""The audit's verdict binds: a recipe refuses, goes on with the risk written down, or gives tasks less weight."""

import json
from pathlib import Path

import pytest

import askesis
from askesis.audit import Audit
from askesis.loop import dry_run
from askesis.rollout import TraceStore
from askesis.types import ConfigError

GIVING = "from toy_env import Toy\n\n\nclass Giving(Toy):\n    pass\n"


@pytest.fixture(scope="module")
def giving(tmp_path_factory):
    """An environment's file."""
    folder = tmp_path_factory.mktemp("giving")
    file = folder / "giving.py"
    file.write_text(GIVING)
    return file


def recipe(toy_model, folder, env, **audit):
    return {
        "run": {"name": "gated", "steps": 1, "threads": 1, "out": str(folder)},
        "model": {"checkpoint": str(toy_model)},
        "env": {"name": f"{env}:Giving"},
        "rollout": {"tasks_per_step": 4, "group_size": 2, "context_length": 640, "slots": 16},
        "eval": {"tasks": 0},
        "log": {"tensorboard": False},
        "audit": audit,
    }


def audited(file, folder, verdicts=()):
    """An audit of the file as it is, as `askesis audit --out` writes it, with findings: (probe, severity, tasks)."""
    from askesis.audit import code_hash, known_probes
    from askesis.envs import load_env

    lines = [
        {
            "probe": probe,
            "axis": known_probes()[probe].axis,
            "flaw": known_probes()[probe].flaw,
            "about": "",
            "verdict": "found",
            "severity": severity,
            "rate": 1.0,
            "n": 4,
            "interval": [0.5, 1.0],
            "evidence": "'submit' is paid 1",
            "note": "",
            "repro": "askesis audit it",
            "seconds": 0.1,
            "tasks": list(tasks),
            "reason": "",
        }
        for probe, severity, tasks in verdicts
    ]
    values = {
        "schema": "askesis.audit/1",
        "name": f"{file}:Giving",
        "env": "toy",
        "options": {},
        "origin": str(file),
        "hash": {"code": code_hash(load_env(f"{file}:Giving")), "tasks": ""},
        "seed": 0,
        "count": 4,
        "split": "train",
        "seconds": 1.0,
        "date": "2026-01-01",
        "probes": lines,
    }
    path = folder / "audit.json"
    path.write_text(json.dumps(values))
    assert json.loads(json.dumps(Audit.read(path).to_json()["probes"])) == lines
    return str(path)


def test_without_an_audit_it_says_so_or_refuses(toy_model, tmp_path, giving):
    _, plan = dry_run(recipe(toy_model, tmp_path, giving))
    assert "going on all the same" in plan.audit
    with pytest.raises(ConfigError, match=r"no training without an audit.*askesis audit .*giving\.py:Giving --out"):
        dry_run(recipe(toy_model, tmp_path, giving, missing="refuse"))
    with pytest.raises(ConfigError, match=r"nowhere\.json is not there"):
        dry_run(recipe(toy_model, tmp_path, giving, missing="refuse", file="nowhere.json"))


def test_an_audit_of_other_code_is_none(toy_model, tmp_path, giving):
    file = audited(giving, tmp_path)
    assert "no findings" in dry_run(recipe(toy_model, tmp_path, giving, missing="refuse", file=file))[1].audit
    other = tmp_path / "giving.py"
    other.write_text(giving.read_text() + "# changed\n")
    values = json.loads(Path(file).read_text()) | {"name": f"{other}:Giving"}
    Path(file).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="is of other code"):
        dry_run(recipe(toy_model, tmp_path, other, missing="refuse", file=file))


def test_a_grave_finding_refuses_and_a_risk_that_is_taken_is_written_down(toy_model, tmp_path, giving):
    file = audited(giving, tmp_path, [("null-battery", "high", ())])
    with pytest.raises(ConfigError, match=r"found null-battery .*severity high.*audit\.refuse = 'never'"):
        askesis.train(recipe(toy_model, tmp_path, giving, file=file), display=False)
    result = askesis.train(recipe(toy_model, tmp_path, giving, file=file, refuse="never"), display=False)
    kept = json.loads((result.folder / "audit.json").read_text())
    assert kept["decision"] == "risk" and kept["audit"]["probes"][0]["probe"] == "null-battery"
    assert "going on with that risk" in (result.folder / "log").read_text()
    assert "1 finding, risk" in result.report.read_text()


def test_tasks_that_a_finding_names_are_left_out(toy_model, tmp_path, giving):
    settings = recipe(toy_model, tmp_path, giving)
    plain = askesis.train(settings, display=False)
    with TraceStore(plain.folder / "traces.db", readonly=True) as store:
        seen = {trace.task.id for trace in store.traces(label="train")}
    named = sorted(seen)[:2]
    file = audited(giving, tmp_path, [("null-battery", "medium", named)])
    result = askesis.train(recipe(toy_model, tmp_path, giving, file=file, weight=0.0), display=False)
    assert json.loads((result.folder / "audit.json").read_text())["weights"] == dict.fromkeys(named, 0.0)
    assert plain.history[0].dropped == {}
    assert result.history[0].dropped == {"audit": 2}
    assert result.history[0].trained_groups == plain.history[0].trained_groups - 2
