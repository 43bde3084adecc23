"""Time to first token and tokens a second of `askesis serve` beside vLLM's own server for CPUs, on askesis-tiny.

Chat Completions, streamed, at 1, 16 and 64 sessions at once. A session asks several questions, one after the other,
each of some sixty tokens, and gets up to 128 tokens, sampled at temperature 1, untruncated, without seeds (with one,
vLLM's engine for CPUs dies of `CPU Generator does not use offset`). Each server is a process (vLLM's: several), all in
one run, taking turns after a round of warming up, with one load generator in the benchmark's own process; the figures
are medians. Tokens are those of the servers' own usage. Ours records every token of every request, log-probabilities
included; the peers record nothing, log nothing, parse neither thinking nor calls. The first token is there with the
first event of a stream, which both servers send with it and not before; what is shown of it may be held back by ours,
which parses what might be a thought or a call. The ratio is the least of the three ratios of tokens a second to the
best peer's.

Options: `repeats` (5), `threads` (all cores), `peers` (separated by semicolons; default all).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peer import ROOT
from bench.result import Options, Result

VLLM = ROOT / ".venv-vllm"
CHECKPOINT = ROOT / "askesis" / "recipes" / "tiny"
OURS = "askesis"
GOAL = 1.5
LOADS = {1: 12, 16: 4, 64: 3}  # sessions at once, and questions of each
NEW_TOKENS = 128
WORDS = "the small bird saw two green apples and went home before rain fell on every quiet street of that old town"
_USAGE = re.compile(rb'"completion_tokens":(\d+)')
_START_S = 900  # a peer compiles when it starts for the first time

PEERS = {  # a chunk for every token, as it comes, and, sparing it work, for every eight
    "vllm float32": ("float32", ()),
    "vllm bfloat16": ("bfloat16", ()),
    "vllm bfloat16, 8 a chunk": ("bfloat16", ("--stream-interval", "8")),
}


@dataclass
class Server:
    """A server that runs, and what was measured of it: by sessions, tokens a second and times to first token."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    rates: dict[int, list[float]]
    firsts: dict[int, list[float]]


@dataclass
class Answer:
    """first_s: until its first token. tokens: of the whole answer."""

    first_s: float
    tokens: int


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    threads = options.number("threads", len(os.sched_getaffinity(0)))
    repeats = options.number("repeats", 5)
    asked = [name.strip() for name in options.values.get("peers", ";".join(PEERS)).split(";")]
    if not (VLLM / ".ready").exists():
        raise SystemExit("bench serve: there is no vLLM to compare with; `make venv-vllm` makes its environment")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_server(name, threads, Path(scratch))) for name in (OURS, *asked)]
        _measure(servers, repeats)
    found = {server.name: _figures(server) for server in servers}
    spread = {
        server.name: {
            f"tokens_per_s_{sessions}": [round(min(rates), 1), round(max(rates), 1)]
            for sessions, rates in server.rates.items()
        }
        for server in servers
    }
    ours, peers = found[OURS], {name: figures for name, figures in found.items() if name != OURS}
    notes = [f"{threads} threads each, {repeats} interleaved repeats after one for warming up"]
    ratios = []
    for sessions in LOADS:
        figure = f"tokens_per_s_{sessions}"
        best = max(peers, key=lambda name: peers[name][figure])
        ratios.append(ours[figure] / peers[best][figure])
        notes.append(f"{sessions} sessions: {ratios[-1]:.2f} x {best}")
    return Result(
        name="serve",
        command="python -m bench serve",
        goal=f"at least {GOAL:g} x the best peer's tokens a second at each of {', '.join(map(str, LOADS))} sessions",
        ours=ours,
        peers=peers,
        spread=spread,
        ratio=round(min(ratios), 3),
        met=min(ratios) >= GOAL,
        notes=notes,
    )


def _figures(server: Server) -> dict[str, float]:
    rates = {f"tokens_per_s_{n}": round(statistics.median(rates), 1) for n, rates in server.rates.items()}
    firsts = {f"first_token_ms_{n}": round(1000 * statistics.median(firsts), 2) for n, firsts in server.firsts.items()}
    return rates | firsts


def _measure(servers: list[Server], repeats: int) -> None:
    for repeat in range(-1, repeats):  # the first one warms up
        for sessions, questions in LOADS.items():
            for server in servers:
                begun = time.perf_counter()
                answers = asyncio.run(_load(server.port, sessions, questions, repeat))
                seconds = time.perf_counter() - begun
                if repeat >= 0:
                    rate = sum(answer.tokens for answer in answers) / seconds
                    server.rates.setdefault(sessions, []).append(rate)
                    server.firsts.setdefault(sessions, []).extend(answer.first_s for answer in answers)
        print(f"round {repeat + 1} of {repeats} done", file=sys.stderr, flush=True)


# -- servers -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server(name: str, threads: int, scratch: Path) -> Iterator[Server]:
    """Start one, wait until it answers, and end it with all that it started."""
    port = _free_port()
    command = _ours(port, scratch) if name == OURS else _vllm(name, port)
    own = scratch / name.replace(" ", "-").replace(",", "")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0", "VLLM_NO_USAGE_STATS": "1"}
    print(f"{name} starts", file=sys.stderr, flush=True)
    log = own.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait(name, process, port, log)
        yield Server(name, port, process, {}, {})
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server with the processes that it started: its session is its own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ours(port: int, scratch: Path) -> list[str]:
    serve = ["serve", str(CHECKPOINT), "--port", str(port), "--model-name", "tiny", "--context-length", "1024"]
    start = "import sys; from askesis.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", start, *serve, "--record", str(scratch / "record")]


def _vllm(name: str, port: int) -> list[str]:
    dtype, more = PEERS[name]
    command = [str(VLLM / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]  # `vllm` wants its own wheel
    command += ["--model", str(CHECKPOINT), "--port", str(port), "--host", "127.0.0.1"]
    command += ["--served-model-name", "tiny", "--dtype", dtype, "--max-model-len", "1024", "--max-num-seqs", "64"]
    command += [
        "--generation-config",
        "vllm",
        "--enable-prefix-caching",
        "--disable-log-stats",
    ]
    return [*command, "--uvicorn-log-level", "error", "--disable-uvicorn-access-log", *more]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"bench serve: {name} did not come up:\n{log.read_text(encoding='utf-8')[-3000:]}")


# -- load ----------------------------------------------------------------------------------------------------------


async def _load(port: int, sessions: int, questions: int, repeat: int) -> list[Answer]:
    """All sessions at once, each a connection of its own that is kept."""
    done = await asyncio.gather(*(_session(port, number, questions, repeat) for number in range(sessions)))
    return [answer for answers in done for answer in answers]


async def _session(port: int, number: int, questions: int, repeat: int) -> list[Answer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        return [await _ask(reader, writer, (repeat * 1000 + number) * 100 + turn) for turn in range(questions)]
    finally:
        writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seed: int) -> Answer:
    """One streamed answer. What comes is only looked at for the first event and the usage: a client takes CPU too."""
    body = json.dumps(_question(seed)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n"
    begun = time.perf_counter()
    writer.write(f"{head}content-type: application/json\r\n\r\n".encode() + body)
    first, last = 0.0, b""
    while True:
        data = await reader.read(2**16)
        if not data:
            raise SystemExit(f"bench serve: the server closed the connection: {last[-500:]!r}")
        last = (last + data)[-8192:]
        if not first and b"data: {" in last:
            first = time.perf_counter() - begun
        if last.endswith(b"0\r\n\r\n") and b"data: [DONE]" in last:
            break
    usage = _USAGE.findall(last)
    if not usage:
        raise SystemExit(f"bench serve: an answer without usage: {last[-500:]!r}")
    return Answer(first or time.perf_counter() - begun, int(usage[-1]))


def _question(seed: int) -> dict[str, Any]:
    drawn = random.Random(seed)
    words = WORDS.split()
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": " ".join(drawn.choice(words) for _ in range(20))}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": NEW_TOKENS,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def row(kept: Mapping[str, Any]) -> str:
    """The page's line."""
    ours, peers = kept["ours"], kept["peers"]
    parts = []
    for sessions in LOADS:
        rate, first = f"tokens_per_s_{sessions}", f"first_token_ms_{sessions}"
        best = max(peers, key=lambda name: peers[name][rate])
        parts.append(
            f"{sessions}: {ours[rate]:,.0f} tokens a second, {ours[rate] / peers[best][rate]:.1f} x {best}; "
            f"first token after {ours[first]:.0f} ms, there {peers[best][first]:.0f} ms"
        )
    goal = "met" if kept["met"] else "not met"
    return (
        f"- **Serving** (sessions at once: {'. '.join(parts)}; askesis-tiny, {kept['machine']['cores']} cores). "
        f"The least ratio is {kept['ratio']:.2f}; goal {GOAL:g}: {goal}. `{kept['command']}`"
    )
