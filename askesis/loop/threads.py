"""How many threads torch gets: set on purpose, since two processes of two threads each on two cores crawl."""

from __future__ import annotations

import math
import os
from pathlib import Path


def physical_cores() -> int:
    """Physical cores that this process may use: its affinity, without hyper-threads, within the container's quota."""
    allowed = sorted(os.sched_getaffinity(0))
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, math.ceil(min(len(cores), _quota())))


def _siblings(cpu: int) -> str:
    """What the hyper-threads of one core have in common; a core of its own where the kernel does not tell."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> float:
    """CPUs that the control group grants."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(most) / float(period)
    except (OSError, ValueError):
        return math.inf
