"""What the torch back end does on a GPU: `python -m pytest tests/train/test_on_gpu.py` where there is one.

Elsewhere that is reported as not run; and the same checks go over the same blocks and masks on a CPU, without fused
kernels, so that they are known to be right themselves (`make test-full`).
"""

import copy
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_distributed import DAPO, MADE, SETTINGS, alone, check_steps, spec
from test_trees import distance, gradient, groups, padded_mask, random_forest, samples_of, seen_by
from torch._dynamo.utils import counters
from train_doubles import separate, small_mixture, small_model

from askesis.models import save_checkpoint
from askesis.train import Optimisers, supervised, trees
from askesis.train.processes import TrainerProcesses
from askesis.train.trees import ByBlock

NEEDS = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: needs a GPU")]
SEVERAL = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not run: needs two GPUs")
DEVICES = [pytest.param("cpu", marks=pytest.mark.full), pytest.param("cuda", marks=NEEDS)]
on_gpu = functools.partial(pytest.param, marks=NEEDS)


@pytest.fixture
def by_block(monkeypatch):
    """A CPU takes the way of a GPU."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)

    def row(forest, device):
        count = len(forest.tokens)
        room = (0, trees.padded(count) - count)
        tokens, positions = (np.pad(x, room).astype(np.int64) for x in (forest.tokens, forest.positions))
        return torch.from_numpy(tokens)[None].to(device), torch.from_numpy(positions)[None].to(device)

    monkeypatch.setattr(trees, "row", row)
    monkeypatch.setattr(trees, "attention", ByBlock)


def shape(make):
    """With heads as wide as fused kernels want them."""
    return functools.partial(make, hidden_size=64, head_dim=32) if make is small_model else make


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "near"), [("float32", 2e-3), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (6, 1)])
def test_attention_is_that_of_the_mask(heads, dtype, near, device, by_block):
    """Forward and back, as shares of the norm, beside the mask of the sequences in float64."""
    for seed in range(3):
        forest, mask = padded_mask(seed, 8)
        torch.manual_seed(seed)
        exact = [torch.randn(1, h, len(mask), 64, dtype=torch.float64) for h in (heads[0], *heads[1:] * 2)]
        inputs = [x.to(device, getattr(torch, dtype)).requires_grad_() for x in exact]
        exact = [x.detach().cpu().double().requires_grad_() for x in inputs]
        slope = torch.randn(exact[0].shape, dtype=torch.float64)
        got = ByBlock(forest, torch.device(device))(0, *inputs)
        want = F.scaled_dot_product_attention(*exact, attn_mask=mask, enable_gqa=True)
        slopes = torch.autograd.grad((got * slope.to(got)).sum(), inputs)
        meant = torch.autograd.grad((want * slope).sum(), exact)
        for a, b in zip((got, *slopes), (want, *meant), strict=True):
            assert float((a.detach().cpu().double() - b).norm() / b.norm()) < near


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [small_model, small_mixture])
@pytest.mark.parametrize("recompute", [False, True])
def test_trees_teach_what_separate_sequences_teach(recompute, make, device, by_block):
    model = shape(make)(0)
    samples = samples_of(groups(0, count=3, size=4, turns=8, longest=40), np.random.default_rng(0))
    want, loss = separate(copy.deepcopy(model).double(), samples, supervised)
    for batch_tokens in (400, 10**6):
        options = {"backend": "torch", "recompute": recompute, "batch_tokens": batch_tokens}
        got, figures = gradient(copy.deepcopy(model).to(device), samples, **options)
        assert max(distance([one.cpu().double() for one in got], want)) < 1e-3
        assert figures["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_rounds_and_stays_near(recompute, device, by_block):
    model = shape(small_model)(0)
    samples = samples_of(groups(0, count=3, size=4, turns=8, longest=40), np.random.default_rng(0))
    options = {"backend": "torch", "recompute": recompute, "batch_tokens": 400}
    exact, rounded = (
        gradient(copy.deepcopy(model).to(device), samples, dtype=dtype, **options)[0]
        for dtype in ("float32", "bfloat16")
    )
    assert {one.dtype for one in rounded} == {torch.float32}
    total = [torch.cat([one.flatten() for one in ones]) for ones in (rounded, exact)]
    assert 1e-5 < float((total[0] - total[1]).norm() / total[1].norm()) < 0.05


@pytest.mark.full
def test_forests_of_any_length_take_two_graphs(monkeypatch):
    """Compiled for each length anew, it would soon be compiled no more, and make all scores at once."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(torch.nn.attention.flex_attention.flex_attention, backend="eager")  # what is compiled when
    monkeypatch.setattr(trees, "_flex", lambda device: compiled)
    with torch.no_grad():
        for seed in range(10):
            forest, places = random_forest(seed, 8, count=4 + 3 * seed, longest=150)
            count, size = len(forest.tokens), trees.padded(len(forest.tokens))
            mask = torch.eye(size, dtype=torch.bool)
            mask[:count, :count] = seen_by(forest, places)
            inputs = [torch.randn(1, heads, size, 16) for heads in (4, 2, 2)]
            want = F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
            torch.testing.assert_close(ByBlock(forest, torch.device("cpu"))(0, *inputs), want, atol=1e-5, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("device", [on_gpu("cuda")])
def test_steps_of_any_length_take_few_graphs(device):
    torch._dynamo.reset()
    counters.clear()
    model = shape(small_model)(0).to(device)
    for seed in range(12):
        samples = samples_of(groups(seed, count=2, size=3, turns=2 + seed, longest=40), np.random.default_rng(seed))
        gradient(model, samples, backend="torch", dtype="bfloat16")
    assert counters["stats"]["unique_graphs"] <= 4


@pytest.mark.parametrize("optimiser", [on_gpu(name) for name in MADE])
def test_a_group_of_one_over_nccl_is_a_trainer(optimiser, tmp_path, monkeypatch):
    from askesis.train.distributed import ShardedTrainer, full_weights, join, load_sharded

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    model = shape(small_model)(1)
    save_checkpoint(model, tmp_path / "model")
    one, group = alone(model, MADE[optimiser]), join()
    try:
        sharded = load_sharded(tmp_path / "model", group)
        optimisers = Optimisers(sharded, **MADE[optimiser])
        many = ShardedTrainer(sharded, group=group, optimisers=optimisers, loss=DAPO, **SETTINGS)
        check_steps(one, many, first=0, count=2)
        many.save(tmp_path / "state")
        many.load(tmp_path / "state")
        check_steps(one, many, first=2, count=1)
        for (_, got), want in zip(full_weights(sharded, group), model.parameters(), strict=True):
            torch.testing.assert_close(got, want.detach(), atol=1e-3, rtol=1e-2)
    finally:
        group.leave()


@pytest.mark.parametrize("optimiser", [pytest.param(name, marks=[*NEEDS, SEVERAL]) for name in MADE])
def test_a_group_over_nccl_learns_what_one_process_does(optimiser, tmp_path):
    model = shape(small_model)(1)
    one = alone(model, MADE[optimiser])
    with TrainerProcesses(spec(tmp_path, model, MADE[optimiser]), count=torch.cuda.device_count()) as many:
        check_steps(one, many, first=0, count=3)
        twin = shape(small_model)(9)
        many.refresh(twin)
        for got, want in zip(twin.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-2)
        many.save(tmp_path / "state")
        one.load(tmp_path / "state")


@pytest.mark.full
def test_the_bench_of_throughput_runs_from_start_to_end():
    """The tiny shape on a CPU, ours and TRL's; a peer that cannot run here is left out, and said to be."""
    asked = ["repeats=1", "threads=1", "dtype=float32", "sizes=tiny", "device=cpu", "peers=trl,trl flash"]
    options = [word for one in asked for word in ("--option", one)]
    command = [sys.executable, "-m", "bench", "throughput", "--json", *options]
    root = Path(__file__).parents[2]
    said = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    for kind in ("packed", "tree", "engine"):
        assert found["ours"][f"tiny_{kind}_tokens_s"] > 0
    assert found["peers"]["trl"]["tiny_packed_tokens_s"] > 0 and "trl flash" not in found["peers"]
    assert found["ratio"] > 0 and not found["met"]
    assert any("trl flash: not run" in note for note in found["notes"])
