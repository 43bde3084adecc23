"""Runs that learn adapters, and runs of samples that other weights have made."""

import json

import pytest
import torch
from safetensors.torch import load_file

import askesis
from askesis.loop import load_recipe
from askesis.train import CORRECTIONS, Lora
from askesis.types import ConfigError, TrainerError


def quietly(*args, **kwargs):
    return askesis.train(*args, display=False, **kwargs)


def test_adapters_are_trained_resumed_and_saved_beside_the_merged_weights(toy_recipe, toy_model):
    toy_recipe |= {"eval": {"tasks": 0}}
    toy_recipe["train"] |= {"lora": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}, "corrections": []}
    straight = quietly(toy_recipe)
    first = quietly(toy_recipe, overrides=["run.steps=2"])
    longer = quietly(resume=first.folder, overrides=["run.steps=4"])
    merged, again = (load_file(one.checkpoint / "model.safetensors") for one in (straight, longer))
    began = load_file(toy_model / "model.safetensors")
    adapter = load_file(longer.checkpoint / "trainer" / "adapter" / "adapter_model.safetensors")
    config = json.loads((longer.checkpoint / "trainer" / "adapter" / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    changed = set()
    for name, weight in merged.items():
        assert torch.equal(again[name], weight)
        if not torch.equal(weight, began[name]):
            changed.add(name.split(".")[-2])
            layer = "base_model.model." + name.removesuffix(".weight")
            product = adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
            torch.testing.assert_close(weight - began[name], scale * product, atol=1e-5, rtol=1e-3)
    assert changed == {"q_proj", "up_proj"}


def test_a_step_that_has_changed_adapters_alone_is_not_done_again(toy_recipe, monkeypatch):
    """It fails between the optimiser and the weights that are made anew of what that has changed."""

    def fails(self):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Lora, "merge", fails)
    toy_recipe |= {"eval": {"tasks": 0}}
    toy_recipe["train"] |= {"lora": {"rank": 2}}
    with pytest.raises(TrainerError, match="had changed the weights already: RuntimeError: out of memory"):
        quietly(toy_recipe)


def test_an_engine_that_runs_ahead_gets_the_merged_weights(toy_recipe):
    toy_recipe |= {"eval": {"tasks": 0}}
    toy_recipe["rollout"] |= {"staleness": 1, "cache_at_update": "drop"}
    toy_recipe["train"] |= {"lora": {"rank": 2}, "lr": 1e-2}
    result = quietly(toy_recipe)
    assert (result.state, result.steps) == ("finished", 4)
    assert not any(alarm.kind in ("weights", "logprob_gap") for alarm in result.alarms)
    found = [record.trainer["gap_max/0"] for record in result.history if "gap_max/0" in record.trainer]
    assert all(gap < 1e-3 for gap in found)  # what was sampled under the trainer's own version


def test_what_is_stale_is_corrected_and_told_by_distance(toy_recipe):
    toy_recipe |= {"eval": {"tasks": 0}, "run": toy_recipe["run"] | {"steps": 8}}
    toy_recipe["rollout"] |= {"staleness": 3}
    toy_recipe["train"] |= {
        "algorithm": "gspo",
        "corrections": [{"name": "tis"}, {"name": "seq_band"}],
        "minibatches": 2,
    }
    toy_recipe["env"] |= {"options": {"delay": 0.05}}
    result = quietly(toy_recipe)
    found = [record.trainer for record in result.history if record.trainer.get("staleness_max")]
    assert found and all(0 < figures["staleness"] <= figures["staleness_max"] <= 3 for figures in found)
    for figures in found:
        shares = [figures[f"tokens/{distance}"] for distance in ("0", "1", "2-3", "4-7", "8+")]
        assert sum(shares) == pytest.approx(1.0) and shares[3] == shares[4] == 0.0
        assert 0 < figures["ess"] <= 1 and figures["gap_max"] > 0
    assert not any(alarm.kind == "logprob_gap" for alarm in result.alarms)


@pytest.mark.parametrize(
    ("train", "staleness", "truncates"),
    [({}, 0, False), ({}, 2, True), ({"corrections": []}, 2, False), ({"proximal": "sampler"}, 2, False)],
)
def test_where_nobody_says_otherwise_what_is_stale_is_truncated(toy_recipe, monkeypatch, train, staleness, truncates):
    from askesis.loop import learner

    seen = []
    monkeypatch.setattr(learner, "Trainer", lambda model, **settings: seen.append(settings["corrections"]))
    toy_recipe["train"] |= train
    toy_recipe["rollout"] |= {"staleness": staleness}
    askesis.dry_run(toy_recipe)
    assert seen == [[CORRECTIONS["tis"]] if truncates else []]


def test_adapters_of_a_fresh_model_are_refused():
    with pytest.raises(ConfigError, match=r"train\.lora"):
        load_recipe(
            {
                "run": {"kind": "sft", "steps": 1},
                "model": {"init": {}},
                "env": {"name": "repair"},
                "demonstrations": {},
                "train": {"lora": {}},
            }
        )
