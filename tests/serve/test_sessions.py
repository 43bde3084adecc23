"""One key or one name in the URL is one session; a host that somebody attached answers in its place."""

import json
from pathlib import Path

import pytest
from serve_running import running
from serve_shapes import CHAT_TOOLS, PROMPT, chat

from askesis.chat.effort import EffortPoint, EffortTable
from askesis.rollout import Recorder, TraceStore
from askesis.serve import Gateway, Key, Served, Settings
from askesis.types import ConfigError, StoreError

PATH = "/v1/chat/completions"


def ask(http, messages, *, where=PATH, key="none", **changes):
    response = http.post(where, json=chat(messages=messages, max_tokens=8, **changes), headers={"x-api-key": key})
    assert response.status_code == 200, response.text
    return response.headers["x-askesis-history"], response.headers["x-askesis-trace"], response.json()


def test_histories_are_told_apart_by_key_and_by_name(bundle, tmp_path):
    keys = [Key.of("ann", "a"), Key.of("bob", "b")]
    with running(bundle, keys=keys, settings=Settings(record=tmp_path)) as server, server.http() as http:
        first = [{"role": "user", "content": PROMPT}]
        history, trace, body = ask(http, first, key="a")
        assert history == "new"
        said = body["choices"][0]["message"]
        second = [*first, {"role": "assistant", "content": said["content"]}, {"role": "user", "content": "on"}]
        assert ask(http, second, key="a")[:2] == ("extended", trace)
        edited = [*first, {"role": "assistant", "content": "I never said so."}, {"role": "user", "content": "on"}]
        assert ask(http, edited, key="a")[:2] == ("branched", trace)
        assert ask(http, second, key="b")[0] == "new"  # bob cannot extend what ann was told
        assert ask(http, second, key="a", where=f"/s/x{PATH}")[0] == "new"
        history, other, _ = ask(http, second, key="a", tools=CHAT_TOOLS)
        assert (history, other == trace) == ("new", False)
        assert http.delete("/s/x", headers={"x-api-key": "a"}).json() == {"session": "x", "traces": 1}
        assert http.delete("/s/x", headers={"x-api-key": "b"}).json() == {"session": "x", "traces": 0}
        metrics = http.get("/metrics").text
        assert 'askesis_turns_total{history="branched"} 1.0' in metrics
        assert 'askesis_requests_total{path="/v1/chat/completions",status="200"} 6.0' in metrics
        assert "askesis_conversations 3.0" in metrics
    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        by_session = {}
        for trace in store.traces(label="serve"):
            by_session.setdefault(trace.group, []).append(trace)
    assert {name: len(traces) for name, traces in by_session.items()} == {"ann": 2, "bob": 1, "ann/x": 1}
    assert sorted(len(trace.branches()) for trace in by_session["ann"]) == [1, 2]
    assert any(trace.task.data.get("tools") for trace in by_session["ann"])


def test_a_host_that_is_attached_answers_and_says_when_it_is_over(bundle):
    with running(bundle, keys=[Key.of("ann", "a")], settings=Settings()) as server, server.http() as http:
        recorder = Recorder("ours", engine=server.engine, renderer=bundle.renderer, clock=server.loop.time)
        server.call(lambda: server.gateway.attach("episode-1", recorder))
        with pytest.raises(ConfigError, match="has a host already"):
            server.call(lambda: server.gateway.attach("episode-1", recorder))
        where = f"/s/episode-1{PATH}"
        body = chat(model="whatever the program thinks", max_tokens=8)
        assert http.post(where, json=body).status_code == 200  # whoever knows the name: no key, any model
        assert len(server.call(recorder.seal)) == 1
        server.call(recorder.close)
        over = http.post(where, json=body)
        assert over.status_code == 409 and over.json()["error"]["code"] == "session_closed"
        assert http.delete("/s/episode-1").status_code == 409
        server.call(lambda: server.gateway.detach("episode-1"))
        assert http.post(where, json=body).status_code == 401


def test_effort_is_what_was_measured_of_the_checkpoint(bundle):
    def point(budget, tokens, success):
        return EffortPoint(
            enabled=True, budget=budget, thinking_tokens=tokens, success=success, interval=(0, 1), episodes=9
        )

    table = EffortTable(
        env="repair",
        agent="solo@1",
        temperature=1.0,
        points=[point(0, 0.0, 0.3), point(4, 4.0, 0.5), point(8, 8.0, 0.7)],
    )
    served = Served(renderer=bundle.renderer, names=("tiny",), effort=table)
    for effort, budget in (("minimal", 0), ("low", 2), ("medium", 4), ("max", 8), (0.75, 6)):
        assert served.mode([], enabled=None, effort=effort).budget == budget
    assert not served.mode([], enabled=None, effort="none").enabled


def test_conversations_that_nobody_goes_on_with_reach_the_store_while_it_runs(bundle, tmp_path):
    with running(bundle, settings=Settings(record=tmp_path, idle_s=0.2)) as server, server.http() as http:
        _, trace, _ = ask(http, [{"role": "user", "content": PROMPT}])
        for _ in range(400):
            if server.gateway._sessions.kept:
                break
            http.get("/health")
        with TraceStore(tmp_path / "traces.db", readonly=True) as store:
            assert store.get(trace).outcome.detail == "idle"
        with pytest.raises(Exception, match="has a writer already"):
            Gateway(server.engine, server.gateway.served, settings=Settings(record=tmp_path))


def test_the_description_names_every_path_and_every_field(server):
    with server.http() as http:
        described = http.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    text = json.dumps(described)
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"):
        ref = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = described["components"]["schemas"][ref.rsplit("/", 1)[1]]
        assert schema["additionalProperties"] is False and "model" in schema["required"]
    for ref in set(text.split('"$ref": "')[1:]):
        assert ref.split('"')[0].removeprefix("#/components/schemas/") in described["components"]["schemas"]


def test_the_page_runs_as_it_stands(capsys):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    block = page.split("## In a program")[1].split("```python\n")[1].split("```")[0]
    exec(compile(block, "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_what_the_store_does_not_take_waits_until_it_does(bundle, tmp_path, monkeypatch):
    def full(*_, **__):
        raise StoreError("no space left on the device")

    with running(bundle, settings=Settings(record=tmp_path)) as server, server.http() as http:
        with monkeypatch.context() as disk:
            disk.setattr(TraceStore, "add", full)
            _, first, _ = ask(http, [{"role": "user", "content": PROMPT}], where=f"/s/a{PATH}")
            refused = http.delete("/s/a")
            assert refused.status_code == 500
            assert "no space left" in refused.json()["error"]["message"]
        _, second, _ = ask(http, [{"role": "user", "content": PROMPT}], where=f"/s/b{PATH}")
    with TraceStore(tmp_path / "traces.db", readonly=True) as kept:
        assert {trace.id for trace in kept.traces(label="serve")} == {first, second}


def test_a_conversation_that_is_a_trace_already_goes_on_in_its_own_tokens(bundle, tmp_path):
    question = [{"role": "user", "content": PROMPT}]

    def gone_on(http, messages, body):
        answer = {"role": "assistant", "content": body["choices"][0]["message"]["content"]}
        return [*messages, answer, {"role": "user", "content": "on"}]

    with running(bundle, settings=Settings(record=tmp_path)) as server, server.http() as http:
        _, first, body = ask(http, question, where=f"/s/x{PATH}")
        second = gone_on(http, question, body)
        http.delete("/s/x")
        history, _, _ = ask(http, second, where=f"/s/y{PATH}")
        assert history == "new"  # another session's
        history, middle, body = ask(http, second, where=f"/s/x{PATH}")
        assert history == "extended"
    third = gone_on(None, second, body)
    with running(bundle, settings=Settings(record=tmp_path)) as server, server.http() as http:  # also after a restart
        history, last, _ = ask(http, third, where=f"/s/x{PATH}")
        assert history == "extended"
    with TraceStore(tmp_path / "traces.db", readonly=True) as store:
        a, b, c = (store.get(id) for id in (first, middle, last))
    assert len({first, middle, last}) == 3
    assert b.outcome.detail.endswith(f"continues {first}") and c.outcome.detail.endswith(f"continues {middle}")
    for earlier, later in ((a, b), (b, c)):
        (tokens, mask, _, _), (longer, new, _, _) = earlier.sequences()[0], later.sequences()[0]
        assert (longer[: len(tokens)] == tokens).all()
        assert mask.any() and new.any() and not new[: len(tokens)].any()  # loss once, where it was first kept
