"""What runs inside vLLM's workers: a weight-transfer backend, the check of what a worker holds, log-probabilities.

vLLM imports this module itself (`worker_extension_cls`), before it loads a model. The backend is registered in vLLM's
`WeightTransferEngineFactory`; it maps a file in shared memory (`weights`), and refuses one that is not what the sender
says before it touches the model.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import vllm.model_executor.layers.utils as layers
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.platforms import current_platform

from askesis.inference.parents import end_with_parent, parent_of, takes_orphans
from askesis.inference.vllm.experts import plainly
from askesis.inference.vllm.fused import held
from askesis.inference.vllm.settings import BACKEND
from askesis.inference.vllm.weights import Refused, received
from askesis.models import fingerprint as fingerprint_of

if TYPE_CHECKING:
    from vllm.v1.worker.worker_base import WorkerBase

_GREEDY = 1e-5  # vLLM's: below this temperature a request is greedy
_WATCH = "askesis-parent"


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing: there is no rendezvous."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """As `weights.SharedMemory` sends it."""

    path: str
    fingerprint: str
    tensors: int
    version: int


class SharedMemoryEngine(WeightTransferEngine[InitInfo, UpdateInfo]):  # type: ignore[misc]
    """vLLM's side of `weights.SharedMemory`."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    refused = ""

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """See `InitInfo`."""

    def start_weight_update(self) -> None:
        """Nothing yet: an update that is refused must leave the model as it is."""
        self.refused = ""

    def finish_weight_update(self) -> None:
        """Nothing more."""

    def shutdown(self) -> None:
        """Nothing is kept."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As vLLM's, on a device of any kind."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Look at what came, then load it. Raises `Refused`, also kept in `refused`, with the model untouched."""
        try:
            weights = received(asdict(update_info), weights_of(self.model))
        except Refused as error:
            self.refused = str(error)
            raise
        self._load(weights)

    def _load(self, weights: dict[str, Tensor]) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        initialize_layerwise_reload(self.model)
        self.model.load_weights(iter(weights.items()))
        finalize_layerwise_reload(self.model, self.model_config)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What this worker and those of its group hold, by the trainer's names."""
    return dict(held(model, ranks=get_tensor_model_parallel_world_size(), gather=tensor_model_parallel_all_gather))


class Extension:
    """Methods that every worker gets; called with `collective_rpc`, with texts as arguments."""

    def askesis_prepare(self: WorkerBase) -> dict[str, Any]:
        """Make log-probabilities those of the untruncated distribution, and say what there is.

        And end with the process that asks for tokens, however that ends: it would never hear of it.
        """
        _end_with_the_one_that_asks()
        config = self.vllm_config.model_config
        sampler = getattr(self.model_runner, "sampler", None)
        truncates = sampler is not None and not getattr(self, "use_v2_model_runner", False)
        if sampler is not None and truncates and not getattr(sampler, "askesis", False):
            sampler.sample = untruncated(sampler.sample)
            sampler.askesis = True
        return {
            "vocab": config.get_vocab_size(),
            "context": config.max_model_len,
            "dtype": str(config.dtype).removeprefix("torch."),
            "truncates": truncates,
        }

    def askesis_alive(self: WorkerBase) -> dict[str, Any]:
        """A sign of life."""
        return {}

    def askesis_state(self: WorkerBase) -> dict[str, Any]:
        """held: the fingerprint of the weights that are here, now. refused: why the last update was, or empty."""
        engine = self.weight_transfer_engine
        return {
            "held": fingerprint_of(weights_of(self.model_runner.get_model())),
            "refused": getattr(engine, "refused", ""),
        }


def untruncated(sample: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's `Sampler.sample`, with log-probabilities from before top-k, top-p and min-p; it takes them after."""

    def sampled(logits: Tensor, metadata: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        min_p = any(getattr(one, "min_p_count", 0) for one in metadata.logitsprocs.argmax_invariant)
        cut = metadata.top_k is not None or metadata.top_p is not None or min_p
        if metadata.all_greedy or not cut or metadata.max_num_logprobs is None:
            found: tuple[Tensor, Tensor | None] = sample(logits, metadata, *args, **kwargs)
            return found
        heat = torch.where(metadata.temperature < _GREEDY, 1.0, metadata.temperature)
        logprobs = (logits.float() / heat[:, None]).log_softmax(-1)
        tokens, _ = sample(logits, metadata, *args, **kwargs)
        return tokens, logprobs

    return sampled


def _end_with_the_one_that_asks() -> None:
    """It started this process, or the engine that has started this one."""
    above = multiprocessing.parent_process()
    if above is None:
        return
    end_with_parent()
    if not above.is_alive():  # it has ended before that
        os.kill(os.getpid(), signal.SIGKILL)
    if not above.name.startswith("EngineCore") or any(one.name == _WATCH for one in threading.enumerate()):
        return
    engine, asks = int(above.pid or 0), parent_of(int(above.pid or 0))

    def watch() -> None:
        while parent_of(engine) == asks and not takes_orphans(asks):
            time.sleep(1.0)
        os.kill(engine, signal.SIGKILL)  # and this process with it

    threading.Thread(target=watch, name=_WATCH, daemon=True).start()


def _plain_products(layer: nn.Module, remove_weight: bool) -> None:
    """In place of vLLM's own choice on CPUs, which packs matrices away where nobody can look at them any more."""
    layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]


def _plain_experts() -> None:
    """The same for experts, which vLLM packs once and would write unpacked ones over at an update."""
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    def apply(self: Any, **given: Any) -> None:
        if given["expert_map"] is not None:
            raise NotImplementedError("experts spread over processes (expert parallelism) on a CPU")
        given["output"].copy_(
            plainly(
                given["hidden_states"],
                given["w1"],
                given["w2"],
                given["topk_weights"],
                given["topk_ids"],
                activation=given["activation"].value,
                weighted=not given["apply_router_weight_on_input"],
            )
        )

    CPUUnquantizedExperts.apply = apply
    CPUUnquantizedExperts.process_weights_after_loading = lambda self, layer: None


layers.dispatch_cpu_unquantized_gemm = _plain_products
if current_platform.is_cpu():
    _plain_experts()

if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryEngine)
