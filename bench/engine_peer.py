"""A process of `bench engine`: Askesis or transformers. `python -m bench.engine_peer WHO CHECKPOINT THREADS DTYPE`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench import engine_workload as work

Workloads = dict[str, Callable[[int], int]]


def askesis(checkpoint: str, dtype: torch.dtype, *, backend: str = "auto", compile: bool = False) -> Workloads:
    """Our engine. Every run begins with a weights update, as in training, so nothing is left over from the last."""
    from askesis.inference import EmbeddedEngine
    from askesis.models import load_checkpoint
    from askesis.types import Sampling, ids

    model, config = load_checkpoint(checkpoint, dtype=dtype)
    chosen: Any = backend
    engine = EmbeddedEngine(model, slots=64, context_length=1024, backend=chosen, compile=compile)

    async def sequences(seed: int) -> int:
        await engine.update_weights({}, engine.version + 1)
        how = [Sampling(max_tokens=work.NEW_TOKENS, seed=seed * 1000 + i) for i in range(work.SEQUENCES)]
        prompts = work.sequences(seed, config.vocab_size)
        done = await asyncio.gather(*(engine.generate(ids(p), s) for p, s in zip(prompts, how, strict=True)))
        return sum(len(completion.token_ids) for completion in done)

    async def episode(seed: int, number: int, spec: work.Conversation) -> int:
        context, tokens, name = ids(spec.prompt), 0, f"{seed}-{number}"
        for turn, observation in enumerate(spec.observations):
            how = Sampling(max_tokens=work.TURN_TOKENS, stop=tuple(work.STOP), seed=(seed * 1000 + number) * 10 + turn)
            completion = await engine.generate(context, how, session=name)
            tokens += len(completion.token_ids)
            context = np.concatenate([context, completion.token_ids, ids(observation)])
        engine.release(name)
        return tokens

    async def conversation(seed: int) -> int:
        await engine.update_weights({}, engine.version + 1)
        specs = work.conversations(seed, config.vocab_size)
        return sum(await asyncio.gather(*(episode(seed, i, spec) for i, spec in enumerate(specs))))

    return {
        "sequences": lambda seed: asyncio.run(sequences(seed)),
        "conversation": lambda seed: asyncio.run(conversation(seed)),
    }


def transformers(checkpoint: str, dtype: torch.dtype, *, compile: bool) -> Workloads:
    """`generate` on a left-padded batch; between turns its cache is kept, so that only what is new is prefilled.

    compile: a static cache, and torch.compile of the forward pass, which transformers itself switches on for GPUs only.
    """
    import transformers as imported

    library: Any = imported
    library.logging.set_verbosity_error()
    model = library.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    model.generation_config.eos_token_id = None
    vocab = model.config.vocab_size
    options: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    if compile:
        model.set_attn_implementation("eager")  # compiled, it is faster than sdpa on a CPU
        config = library.CompileConfig(mode="default")
        config._compile_all_devices = True
        options["compile_config"] = config

    def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, prompts))
        tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        return tokens, mask

    def sequences(seed: int) -> int:
        torch.manual_seed(seed)
        tokens, mask = padded(work.sequences(seed, vocab))
        static = {"cache_implementation": "static"} if compile else {}
        with torch.inference_mode():
            out = model.generate(tokens, attention_mask=mask, max_new_tokens=work.NEW_TOKENS, **options, **static)
        return int(out[:, tokens.shape[1] :].numel())

    def conversation(seed: int) -> int:
        torch.manual_seed(seed)
        specs = work.conversations(seed, vocab)
        tokens, mask = padded([spec.prompt for spec in specs])
        longest = 80 + work.TURNS * (work.TURN_TOKENS + work.OBSERVATION)
        cache = library.StaticCache(config=model.config, max_cache_len=longest) if compile else library.DynamicCache()
        stop, total = torch.tensor(work.STOP), 0
        for turn in range(work.TURNS):
            with torch.inference_mode():
                out = model.generate(
                    tokens,
                    attention_mask=mask,
                    max_new_tokens=work.TURN_TOKENS,
                    eos_token_id=work.STOP,
                    past_key_values=cache,
                    **options,
                )
            new = out[:, tokens.shape[1] :]
            ended = torch.isin(new, stop).long()
            real = (ended.cumsum(dim=1) - ended == 0).long()
            total += int(real.sum())
            observed = torch.tensor([spec.observations[turn] for spec in specs])
            tokens = torch.cat([out, observed], dim=1)
            mask = torch.cat([mask, real, torch.ones_like(observed)], dim=1)
        return total

    return {"sequences": sequences, "conversation": conversation}


def main() -> None:
    """One peer, until stdin ends."""
    started = time.time()
    who, checkpoint, threads, dtype = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    kind = getattr(torch, dtype)
    makers: dict[str, Callable[[], Workloads]] = {
        "askesis": lambda: askesis(checkpoint, kind),
        "askesis-torch": lambda: askesis(checkpoint, kind, backend="torch"),
        "askesis-torch-compiled": lambda: askesis(checkpoint, kind, backend="torch", compile=True),
        "transformers": lambda: transformers(checkpoint, kind, compile=False),
        "transformers-compiled": lambda: transformers(checkpoint, kind, compile=True),
    }
    work.serve(makers[who](), started)


if __name__ == "__main__":
    main()
