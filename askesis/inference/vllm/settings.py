"""How a vLLM is run: what a recipe says of it, as vLLM's own arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from askesis.types import ConfigError

WORKER = "askesis.inference.vllm.worker"
BACKEND = "askesis"  # of vLLM's weight transfer: registered by `worker` in vLLM's own process
Transfer = Literal["shared_memory", "nccl", "ipc"]
_STEP = 2048  # tokens of prompts, on a CPU
_BACKENDS = {"shared_memory": BACKEND, "nccl": "nccl", "ipc": "ipc"}
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # threads of torch live in a trainer, and would not in its fork
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # without it, vLLM for CPUs insists on that process
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""What vLLM reads out of its environment, unless that says otherwise."""
_OURS = ("model", "logprobs_mode", "worker_extension_cls", "weight_transfer_config", "skip_tokenizer_init")


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMSettings:
    """checkpoint: a folder in the Hugging Face layout, for dimensions and first weights. context_length: most tokens of
    prompt and completion. slots: most requests at once. dtype: of weights and arithmetic. eager: compile nothing.
    cache_gib: memory for keys and values, None leaves it to vLLM. tensor_parallel: devices of one model. transfer: how
    weights travel. more: further arguments of vLLM by its own names. Raises `ConfigError`.
    """

    checkpoint: str
    context_length: int = 1024
    slots: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    eager: bool = True
    cache_gib: float | None = None
    tensor_parallel: int = 1
    transfer: Transfer = "shared_memory"
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.transfer not in get_args(Transfer):
            raise ConfigError(f"vLLM: transfer={self.transfer!r}, expected one of {', '.join(get_args(Transfer))}")
        if taken := [name for name in _OURS if name in self.more]:
            raise ConfigError(
                f"vLLM: the argument {taken[0]!r} is set by Askesis, which depends on its value; leave it away"
            )

    def arguments(self) -> dict[str, Any]:
        """Of vLLM's `AsyncEngineArgs`."""
        given: dict[str, Any] = {
            "model": self.checkpoint,
            "max_model_len": self.context_length,
            "max_num_seqs": self.slots,
            "dtype": self.dtype,
            "enforce_eager": self.eager,
            "tensor_parallel_size": self.tensor_parallel,
            "skip_tokenizer_init": True,
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",
            "logprobs_mode": "processed_logprobs",  # after the temperature; `worker` keeps truncation out of them
            "generation_config": "vllm",  # no sampling parameters out of the checkpoint's folder
            "worker_extension_cls": f"{WORKER}.Extension",
            "weight_transfer_config": {"backend": _BACKENDS[self.transfer]},
        }
        if not torch.accelerator.is_available():
            # vLLM 0.32 on a CPU ends at a request with a seed whose prompt does not fit into a step as a whole
            given |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(_STEP, self.context_length)}
        if self.tensor_parallel == 1:
            given["distributed_executor_backend"] = "uni"  # a worker's process of its own only adds a hop
        if self.cache_gib is not None:
            given["kv_cache_memory_bytes"] = int(self.cache_gib * 2**30)
        return given | dict(self.more)

    def flags(self) -> list[str]:
        """The same, of `vllm serve`, after the model."""
        flags: list[str] = []
        for name, value in self.arguments().items():
            flag = "--" + name.replace("_", "-")
            if name == "model" or value is None:
                continue
            if isinstance(value, bool):
                flags.append(flag if value else f"--no-{flag[2:]}")
            elif isinstance(value, Mapping | list | tuple):
                flags += [flag, json.dumps(value)]
            else:
                flags += [flag, str(value)]
        return flags
