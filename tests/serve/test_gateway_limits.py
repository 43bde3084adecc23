"""Who is let in, how much of it they get, and how each wire format says no."""

import asyncio
import threading
import time

import httpx
import pytest
from serve_running import running
from serve_shapes import chat

from askesis.serve import Key, Settings, read_keys
from askesis.serve.keys import Gate
from askesis.types import ConfigError

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def body_of(path):
    if path == RESPONSES:
        return {"model": "tiny", "input": "hi", "max_output_tokens": 3}
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def said(response, path):
    """(type, message) of an error, after its shape was checked."""
    value = response.json()
    if path == MESSAGES:
        assert set(value) == {"type", "error"} and set(value["error"]) == {"type", "message"}
        assert value["type"] == "error"
    else:
        assert set(value) == {"error"} and set(value["error"]) == {"message", "type", "param", "code"}
    return value["error"]["type"], value["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_keys_bodies_models_and_paths(bundle, path):
    keys = read_keys("# who\nann s3cret\nbob other\n", "keys")
    with running(bundle, keys=keys, settings=Settings(max_body=2000)) as server, server.http() as http:
        for headers, words in (({}, "no API key"), ({"authorization": "Bearer s3cre"}, "not known")):
            refused = http.post(path, json=body_of(path), headers=headers)
            kind, message = said(refused, path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert words in message and kind == (
                "authentication_error" if path == MESSAGES else "invalid_request_error"
            )
        assert http.get("/v1/models").status_code == 401
        assert http.get("/health").status_code == 200
        for headers in ({"authorization": "bearer s3cret"}, {"x-api-key": "other"}):
            http.headers = headers
            assert http.post(path, json=body_of(path)).status_code == 200
        large = http.post(path, json=body_of(path) | {"metadata": {"x": "y" * 3000}})
        assert large.status_code == 413 and "at most 2000" in said(large, path)[1]
        chunked = http.post(path, content=iter([b"x" * 1500, b"x" * 1500]))
        assert chunked.status_code == 413
        missing = http.post(path, json=body_of(path) | {"model": "gpt-9"})
        assert missing.status_code == 404 and "'gpt-9'" in said(missing, path)[1]
        assert http.post(f"/s/../x{path}", json=body_of(path)).status_code == 404
        assert http.post(f"/s/a%20b{path}", json=body_of(path)).status_code == 400
        assert http.get(path).status_code == 405
        for wrong in (b"", b"{", b"[]", b'{"model": "tiny"}', b"\xff\xfe", b'{"model": "\\ud800"}'):
            refused = http.post(path, content=wrong)
            assert refused.status_code == 400 and said(refused, path)[1]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_one_too_many_of_a_key_and_of_all(bundle, path):
    keys = [Key.of("ann", "a"), Key.of("bob", "b")]
    settings = Settings(key_requests=1, max_requests=2)
    with running(bundle, keys=keys, settings=settings) as server:
        long = body_of(path) | {"max_tokens": 900, "stream": True, "seed": 1, "stop": ["none"]}
        long = {key: value for key, value in long.items() if path == CHAT or key != "stop"}
        # slowed down by the client: nothing reads, so they stay in flight
        with server.http() as http:
            hold = threading.Event()

            async def busy():
                loop = asyncio.get_running_loop()
                real = server.engine.generate

                async def slow(*args, **options):
                    await loop.run_in_executor(None, hold.wait, 30)
                    return await real(*args, **options)

                server.engine.generate = slow

            asyncio.run_coroutine_threadsafe(busy(), server.loop).result(10)
            answers = []

            def ask(key):
                with httpx.Client(base_url=server.url, timeout=60, headers={"x-api-key": key}) as client:
                    answers.append(client.post(path, json=long).status_code)

            first = threading.Thread(target=ask, args=("a",))
            first.start()
            until(lambda: server.gateway.in_flight == 1)
            refused = http.post(path, json=body_of(path), headers={"x-api-key": "a"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert said(refused, path)[0] == "rate_limit_error"
            second = threading.Thread(target=ask, args=("b",))
            second.start()
            until(lambda: server.gateway.in_flight == 2)
            refused = http.post(path, json=body_of(path), headers={"x-api-key": "b"})
            assert refused.status_code == 503
            assert said(refused, path)[0] == ("overloaded_error" if path == MESSAGES else "server_error")
            hold.set()
            first.join(30)
            second.join(30)
            assert answers == [200, 200]
            assert http.post(path, json=body_of(path), headers={"x-api-key": "a"}).status_code == 200


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_request_that_takes_too_long_gets_an_error_in_its_stream_or_instead_of_it(bundle, tmp_path):
    settings = Settings(request_s=0.4, record=tmp_path)
    with running(bundle, settings=settings) as server, server.http() as http:

        async def slow_down():
            real = server.engine.generate

            async def slow(tokens, sampling, *, session=None, on_tokens=None):
                async def never():
                    await real(tokens, sampling, session=session, on_tokens=on_tokens)
                    await asyncio.sleep(60)

                return await never()

            server.engine.generate = slow

        asyncio.run_coroutine_threadsafe(slow_down(), server.loop).result(10)
        late = http.post(CHAT, json=chat())
        assert late.status_code == 504 and said(late, CHAT)[0] == "timeout_error"
        late = http.post(CHAT, json=chat(stream=True))
        assert late.status_code == 200 and "no whole answer" in late.text and late.text.endswith("data: [DONE]\n\n")
        message = body_of(MESSAGES) | {"stream": True}
        assert "event: error\n" in http.post(MESSAGES, json=message).text
    from askesis.rollout import TraceStore

    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        assert {node.finish_reason for trace in store.traces() for node in trace.nodes if node.sampled} == {"cancelled"}


def test_tokens_a_minute_come_back():
    now = [0.0]
    gate = Gate([Key.of("ann", "a")], requests=None, tokens=600, clock=lambda: now[0])
    gate.enter("ann")
    gate.leave("ann", 700)
    from askesis.serve.faults import Fault

    with pytest.raises(Fault, match="600 tokens a minute") as refused:
        gate.enter("ann")
    assert refused.value.status == 429 and refused.value.retry_after == pytest.approx(10.1)
    now[0] = 10.2
    gate.enter("ann")


def test_keys_that_cannot_be_read_say_where():
    for text, words in (("", "has no keys"), ("a b c", "line 1: 3 words"), ("a b\na c", "twice"), (".. x", "letters")):
        with pytest.raises(ConfigError, match=words):
            read_keys(text, "keys")
