"""The process that asks scorers which evaluate an answer: each answer in a child of its own, with limits.

An answer that passes its grammar is no code, but what is made of it may still take for ever, or all memory. It reads
requests, a JSON object a line, and answers each with one; a child that its limits end is an answer that is not right.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CPU_S = 5  # what an honest answer needs is far below 1
WALL_S = 100.0
MEMORY = 2**30  # bytes beyond what the library takes
BUSY_S = 2.0  # of CPU: a child that got less until WALL_S met a busy machine, and says nothing of the answer
_LOOK_S = 1.0


def packed(dataset: Any, entry: Mapping[str, Any], said: str, right: str | None) -> dict[str, Any]:
    """The request for what `dataset` gives for `said`; `right` is tried where its scorer fails."""
    asked = base64.b64encode(pickle.dumps((dataset, dict(entry)))).decode()
    return {"op": "score", "asked": asked, "said": said, "right": right}


def _scored(asked: Mapping[str, Any]) -> dict[str, Any]:
    dataset, entry = pickle.loads(base64.b64decode(asked["asked"]))
    try:
        return {"share": float(dataset.score_answer(asked["said"], entry))}
    except Exception as error:
        out: dict[str, Any] = {"failed": type(error).__name__}
    if asked["right"] is not None:
        try:
            out["of_right"] = float(dataset.score_answer(asked["right"], entry))
        except Exception as error:
            out["fails_on_right"] = repr(error)
    return out


def _in_child(asked: Mapping[str, Any], answers: int) -> None:
    """Never returns."""
    try:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(answers, json.dumps(_scored(asked)).encode())
        os._exit(0)
    except MemoryError:
        os._exit(9)
    finally:
        os._exit(1)


def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What came of a request: `share`, or `failed`, or `ended` by its limits, or `busy`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(asked, writing)
    os.close(writing)
    end, said, in_time = time.monotonic() + WALL_S, b"", True
    poll = select.poll()
    poll.register(reading, select.POLLIN | select.POLLHUP)
    while in_time := bool(poll.poll(max(0.0, 1000 * (end - time.monotonic())))):
        piece = os.read(reading, 2**16)
        said += piece
        if not piece:
            break
    if not in_time:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status, used = os.wait4(child, 0)
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(said)
        return found
    cpu = used.ru_utime + used.ru_stime
    if not in_time and cpu < BUSY_S:
        return {"busy": f"{cpu:.1f} s of CPU within {WALL_S:g} s"}
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        return {"busy": "its process failed"}
    return {"ended": f"{cpu:.1f} s of CPU, exit code {code}"}


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is our starter's business
    warnings.simplefilter("ignore")
    import reasoning_gym  # noqa: F401 - so that a child need not

    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        try:
            told = {"ok": True} | answer(json.loads(line))
        except Exception as error:
            told = {"ok": False, "unfit": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def _watch(parent: int) -> None:
    """End with whoever started this process."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)
