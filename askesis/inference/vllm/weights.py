"""How weights travel to a vLLM on the same machine: a file in shared memory, and what its content should be.

The sender reads its weights once to cast them to the engine's type and once for their fingerprint; workers map the file,
check it before they touch what they hold, and check what they hold afterwards. Machines that share a folder can use that.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from askesis.types import EngineError

_SHM = Path("/dev/shm")
_SPARE = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """What a worker is told of an update. fingerprint: of the weights as they are in the file."""

    path: str
    fingerprint: str
    tensors: int
    version: int

    def info(self) -> dict[str, Any]:
        """As vLLM's `update_weights` takes it."""
        return asdict(self)


class Courier(Protocol):
    """Puts weights where workers find them."""

    def ship(self, weights: Mapping[str, Tensor], version: int, fingerprint: str) -> Shipment:
        """fingerprint: of these weights. Raises `EngineError` where there is no room."""
        ...

    def close(self) -> None:
        """Nothing is left behind. Idempotent."""
        ...


class SharedMemory:
    """A `Courier` of files in a private folder in shared memory, or in `folder` (which workers must reach by its name).

    A file lives until the next one is written.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._parent = None if folder is None else Path(folder)
        self._folder: Path | None = None

    def ship(self, weights: Mapping[str, Tensor], version: int, fingerprint: str) -> Shipment:
        """Write the weights [any shapes], whatever device they are on; see `Courier.ship`."""
        self.close()
        size = sum(tensor.nbytes for tensor in weights.values())
        parent = self._parent or (_SHM if _SHM.is_dir() else Path(tempfile.gettempdir()))
        try:
            if (free := shutil.disk_usage(parent).free) < size + _SPARE:
                raise EngineError(
                    f"weights version {version}: {size:,} bytes do not fit into {parent}, which has {free:,} left; "
                    "enlarge it, or name another folder that the engine's workers reach"
                )
            self._folder = Path(tempfile.mkdtemp(prefix="askesis-weights-", dir=parent))
            path = self._folder / f"version-{version}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
        except OSError as error:
            raise EngineError(f"weights version {version} cannot be written to {parent}: {error}") from error
        return Shipment(path=str(path), fingerprint=fingerprint, tensors=len(weights), version=version)

    def close(self) -> None:
        """Remove the last file."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def cast(weights: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights as an engine of this type holds them, without a second name for a tensor that is shared."""
    given = {name: torch.as_tensor(value).detach() for name, value in weights.items()}
    embedding = given.get("model.embed_tokens.weight")
    head = given.get("lm_head.weight")
    if embedding is not None and head is not None and head.data_ptr() == embedding.data_ptr():
        del given["lm_head.weight"]
    return {name: value.to(dtype) for name, value in given.items()}


@contextmanager
def closing(courier: Courier) -> Iterator[Courier]:
    """Nothing is left behind when the update is over."""
    try:
        yield courier
    finally:
        courier.close()
