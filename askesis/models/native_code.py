"""C++ that is compiled on the machine it runs on, once: for the engine and for the trainer."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from askesis.types import AskesisError

_FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-shared", "-pthread", "-w")
_HEADERS = Path(__file__).parent


def compiler() -> str:
    """What compiles: the environment's `CXX`, else g++."""
    return os.environ.get("CXX", "g++")


def no_compiler() -> str | None:
    """What to say where there is no C++ compiler; None if there is one."""
    if shutil.which(compiler()) is None:
        return f"there is no C++ compiler {compiler()!r} (Debian, Ubuntu: apt-get install g++)"
    return None


@functools.cache
def library(source: Path, name: str) -> ctypes.CDLL:
    """The compiled source, from a cache that knows the source, the compiler and the processor. Takes seconds once.

    name: what it is called there, and in the error. Raises `AskesisError` with what the compiler said if it cannot.
    """
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    features = [line for line in cpu.splitlines() if line.startswith(("flags", "Features", "model name"))]
    headers = [header.read_text() for header in sorted(_HEADERS.glob("*.h"))]
    known = "\n".join([source.read_text(), *headers, version, *_FLAGS, *features])
    file = f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "askesis"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"askesis-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / file
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / file
            command = [compiler(), *_FLAGS, f"-I{_HEADERS}", "-o", str(made), str(source)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise AskesisError(f"cannot compile the {name}: {' '.join(command)}\n{result.stderr[-2000:]}")
            made.replace(target)
    return ctypes.CDLL(str(target))
