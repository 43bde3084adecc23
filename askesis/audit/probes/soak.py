"""Whether episodes leave something behind: descriptors, processes, threads, temporary files, memory."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from askesis.audit.ground import Ground
from askesis.audit.probe import Inconclusive, Probe, Sighting
from askesis.audit.recordings import Recording, again, recordings
from askesis.audit.supervisor import family

_WARM, _LEAST, _MOST = 4, 12, 1000  # episodes
_TASKS = 4  # played in turn, so that what is kept for each task is kept once
_PART = 0.3  # of the time that is left
_GROWS = 0.2  # of something an episode, in both halves
_BYTES = 3000.0  # an episode


async def run(ground: Ground) -> Sighting:
    """Play the same few episodes as often as the time allows, and count before, in the middle and after."""
    kept = (await recordings(ground))[: 2 * _TASKS : 2]
    with _folder() as folder:
        await _play(ground, kept, _WARM)
        tracemalloc.start()
        try:
            begun = time.monotonic()
            seconds = await _play(ground, kept, _WARM)  # also what tracing itself makes
            each = (time.monotonic() - begun) / _WARM
            half = int(max(_LEAST, min(_MOST, _PART * ground.left_s / max(each, 1e-6))) / 2)
            counts = [_counted(folder)]
            for _ in range(2):
                seconds += await _play(ground, kept, half)
                counts.append(_counted(folder))
        finally:
            tracemalloc.stop()
    found = [_grown(name, counts, half) for name in counts[0]]
    grown = [text for text in found if text]
    p50, p99 = np.percentile(seconds, [50, 99])
    note = f"{2 * half} episodes; seconds each: p50 {p50:.3f}, p99 {p99:.3f}"
    hard = any(text.startswith(("descriptors", "processes")) for text in grown)
    return Sighting(
        hits=len(grown),
        n=len(found),
        evidence=f"in {2 * half} episodes: {'; '.join(grown)}" if grown else "",
        note=note,
        severity="high" if hard else "medium",
    )


async def _play(ground: Ground, kept: list[Recording], count: int) -> list[float]:
    """One after the other; seconds of each. Raises `Inconclusive` where the machinery ends one."""
    seconds = []
    for number in range(count):
        begun = time.monotonic()
        trace = (await again(ground, [kept[number % len(kept)]]))[0]
        seconds.append(time.monotonic() - begun)
        if not trace.outcome.learnable:
            raise Inconclusive(f"episode {number + 1} ended by {trace.outcome.by}: {trace.outcome.detail[:300]}")
    return seconds


def _counted(folder: Path) -> Mapping[str, float]:
    gc.collect()
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "processes": len(family(os.getpid())),
        "threads": threading.active_count(),
        "temporary files": sum(1 for _ in folder.rglob("*")),
        "bytes of memory": tracemalloc.get_traced_memory()[0],
    }


def _grown(name: str, counts: list[Mapping[str, float]], half: int) -> str:
    """What has grown in both halves; empty for nothing."""
    first, middle, last = (count[name] for count in counts)
    least = (_BYTES if name == "bytes of memory" else _GROWS) * half
    return (
        f"{name} went from {first:,.0f} over {middle:,.0f} to {last:,.0f}"
        if min(middle - first, last - middle) >= least
        else ""
    )


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of our own for all temporary files, so that those of others do not count."""
    before: tuple[Any, Any] = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp(prefix="soak-")
    tempfile.tempdir, os.environ["TMPDIR"] = folder, folder
    try:
        yield Path(folder)
    finally:
        tempfile.tempdir = before[0]
        if before[1] is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = before[1]
        shutil.rmtree(folder, ignore_errors=True)


PROBE = Probe(
    name="soak",
    axis="stability",
    flaw="leaks resources",
    severity="medium",
    about="episodes leave no descriptors, processes, threads, temporary files or memory behind",
    run=run,
    seconds=5.0,
)
