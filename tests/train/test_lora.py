"""Adapters, activation checkpointing and autocast at the trainer's door."""

import copy
import functools
import json

import numpy as np
import pytest
import torch
from train_doubles import VOCAB, sample, small_mixture, small_model

from askesis.inference import EmbeddedEngine
from askesis.models import save_checkpoint
from askesis.train import Lora, Optimisers, Trainer, policy_loss, supervised
from askesis.types import AskesisError, CheckpointError, Sampling, ids


def some_samples(seed=0, count=6, **changes):
    rng = np.random.default_rng(seed)
    return [sample(rng, int(rng.integers(5, 40)), trace=str(k), group=str(k), **changes) for k in range(count)]


def adapted(model, *, backend="torch", lr=1e-2, kind="adamw", rank=4, awake=True, **changes):
    """A trainer of adapters; `awake`: whose B is not 0, so that A has a gradient."""
    targets = changes.pop("targets", ("q_proj", "o_proj", "up_proj", "down_proj"))
    lora = Lora(model, rank=rank, alpha=8.0, targets=targets, seed=1)
    if awake:
        with torch.no_grad():
            for name, parameter in lora.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(2))
        lora.merge()
    optimisers = Optimisers(lora, kind=kind, lr=lr, muon_lr=lr)
    return Trainer(model, loss=supervised, optimisers=optimisers, lora=lora, backend=backend, **changes), lora


def gradient(trainer, parameters, samples):
    trainer.optimisers.step = lambda progress: 1.0
    trainer._clip = lambda: 1.0
    trainer.step(samples)
    return [parameter.grad.clone() for parameter in parameters]


def close(got, want, tolerance=1e-4):
    for a, b in zip(got, want, strict=True):
        assert float((a - b).norm() / b.norm()) < tolerance


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_gradients_of_adapters_are_those_of_the_sum(backend):
    """Plain autograd through W + scale x B A."""
    model, samples = small_model(), some_samples()
    trainer, lora = adapted(model, backend=backend)
    plain = copy.deepcopy(model).requires_grad_(True)
    whole = Trainer(plain, loss=supervised, optimisers=Optimisers(plain, kind="adamw", lr=1.0, muon_lr=1.0))
    gradient(whole, [], samples)
    by_name = dict(plain.named_parameters())
    want = []
    for name, a, b in zip(lora._layers, lora.parameters()[::2], lora.parameters()[1::2], strict=True):
        a, b = a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()
        want += torch.autograd.grad(((8.0 / 4) * (b @ a) * by_name[f"{name}.weight"].grad).sum(), [a, b])
    close(gradient(trainer, lora.parameters(), samples), want)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_adapters_learn_and_all_else_stays(backend, kind):
    model, samples = small_model(seed=1), some_samples(count=3, advantage=1.0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer, lora = adapted(model, backend=backend, kind=kind, lr=3e-2, rank=8, awake=False)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    losses = [trainer.step(samples)["loss"] for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]
    targets = {id(weight) for weight in lora.weights}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in targets), name
        difference = (parameter - before[name]).detach()
        if difference.ndim == 2:
            assert torch.linalg.matrix_rank(difference, atol=1e-5) <= 8


async def test_the_engine_samples_what_is_trained():
    model = small_model()
    trainer, _ = adapted(model, backend="native")
    for _ in range(3):
        trainer.step(some_samples(advantage=1.0))
    engine = EmbeddedEngine(model, slots=2, context_length=64, threads=1)
    prompt = ids(np.random.default_rng(0).integers(0, VOCAB, 9))
    got = await engine.generate(prompt, Sampling(max_tokens=30, seed=3))
    await engine.close()
    one = sample(np.random.default_rng(0), 9 + len(got.token_ids), share=1.0)
    object.__setattr__(one, "token_ids", ids(np.concatenate([prompt, got.token_ids])))
    (values,) = trainer.logprobs([one])
    np.testing.assert_allclose(values[9:], got.logprobs, atol=1e-4)


def test_going_on_is_the_same_as_never_having_stopped(tmp_path):
    samples = some_samples()
    straight = small_model()
    made, _ = adapted(straight)
    for _ in range(4):
        made.step(samples)
    stopped = small_model()
    first, _ = adapted(stopped)
    first.step(samples), first.step(samples)
    first.save(tmp_path)
    merged = small_model()
    merged.load_state_dict(stopped.state_dict())  # a checkpoint has the sums
    second, _ = adapted(merged, awake=False)
    second.load(tmp_path)
    second.step(samples), second.step(samples)
    for got, want in zip(merged.parameters(), straight.parameters(), strict=True):
        assert torch.equal(got, want)
    other, _ = adapted(small_model(), rank=2)
    with pytest.raises(CheckpointError, match="rank 2"):
        other.load(tmp_path)


@pytest.mark.full
def test_what_is_saved_peft_opens(tmp_path):
    """The adapter on the model that it began from is the merged model."""
    import peft
    import transformers

    model = small_model()
    save_checkpoint(model, tmp_path / "base")
    trainer, _ = adapted(model, backend="native", targets=("q_proj", "down_proj"))
    trainer.step(some_samples())
    trainer.save(tmp_path / "trainer")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    opened = peft.PeftModel.from_pretrained(base, tmp_path / "trainer" / "adapter").eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(opened(tokens).logits, model.logits(model(tokens)), atol=1e-4, rtol=1e-4)


@pytest.mark.full
def test_a_model_of_transformers_is_adapted_too(tmp_path):
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from askesis.models import TransformersLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    inner = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, **sizes))
    model, samples = TransformersLM(inner), some_samples(count=3, advantage=1.0)
    kept = []
    trainer, lora = adapted(model, backend="auto", lr=3e-2, rank=8, awake=False, recompute=True)
    for _ in range(30):
        kept.append(trainer.step(samples)["loss"])
    assert kept[-1] < 0.9 * kept[0]
    lora.save(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names


def test_the_adapter_is_written_as_peft_has_it(tmp_path):
    from safetensors.torch import load_file

    trainer, lora = adapted(small_model(), targets=("q_proj",))
    trainer.save(tmp_path)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert set(tensors) == {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{which}.weight"
        for layer in (0, 1)
        for which in "AB"
    }
    assert torch.equal(tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], lora.parameters()[0])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 8.0, ["q_proj"])


def test_a_target_that_is_not_there():
    with pytest.raises(AskesisError, match="did you mean 'q_proj'"):
        Lora(small_model(), targets=("q_prj",))
    with pytest.raises(AskesisError, match="rank=0"):
        Lora(small_model(), rank=0)
    model = small_model()
    Lora(model)
    with pytest.raises(AskesisError, match="has adapters already"):
        Lora(model)


@pytest.mark.parametrize("make", [small_model, small_mixture])
def test_what_is_computed_again_has_the_same_gradients(make):
    samples, kept = some_samples(), []
    for recompute in (False, True):
        model = make()
        made = Trainer(
            model,
            loss=policy_loss("dapo"),
            optimisers=Optimisers(model, kind="adamw", lr=1e-2, muon_lr=1e-2),
            backend="auto" if recompute else "torch",
            router_aux=0.1,
            recompute=recompute,
        )
        assert made.backend == "torch"
        calls = []
        model.model.layers[0].register_forward_pre_hook(functools.partial(lambda calls, *_: calls.append(1), calls))
        kept.append((gradient(made, model.parameters(), samples), len(calls)))
    close(kept[1][0], kept[0][0], 1e-6)
    assert kept[1][1] > kept[0][1]
    with pytest.raises(AskesisError, match="recompute needs the backend 'torch'"):
        trained = small_model()
        optimisers = Optimisers(trained, kind="adamw", lr=1e-2, muon_lr=1e-2)
        Trainer(trained, loss=supervised, optimisers=optimisers, backend="native", recompute=True)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("make", [small_model, small_mixture])
def test_torch_rounds_to_bfloat16_if_asked(make, recompute):
    """Near float32's gradients, and not theirs; weights and gradients are float32."""
    samples, kept = some_samples(), []
    for dtype in ("float32", "bfloat16"):
        model = make()
        optimisers = Optimisers(model, kind="adamw", lr=1e-2, muon_lr=1e-2)
        made = Trainer(model, loss=supervised, optimisers=optimisers, backend="torch", dtype=dtype, recompute=recompute)
        found = gradient(made, model.parameters(), samples)
        assert {one.dtype for one in found} == {torch.float32}
        kept.append(torch.cat([one.flatten() for one in found]))
    error = float((kept[1] - kept[0]).norm() / kept[0].norm())
    assert 1e-4 < error < (0.05 if make is small_model else 0.15)  # tokens on the edge go to other experts


def test_adapters_round_too():
    samples, kept = some_samples(), []
    for dtype in ("float32", "bfloat16"):
        trainer, lora = adapted(small_model(), dtype=dtype, recompute=True)
        kept.append(torch.cat([one.flatten() for one in gradient(trainer, lora.parameters(), samples)]))
    assert 1e-4 < float((kept[1] - kept[0]).norm() / kept[0].norm()) < 0.05
