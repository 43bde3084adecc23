"""How weights travel to a vLLM: through shared memory, where there is nothing faster or no GPU at all.

The sender casts its weights to the engine's type and takes their fingerprint; workers map the file, check it before
they touch what they hold, and say afterwards what they hold. Machines that share a folder can use that; `devices` has
what goes from GPU to GPU.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
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
_PREFIX = "askesis-weights-"
_YOUNG_S = 60.0  # a folder may not be locked yet


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

    A folder is locked as long as its owner lives: what one that was killed has left, the next `write` of anybody
    removes. Its other end is `worker.SharedMemoryEngine`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._parent = Path(folder) if folder is not None else _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())
        self._locks: dict[Path, int] = {}  # descriptors that hold them

    async def deliver(
        self, weights: Mapping[str, Tensor], version: int, fingerprint: str, transport: Transport
    ) -> None:
        """See `Courier.deliver`."""
        writing = asyncio.ensure_future(asyncio.to_thread(self.write, weights, version))
        try:
            path = await asyncio.shield(writing)
        except asyncio.CancelledError:  # the thread writes on, and nobody will read it
            writing.add_done_callback(self._drop)
            raise
        try:
            info = {"path": str(path), "fingerprint": fingerprint, "tensors": len(weights), "version": version}
            try:
                await transport.begin_update()
            except EngineError:
                await transport.finish_update()  # of one that was cut off
                await transport.begin_update()
            await transport.update(info)
            await transport.finish_update()
        finally:
            self._remove(path.parent)

    def write(self, weights: Mapping[str, Tensor], version: int) -> Path:
        """The file of these weights, whatever device they are on. Raises `EngineError` where there is no room."""
        size = sum(tensor.nbytes for tensor in weights.values())
        folder = None
        try:
            self._sweep()
            if (free := shutil.disk_usage(self._parent).free) < size + _SPARE:
                raise EngineError(
                    f"weights version {version}: {size:,} bytes do not fit into {self._parent}, which has {free:,} "
                    "left; enlarge it, or name another folder that the engine's workers reach"
                )
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            self._locks[folder] = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._locks[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = folder / f"version-{version}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
        except BaseException as error:
            if folder is not None:
                self._remove(folder)
            if isinstance(error, OSError):
                raise EngineError(f"weights version {version} cannot be written to {self._parent}: {error}") from error
            raise
        return path

    def _sweep(self) -> None:
        """Remove what the dead have left."""
        for folder in self._parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # somebody else's, or gone meanwhile
                if folder in self._locks or time.time() - folder.stat().st_mtime < _YOUNG_S:
                    continue
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(descriptor)

    def _drop(self, writing: asyncio.Future[Path]) -> None:
        if not writing.cancelled() and writing.exception() is None:
            self._remove(writing.result().parent)

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if (descriptor := self._locks.pop(folder, None)) is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Remove all files that are not needed any more."""
        for folder in list(self._locks):
            self._remove(folder)


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
