"""A process of `bench throughput`: `python -m bench.throughput_peer WHO SIZE DEVICE OPTIONS`, OPTIONS being JSON.

WHO: `packed` and `tree` are `askesis.train`, `engine` is the embedded engine, `trl` TRL's SFTTrainer. All have random
weights, float32 parameters and optimiser, products in bfloat16 by autocast (unless `dtype` is float32), fused AdamW,
loss on every token.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from bench import throughput_workload as work
from bench.peer import questions, say

Step = Callable[[int], Mapping[str, float]]


def wait(device: str) -> None:
    """For the device to have done all."""
    if device == "cuda":
        torch.cuda.synchronize()


def _config(size: str) -> Any:
    from askesis.models import ModelConfig

    shape = work.SHAPES[size]
    return ModelConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        head_dim=shape["head"],
        intermediate_size=shape["inner"],
        tie_word_embeddings=True,
    )


def _model(size: str, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Random weights, drawn where they are."""
    from askesis.models import empty

    model = empty(_config(size), device=device, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    return model


def ours(kind: str, size: str, device: str, options: Mapping[str, Any]) -> Step:
    """A step of our trainer."""
    from askesis.train import Optimisers, Trainer, supervised
    from askesis.types import Sample

    model = _model(size, device)
    if options.get("compile"):
        for layer in model.model.layers:
            layer.mlp.compile()
            layer.input_layernorm.compile()
            layer.post_attention_layernorm.compile()
    trainer = Trainer(
        model,
        loss=supervised,
        optimisers=Optimisers(model, kind="adamw", lr=1e-6, muon_lr=1e-6),
        batch_tokens=int(options.get("micro", work.MICRO[device])),
        backend=options.get("backend", "torch"),
        dtype=options.get("dtype", "bfloat16"),
        recompute=bool(options.get("recompute", False)),
        least=8 if kind == "tree" else None,
    )

    def sample(tokens: np.ndarray, number: int) -> Sample:
        count = len(tokens)
        mask = np.ones(count, dtype=bool)
        mask[0] = False
        if kind == "tree":
            mask[: count // work.PROMPT] = False
        zeros = np.zeros(count, dtype=np.float32)
        versions = np.zeros(count, dtype=np.int32)
        trace = {"trace_id": str(number), "group": str(number // work.GROUP)}
        columns = {"logprobs": zeros, "advantages": mask.astype(np.float32), "policy_versions": versions}
        return Sample(token_ids=tokens, mask=mask, **columns, **trace)

    def step(seed: int) -> Mapping[str, float]:
        made = work.sequences(kind, device, work.SHAPES[size]["vocab"], seed)
        samples = [sample(tokens, number) for number, tokens in enumerate(made)]
        parts: Any = trainer._parts(samples).parts
        wait(device)
        started = time.perf_counter()
        trainer.step(samples)
        wait(device)
        seconds = time.perf_counter() - started
        through = sum(len(part.forest.tokens) for part in parts)
        pairs = sum(float((part.forest.positions + 1.0).sum()) for part in parts)
        scored = sum(len(part.targets) for part in parts)
        flops = work.operations(work.SHAPES[size], through, pairs, scored)
        return {"seconds": seconds, "tokens": sum(map(len, made)), "computed": through, "operations": flops}

    return step


def engine(size: str, device: str, options: Mapping[str, Any]) -> Step:
    """64 requests of 128 sampled tokens after 64."""
    from askesis.inference import EmbeddedEngine
    from askesis.types import Sampling

    dtype = getattr(torch, options.get("dtype", "bfloat16"))
    made = EmbeddedEngine(_model(size, device, dtype), slots=64, context_length=1024)

    async def generate(seed: int) -> int:
        await made.update_weights({}, made.version + 1)
        rng = np.random.default_rng(seed)
        prompts = rng.integers(0, work.SHAPES[size]["vocab"], (64, 64)).astype(np.int32)
        asked = (made.generate(p, Sampling(max_tokens=128, seed=n)) for n, p in enumerate(prompts))
        return sum(len(completion.token_ids) for completion in await asyncio.gather(*asked))

    def step(seed: int) -> Mapping[str, float]:
        started = time.perf_counter()
        tokens = asyncio.run(generate(seed))
        wait(device)
        return {"seconds": time.perf_counter() - started, "tokens": tokens}

    return step


def trl(size: str, device: str, options: Mapping[str, Any], started: float) -> None:
    """TRL's loop, stopped before each step. options: `micro` (tokens in a forward pass), `config` to SFTConfig,
    `attention` of transformers'."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from askesis.loop import load

    raw = _config(size).to_hf()
    config = Qwen3Config(**{key: value for key, value in raw.items() if key != "architectures"})
    config._attn_implementation = options.get("attention", "sdpa")
    with torch.device(device):
        model = Qwen3ForCausalLM(config)
    length, shape = work.LENGTH[device], work.SHAPES[size]
    rows = max(1, int(options.get("micro", work.MICRO[device])) // length)
    count = work.TOKENS[device] // length
    data = [
        {"input_ids": one.tolist()}
        for seed in range(16)
        for one in work.sequences("packed", device, shape["vocab"], seed)
    ]
    flops = work.operations(shape, count * length, count * length * (length + 1) / 2, count * (length - 1))
    done = [0, 0.0]

    class Gate(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if done[0] >= 2 and next(asked, None) is None:
                raise EOFError
            wait(device)
            done[1] = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device)
            seconds = time.perf_counter() - done[1]
            done[0] += 1
            if done[0] == 2:
                say({"cold_s": time.time() - started})
            elif done[0] > 2:
                say({"seconds": seconds, "tokens": count * length, "computed": count * length, "operations": flops})

    asked = questions()
    bf16 = options.get("dtype", "bfloat16") == "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "output_dir": folder,
            "max_steps": 1_000_000,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": max(1, count // rows),
            "max_length": length,
            "packing": False,
            "learning_rate": 1e-6,
            "lr_scheduler_type": "constant",
            "optim": "adamw_torch_fused",
            "gradient_checkpointing": bool(options.get("recompute", False)),
            "bf16": bf16,
            "use_cpu": device == "cpu",
            "report_to": "none",
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": device == "cuda",
        }
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings | options.get("config", {})),
            train_dataset=Dataset.from_list(data),
            processing_class=AutoTokenizer.from_pretrained(load("askesis-tiny").path),
            callbacks=[Gate()],
        )
        with suppress(EOFError):
            trainer.train()


def peak(device: str, dtype: str) -> float:
    """Floating-point operations a second that large products reach here, the best of several."""
    kind, size = getattr(torch, dtype), 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        best = min(best, time.perf_counter() - started)
    return float(2.0 * size**3 / best)


def main() -> None:
    """One peer, until stdin ends."""
    started = time.time()
    who, size, device, given = sys.argv[1:5]
    options = json.loads(given)
    if device == "cpu":
        torch.set_num_threads(int(options.get("threads", 1)))
    if who == "trl":
        trl(size, device, options, started)
    elif who == "peak":
        say({"cold_s": peak(device, options["dtype"])})
    else:
        made = engine(size, device, options) if who == "engine" else ours(who, size, device, options)
        work.serve(made, started)


if __name__ == "__main__":
    main()
