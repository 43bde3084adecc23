"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path

_SIGNAL_AT_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None)  # here: it runs between fork and exec, where a library is better not opened


def end_with_parent() -> None:
    """Have this process killed when the thread that started it ends, also with a parent that is killed or hangs.

    For a child's own start (`preexec_fn`), or from within it. Not inherited by what the process starts.
    """
    _libc.prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)


def parent_of(process: int) -> int:
    """The process id of a process' parent. Raises `OSError` where there is no such process."""
    return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def takes_orphans(process: int, *, first: Path = Path("/proc/1/cmdline")) -> bool:
    """Whether a parent is the first process, which has children that it did not start once their parent has ended.

    In a container the first process may be a server itself: a Python there is taken for one, and so is what is hidden.
    """
    if process != 1:
        return False
    try:
        command = first.read_bytes()
    except OSError:
        return False
    return b"python" not in command and b"vllm" not in command
