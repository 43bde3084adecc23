"""A process of `bench engine`: vLLM on the CPU, in its own environment (`make venv-vllm`).

`.venv-vllm/bin/python -m bench.vllm_peer CHECKPOINT THREADS DTYPE [OPTION=JSON ...]`. vLLM compiles the model itself,
keeps prefixes in its cache, and is driven request by request, so that an episode goes on as soon as its own turn is
over. OPTION: of `vllm.LLM`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from bench import engine_workload as work


def main() -> None:
    """Until stdin ends."""
    started = time.time()
    checkpoint, threads, dtype = sys.argv[1:4]
    options: dict[str, Any] = {key: json.loads(value) for key, value in (more.split("=", 1) for more in sys.argv[4:])}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a third faster here than an engine process of its own
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{int(threads) - 1}" if int(threads) > 1 else "0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=checkpoint,
        skip_tokenizer_init=True,
        dtype=dtype,
        max_model_len=1024,
        max_num_seqs=64,
        enable_prefix_caching=True,
        **options,
        disable_log_stats=True,
    )
    vocab = llm.llm_engine.model_config.get_vocab_size()

    def sequences(seed: int) -> int:
        llm.reset_prefix_cache()
        how = SamplingParams(temperature=1.0, max_tokens=work.NEW_TOKENS, ignore_eos=True, detokenize=False, seed=None)
        prompts = [{"prompt_token_ids": prompt} for prompt in work.sequences(seed, vocab)]
        done = llm.generate(prompts, how, use_tqdm=False)
        return sum(len(out.outputs[0].token_ids) for out in done)

    def conversation(seed: int) -> int:
        llm.reset_prefix_cache()
        how = SamplingParams(
            temperature=1.0,
            max_tokens=work.TURN_TOKENS,
            ignore_eos=True,
            detokenize=False,
            stop_token_ids=work.STOP,
        )
        specs = work.conversations(seed, vocab)
        contexts = [list(spec.prompt) for spec in specs]
        engine, tokens = llm.llm_engine, 0
        for number, context in enumerate(contexts):
            engine.add_request(f"{seed}/{number}/0", {"prompt_token_ids": context}, how)
        while engine.has_unfinished_requests():
            for out in engine.step():
                if not out.finished:
                    continue
                _, number, turn = (int(part) for part in out.request_id.split("-")[0].split("/"))
                said = list(out.outputs[0].token_ids)
                tokens += len(said)
                contexts[number] += said + specs[number].observations[turn]
                if turn + 1 < work.TURNS:
                    name = f"{seed}/{number}/{turn + 1}"
                    engine.add_request(name, {"prompt_token_ids": contexts[number]}, how)
        return tokens

    work.serve({"sequences": sequences, "conversation": conversation}, started)


if __name__ == "__main__":
    main()
