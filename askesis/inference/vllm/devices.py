"""Weights from the trainer's GPU to vLLM's, by vLLM's own senders: NCCL between devices, CUDA IPC on the same one.

Not run yet: this needs GPUs. What reaches vLLM is checked as after any other update (`engine`); other than with
shared memory, a transfer that went wrong has overwritten the old weights, so nothing is sampled until one is right.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor

from askesis.inference.vllm.local import INSTALL
from askesis.inference.vllm.transport import Transport
from askesis.types import EngineError, MissingExtra

Backend = Literal["nccl", "ipc"]


class Devices:
    """A `Courier` over vLLM's `WeightTransferTrainerFactory`. workers: devices that vLLM runs on, all together.

    address: this machine's, as the workers reach it (for `nccl`). The trainer's environment has vLLM, and its weights
    are on a GPU. `ipc` needs vLLM in this process (`Local`): handles of memory do not travel over HTTP.
    """

    def __init__(self, backend: Backend, *, workers: int = 1, address: str = "127.0.0.1") -> None:
        self._backend, self._workers, self._address = backend, workers, address
        self._source: Any = None
        self._sender: Any = None

    async def deliver(
        self, weights: Mapping[str, Tensor], version: int, fingerprint: str, transport: Transport
    ) -> None:
        """See `Courier.deliver`. Raises `MissingExtra` without vLLM."""
        loop = asyncio.get_running_loop()

        def send() -> None:
            if self._sender is None:
                self._open(_Client(transport, loop))
            self._source.weights = weights
            self._sender.send_weights()

        try:
            await asyncio.to_thread(send)  # vLLM's senders block, and call back through the client
        except (EngineError, MissingExtra):
            raise
        except Exception as error:
            self.close()
            raise EngineError(
                f"weights version {version} could not be sent over {self._backend}: {type(error).__name__}: {error}"
            ) from error

    def _open(self, client: _Client) -> None:
        try:
            from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        except ImportError as error:
            raise MissingExtra(
                f"transfer = {self._backend!r} uses vLLM's own senders, and this environment cannot import it "
                f"({error}): {INSTALL}. Or take transfer = 'shared_memory', which needs none here"
            ) from error
        self._source = _source()
        self._sender = WeightTransferTrainerFactory.trainer_init(self._info(), client=client, source=self._source)

    def _info(self) -> Any:
        if self._backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(packed=True, rank=0)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        with socket.socket() as probe:
            probe.bind((self._address, 0))
            port = probe.getsockname()[1]
        return NCCLTrainerInitInfo(master_address=self._address, master_port=port, world_size=1 + self._workers, rank=0)

    def close(self) -> None:
        """Leave the group."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.shutdown()


class _Client:
    """vLLM's `VLLMWeightSyncClient` over a `Transport`; called in a thread, answered in the event loop."""

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._wait(lambda: self._transport.init_transfer(init_info))

    def start_weight_update(self) -> None:
        self._wait(self._transport.begin_update)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._wait(lambda: self._transport.update(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._wait(self._transport.finish_update)  # the engine names the version once it has seen what is held

    def _wait(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(call(), self._loop).result()


def _source() -> Any:
    """vLLM's `WeightSource` over a mapping that changes from update to update."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Source(WeightSource):  # type: ignore[misc]
        weights: Mapping[str, Tensor] = {}

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, one.dtype, tuple(one.shape)) for name, one in self.weights.items()]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            yield from self.weights.items()

    return Source()
