"""Models at their door: transformers' logits, exact counts, checkpoints both ways."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from askesis.models import (
    CONTEXT,
    SIZES,
    ModelConfig,
    TransformersLM,
    build,
    count_parameters,
    expert_counts,
    fingerprint,
    load_balancing_loss,
    load_checkpoint,
    router_logits,
    save_checkpoint,
)
from askesis.types import CheckpointError

# arXiv 2505.09388 and the published checkpoints: total and non-embedding parameters; active in billions
PUBLISHED = {
    "0.6B": (596_049_920, 440_467_456, None),
    "1.7B": (1_720_574_976, 1_409_410_048, None),
    "4B": (4_022_468_096, 3_633_511_936, None),
    "8B": (8_190_735_360, 6_946_075_648, None),
    "14B": (14_768_307_200, 13_212_482_560, None),
    "32B": (32_762_123_264, 31_206_298_624, None),
    "30B-A3B": (30_532_122_624, None, 3.35),
    "235B-A22B": (235_093_634_560, None, 22.19),
}
DENSE = {"vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16}
DENSE |= {"num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 256}
MOE = DENSE | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}


@pytest.mark.parametrize("size", SIZES)
def test_all_eight_sizes_have_the_published_parameters(size):
    total, body, active = PUBLISHED[size]
    counts = count_parameters(SIZES[size])
    model = build(SIZES[size], device="meta")
    assert sum(p.numel() for p in model.parameters()) == counts.total == total
    assert body is None or counts.non_embedding == body
    assert active is None or round(counts.active / 1e9, 2) == active
    assert CONTEXT[size] == (32_768 if size in ("0.6B", "1.7B") else 131_072)


def theirs(moe: bool, **options):
    rope = {"rope_type": "default", "rope_theta": 1e6}
    torch.manual_seed(0)
    if moe:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**(MOE | {"rope_parameters": rope} | options)))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**(DENSE | {"rope_parameters": rope} | options)))
    for parameter in model.parameters():  # norms at one would hide a misplaced norm
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("moe", [False, True])
def test_logits_and_checkpoints_agree_with_transformers_both_ways(tmp_path, moe, shards, tied):
    reference = theirs(moe, tie_word_embeddings=tied)
    size = sum(p.nbytes for p in reference.parameters()) // shards + 1
    reference.save_pretrained(tmp_path / "theirs", max_shard_size=size if shards > 1 else "5GB")
    ours, config = load_checkpoint(tmp_path / "theirs")
    assert config.is_moe == moe and config.tie_word_embeddings == tied
    tokens = torch.randint(0, 101, (2, 37))
    with torch.no_grad():
        want = reference(tokens).logits
        torch.testing.assert_close(ours.logits(ours(tokens)), want, atol=1e-4, rtol=0)
        save_checkpoint(ours, tmp_path / "ours", max_shard_bytes=size)
        assert len(list((tmp_path / "ours").glob("*.safetensors"))) >= shards
        back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
        torch.testing.assert_close(back(tokens).logits, want, atol=1e-4, rtol=0)
        assert back.generate(tokens, max_new_tokens=4, do_sample=False).shape == (2, 41)
    names = {name for file in (tmp_path / "ours").glob("*.safetensors") for name in load_file(file)}
    assert ("lm_head.weight" in names) != tied
    assert ("model.layers.2.mlp.experts.5.up_proj.weight" in names) == moe  # the hub's layout, an expert at a time
    again, _ = load_checkpoint(tmp_path / "ours")
    assert fingerprint(again) == fingerprint(ours)


def test_yarn_stretches_as_in_transformers(tmp_path):
    theirs(False, rope_parameters=YARN).save_pretrained(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours, config = load_checkpoint(tmp_path)
    assert config.yarn_factor == 4.0
    tokens = torch.randint(0, 101, (1, 200))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), reference(tokens).logits, atol=1e-4, rtol=0)


def test_explicit_positions_and_a_foreign_attention_give_the_same():
    config = ModelConfig(**DENSE)
    model = build(config)
    model.initialise(0)
    tokens = torch.randint(0, 101, (1, 20))
    layers = []

    def attention(layer, q, k, v):
        layers.append(layer)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    shifted = model(tokens, positions=torch.arange(20)[None] + 7, attention=attention)
    torch.testing.assert_close(shifted, model(tokens), atol=1e-5, rtol=1e-4)  # rotary attention is relative
    assert layers == [0, 1, 2]
    with pytest.raises(IndexError):
        model(tokens, positions=torch.arange(20)[None] + config.context_length)
    model.rotary.reserve(config.context_length + 20, model.lm_head.weight)
    model(tokens, positions=torch.arange(20)[None] + config.context_length)


def test_every_expert_and_the_router_get_gradient_and_balance_is_one_when_even():
    model = build(ModelConfig(**MOE))
    model.initialise(0)
    with router_logits() as scores:
        model.logits(model(torch.randint(0, 101, (4, 64)))).square().mean().backward(retain_graph=True)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()
    balance = load_balancing_loss(scores, expert_counts(scores, top_k=2), tokens=256)
    balance.backward()
    assert [s.shape for s in scores] == [(256, 6)] * 3 and 0.9 < balance.item() < 1.5
    assert all(layer.mlp.gate.weight.grad.abs().sum() > 0 for layer in model.model.layers)
    # by hand: both tokens choose expert 0, whose mean probability is p: 2 experts x (1 x p + 0 x (1 - p))
    lopsided = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    counts = expert_counts([lopsided], top_k=1)
    assert counts.tolist() == [[2, 0]]
    whole = load_balancing_loss([lopsided], counts, tokens=2)
    assert whole.item() == pytest.approx(2 * lopsided.softmax(-1)[:, 0].mean())
    parts = [load_balancing_loss([lopsided[at : at + 1]], counts, tokens=2) for at in range(2)]
    assert sum(parts).item() == pytest.approx(whole.item())
    model(torch.zeros(1, 4, dtype=torch.long))
    assert len(scores) == 3  # nothing is kept outside the block


def test_bfloat16_round_trip(tmp_path):
    model = build(ModelConfig(**DENSE), dtype=torch.bfloat16)
    model.initialise(3)
    save_checkpoint(model, tmp_path / "c")
    assert json.loads((tmp_path / "c" / "config.json").read_text())["dtype"] == "bfloat16"
    again, _ = load_checkpoint(tmp_path / "c", dtype=torch.bfloat16)
    assert fingerprint(again) == fingerprint(model)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    assert back.dtype == torch.bfloat16 and torch.equal(back.lm_head.weight, model.lm_head.weight)


def test_a_checkpoint_saved_over_another_leaves_neither_mixture_nor_rest(tmp_path):
    model, other = build(ModelConfig(**DENSE)), build(ModelConfig(**DENSE))
    model.initialise(0)
    other.initialise(1)
    folder = tmp_path / "c"
    save_checkpoint(model, folder, max_shard_bytes=20_000)
    (folder / "tokenizer.json").write_text("{}")
    for next_one, size in ((other, 10**9), (model, 20_000), (other, 40_000)):
        save_checkpoint(next_one, folder, max_shard_bytes=size)
        assert fingerprint(load_checkpoint(folder)[0]) == fingerprint(next_one)
    assert (folder / "tokenizer.json").exists() and [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_is_of_every_bit_in_its_place(dtype):
    model = build(ModelConfig(**DENSE), dtype=dtype)
    model.initialise(0)
    seen = [fingerprint(model)]
    matrix = model.model.layers[1].mlp.up_proj.weight.data
    matrix.view(torch.int32 if dtype == torch.float32 else torch.int16)[5, 7].bitwise_xor_(1)
    seen.append(fingerprint(model))
    matrix[[3, 4]] = matrix[[4, 3]]
    seen.append(fingerprint(model))
    assert len(set(seen)) == 3


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = build(ModelConfig(**DENSE))
    model.initialise(0)
    save_checkpoint(model, tmp_path / "c")
    before = fingerprint(model)
    model.initialise(1)
    assert fingerprint(model) != before

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("askesis.models.checkpoint.save_file", full_disk)
    for folder in ("c", "new"):
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(model, tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert fingerprint(load_checkpoint(tmp_path / "c")[0]) == before


def test_config_reads_old_and_new_spellings_and_gives_itself_back():
    for config in (*SIZES.values(), ModelConfig(**DENSE, yarn_factor=4.0, eos_token_id=(3, 4))):
        assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    new = ModelConfig(**DENSE, yarn_factor=4.0).to_hf()
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "rope_scaling")}
    old["rope_scaling"] = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)
    assert ModelConfig.from_hf(new).context_length == 131_072


def test_another_causal_lm_runs_through_transformers(tmp_path):
    from transformers import CohereConfig, CohereForCausalLM, LlamaConfig, LlamaForCausalLM

    size = {key: DENSE[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")}
    reference = LlamaForCausalLM(LlamaConfig(**size, num_hidden_layers=2)).eval()
    reference.save_pretrained(tmp_path / "llama")
    with pytest.raises(CheckpointError, match=r"TransformersLM\.load"):
        load_checkpoint(tmp_path / "llama")
    model = TransformersLM.load(tmp_path / "llama").eval()
    tokens = torch.randint(0, 101, (2, 11))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(tokens)), reference(tokens).logits, atol=1e-4, rtol=0)
    model.logits(model(tokens)).mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(CheckpointError, match="cannot take an attention"):
        model(tokens, attention=lambda layer, q, k, v: q)
    model.save(tmp_path / "again")
    assert fingerprint(TransformersLM.load(tmp_path / "again")) == fingerprint(model)

    weights = load_file(tmp_path / "again" / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "again" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing keys, the first is model\.layers\.1\.mlp\.up_proj"):
        TransformersLM.load(tmp_path / "again")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        TransformersLM.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="are not its output matrix"):  # Cohere scales its logits
        TransformersLM(CohereForCausalLM(CohereConfig(**size, num_hidden_layers=1, pad_token_id=0)))


def test_what_is_wrong_with_a_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "nowhere")
    model = build(ModelConfig(**DENSE))
    good = tmp_path / "good"
    save_checkpoint(model, good, max_shard_bytes=20_000)

    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(good, folder)
        change(folder)
        return folder

    def edit(**changes):
        def change(folder):
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

        return change

    cases = {
        "is missing": lambda f: sorted(f.glob("*.safetensors"))[0].unlink(),
        "no readable safetensors": lambda f: sorted(f.glob("*.safetensors"))[0].write_bytes(b"\x00" * 64),
        "config.json is not readable JSON": lambda f: (f / "config.json").write_text("{"),
        "holds a JSON list": lambda f: (f / "config.json").write_text("[]"),
        "index.json is not readable JSON": lambda f: (f / "model.safetensors.index.json").write_text(""),
        "has no weight_map": lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "hidden_size='48', expected a whole number": edit(hidden_size="48"),
        "a value has the wrong type": edit(rms_norm_eps=[]),
        "hidden_act='gelu' is not supported": edit(hidden_act="gelu"),
        "yarn with beta_fast=16": edit(rope_parameters=YARN | {"beta_fast": 16}),
        "rope .* is not supported": edit(rope_parameters={"rope_type": "llama3", "factor": 8.0}),
        "did you mean 'Qwen3ForCausalLM'": edit(architectures=["Qwen2ForCausalLM"]),
        "expected \\[202, 48\\]": edit(vocab_size=202),
        "tensors are missing": edit(num_hidden_layers=4),
        "unexpected tensor": edit(num_hidden_layers=2),
        "do not divide": edit(num_key_value_heads=3),
    }
    for number, (message, change) in enumerate(cases.items()):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(broken(f"case{number}", change))
