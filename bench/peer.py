"""Peers are processes: each warms up alone, then they take turns, so that a busy machine disturbs all of them alike.

A line of the protocol begins with `MARK`, since libraries print others. A peer says `{"cold_s": ...}` once it is warm;
then it answers each line of JSON on its stdin with one on its stdout, until stdin ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWS_BFLOAT16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()  # whether the processor multiplies it
ROOT = Path(__file__).resolve().parent.parent
MARK = "@@bench "


@dataclass
class Peer:
    """A process, as the benchmark sees it. log: what it writes to stderr. cold_s: seconds until it was warm."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    cold_s: float = 0.0

    def ask(self, **question: Any) -> dict[str, Any]:
        """Let it work while all others wait; its answer. Raises `SystemExit` with its last words if it died."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of the protocol."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise SystemExit(f"bench: {self.name} ended early:\n{self.log.read_text(encoding='utf-8')[-3000:]}")

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(name: str, command: Sequence[str], *, threads: int, scratch: Path) -> Peer:
    """Start a peer and wait until it is warm. Its caches begin empty: what it compiles is part of its cold start."""
    print(f"{name} starts and warms up", file=sys.stderr, flush=True)
    own = scratch / name.replace(" ", "-").replace(",", "")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "XDG_CACHE_HOME": str(own / "cache")}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"), "HF_HUB_OFFLINE": "1"}
    log = own.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    peer = Peer(name, process, log)
    peer.cold_s = peer.answer()["cold_s"]
    return peer


def say(answer: Mapping[str, Any]) -> None:
    """In the peer: a line of the protocol."""
    print(MARK + json.dumps(answer), flush=True)


def questions() -> Iterator[dict[str, Any]]:
    """In the peer: what it is asked, until there is nothing more."""
    for line in sys.stdin:
        yield json.loads(line)
