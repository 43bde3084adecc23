"""Many at once, some going away, and the end of the gateway: nothing is lost, nothing is mixed up."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from serve_running import running
from serve_shapes import CHAT_TOOLS, PROMPT, RESULT, chat

from askesis.rollout import TraceStore
from askesis.serve import Settings


async def stream(client, path, body):
    """(text, reasoning, call) of a streamed chat completion."""
    text, thought, call = "", "", None
    async with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                thought += choice["delta"].get("reasoning_content") or ""
                for one in choice["delta"].get("tool_calls", ()):
                    call = (one["function"]["name"], one["function"]["arguments"])
    return text, thought, call


def request(number, turn, history=()):
    messages = [{"role": "user", "content": PROMPT}, *history]
    how = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1000 * turn + number, "max_tokens": 60 + number % 7}
    return chat(messages=messages, tools=CHAT_TOOLS, **how)


async def episode(client, number):
    """Two turns of one session."""
    path = f"/s/n{number}/v1/chat/completions"
    first = await stream(client, path, request(number, 0))
    return first, await stream(client, path, request(number, 1, follow(first)))


def follow(said):
    text, _, call = said
    message = {"role": "assistant", "content": text}
    if call is None:
        return [message, {"role": "user", "content": RESULT}]
    function = {"name": call[0], "arguments": call[1]}
    message["tool_calls"] = [{"id": "x", "type": "function", "function": function}]
    return [message, {"role": "tool", "tool_call_id": "x", "content": RESULT}]


def together(server, count):
    async def main():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
            return await asyncio.gather(*(episode(client, number) for number in range(count)))

    return asyncio.run(main())


def check_many(bundle, folder, count, again):
    """`count` sessions at once, then some of them alone on a fresh gateway: the same to the token."""
    with running(bundle, settings=Settings(record=folder / "together", max_requests=count)) as server:
        said = together(server, count)
    alone = sorted(random.Random(0).sample(range(count), again))
    with running(bundle, settings=Settings(record=folder / "alone"), slots=2) as server:

        async def one_by_one():
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                return [await episode(client, number) for number in alone]

        assert asyncio.run(one_by_one()) == [said[number] for number in alone]
    assert len(set(said)) > count // 2
    with TraceStore(folder / "together" / "traces.db", readonly=True) as store:
        kept = {trace.group: trace for trace in store.traces()}
    with TraceStore(folder / "alone" / "traces.db", readonly=True) as store:
        expected = {trace.group: trace for trace in store.traces()}
    assert set(kept) == {f"n{number}" for number in range(count)}
    for name, trace in expected.items():
        for ours, theirs in zip(kept[name].nodes, trace.nodes, strict=True):
            assert ours.token_ids.tolist() == theirs.token_ids.tolist()
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)
    for trace in kept.values():
        assert trace.turns == 2 and len(trace.branches()) == 1


def test_24_streams_at_once_are_none_lost_and_none_mixed_up(bundle, tmp_path):
    check_many(bundle, tmp_path, 24, 6)


@pytest.mark.full
def test_200_streams_at_once_are_none_lost_and_none_mixed_up(bundle, tmp_path):
    check_many(bundle, tmp_path, 200, 40)


@pytest.mark.full
def test_memory_stays_flat_over_rounds_of_200_streams(bundle, tmp_path):
    settings = Settings(record=tmp_path, max_requests=200, idle_s=0.2)
    with running(bundle, settings=settings) as server:

        def resident():
            while server.gateway._sessions.conversations:
                time.sleep(0.1)
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        sizes = []
        for _ in range(5):
            together(server, 200)
            sizes.append(resident())
    growth = (sizes[-1] - sizes[1]) / 3
    assert growth < 2 * 2**20, [size // 2**20 for size in sizes]
    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        assert sum(trace.turns for trace in store.traces()) == 5 * 200 * 2


def test_a_client_that_goes_away_leaves_what_was_sampled(bundle, tmp_path):
    with running(bundle, settings=Settings(record=tmp_path, pace_s=0)) as server:
        body = chat(max_tokens=900, temperature=1.0, top_k=0, top_p=1.0, stream=True)

        async def go_away():
            real = server.engine._advance

            def slowly():
                time.sleep(0.01)
                real()

            server.engine._advance = slowly

        asyncio.run_coroutine_threadsafe(go_away(), server.loop).result(10)
        with server.http() as http:
            for number in range(4):
                body["messages"] = [{"role": "user", "content": f"{PROMPT} {number}"}]
                with http.stream("POST", f"/s/gone{number}/v1/chat/completions", json=body) as response:
                    next(response.iter_lines())
            end = time.monotonic() + 20
            while server.gateway.in_flight:
                assert time.monotonic() < end
                time.sleep(0.01)
            assert http.get("/health").json()["in_flight"] == 0
        stats = server.engine.stats()
        assert stats.running == 0
    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        traces = list(store.traces())
    assert len(traces) == 4
    assert sum(len(node.token_ids) for trace in traces for node in trace.nodes if node.sampled) == (
        stats.sampled_tokens + stats.forced_tokens
    )


def test_a_gateway_that_is_told_to_stop_drains_then_cuts_off_and_records_all(tmp_path):
    """As a process of its own, by signals: the first lets requests finish, the second does not."""
    arguments = ["serve", "askesis-tiny", "--port", "0", "--record", str(tmp_path), "--drain", "30"]
    command = [sys.executable, "-c", "import sys; from askesis.cli import main; main(sys.argv[1:])", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stderr.readline().split(" at ")[1].split("/v1")[0]
        with httpx.Client(base_url=url, timeout=30) as http:
            body = chat(max_tokens=1000, temperature=1.5, top_k=0, top_p=1.0, n=16, stream=True)
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                for _ in range(4):
                    next(lines)
                process.send_signal(signal.SIGINT)
                try:
                    rest = list(lines)
                except httpx.HTTPError:
                    rest = []
        assert process.wait(30) == 0
        assert not any("internal" in line for line in rest)
        assert "nothing that was sampled is lost" in process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()
    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        (trace,) = store.traces()
    assert trace.turns == 16
