"""How weights travel to a vLLM: through shared memory, where there is nothing faster or no GPU at all.

The sender casts its weights to the engine's type and takes their fingerprint; workers map the file, check it before
they touch what they hold, and say afterwards what they hold. Machines that share a folder can use that; `devices` has
what goes from GPU to GPU.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from askesis.inference.vllm.transport import Transport
from askesis.models import fingerprint as fingerprint_of
from askesis.types import EngineError

_SHM = Path("/dev/shm")
_SPARE = 64 * 2**20


class Courier(Protocol):
    """Brings weights to a vLLM, through its weight-transfer interface."""

    async def deliver(
        self, weights: Mapping[str, Tensor], version: int, fingerprint: str, transport: Transport
    ) -> None:
        """Bring all of them, while nothing is sampled. fingerprint: of these weights. Raises `EngineError`."""
        ...

    def close(self) -> None:
        """Nothing is left behind. Idempotent."""
        ...


class SharedMemory:
    """A `Courier` of files in a private folder in shared memory, or in `folder` (which workers must reach by its name).

    Its other end is `worker.SharedMemoryEngine`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._parent = Path(folder) if folder is not None else _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())
        self._folder: Path | None = None

    async def deliver(
        self, weights: Mapping[str, Tensor], version: int, fingerprint: str, transport: Transport
    ) -> None:
        """See `Courier.deliver`."""
        try:
            path = await asyncio.to_thread(self.write, weights, version)
            info = {"path": str(path), "fingerprint": fingerprint, "tensors": len(weights), "version": version}
            try:
                await transport.begin_update()
            except EngineError:
                await transport.finish_update()  # of one that was cut off
                await transport.begin_update()
            await transport.update(info)
            await transport.finish_update()
        finally:
            self.close()

    def write(self, weights: Mapping[str, Tensor], version: int) -> Path:
        """The file of these weights, whatever device they are on. Raises `EngineError` where there is no room."""
        self.close()
        size = sum(tensor.nbytes for tensor in weights.values())
        try:
            if (free := shutil.disk_usage(self._parent).free) < size + _SPARE:
                raise EngineError(
                    f"weights version {version}: {size:,} bytes do not fit into {self._parent}, which has {free:,} "
                    "left; enlarge it, or name another folder that the engine's workers reach"
                )
            self._folder = Path(tempfile.mkdtemp(prefix="askesis-weights-", dir=self._parent))
            path = self._folder / f"version-{version}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
        except OSError as error:
            raise EngineError(f"weights version {version} cannot be written to {self._parent}: {error}") from error
        return path

    def close(self) -> None:
        """Remove the last file."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class Refused(ValueError):
    """What came is not what was sent, or does not fit; nothing was touched."""


def received(info: Mapping[str, Any], here: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file that `SharedMemory` wrote. info: what it said of them; here: those that they replace.

    Raises `Refused`.
    """
    try:
        weights = load_file(info["path"])
    except Exception as error:
        raise Refused(f"{info['path']} cannot be read: {type(error).__name__}: {error}") from error
    if len(weights) != info["tensors"]:
        raise Refused(f"{len(weights)} tensors came of {info['tensors']}")
    if (found := fingerprint_of(weights)) != info["fingerprint"]:
        raise Refused(f"what came has the fingerprint {found}: it was damaged on the way")
    forms = [{name: (tuple(one.shape), one.dtype) for name, one in some.items()} for some in (here, weights)]
    if unlike := sorted(name for name in forms[0].keys() | forms[1].keys() if forms[0].get(name) != forms[1].get(name)):
        first = unlike[0]
        raise Refused(
            f"{len(unlike)} weights do not fit the model, {first} for one: got {forms[1].get(first)}, expected "
            f"{forms[0].get(first)}"
        )
    return weights


def cast(weights: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights as an engine of this type holds them, without a second name for a matrix that is shared."""
    given = {name: torch.as_tensor(value).detach() for name, value in weights.items()}
    embedding, head = given.get("model.embed_tokens.weight"), given.get("lm_head.weight")
    if embedding is not None and head is not None and head.data_ptr() == embedding.data_ptr():
        del given["lm_head.weight"]
    return {name: value.to(dtype) for name, value in given.items()}
