"""Whatever a client sends, it gets an answer or a 4xx with a reason, never a 500."""

import copy
import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_shapes import ANTHROPIC_TOOLS, CHAT_TOOLS, RESPONSES_TOOLS

from askesis.serve.chat_completions import ChatRequest
from askesis.serve.messages import MessagesRequest
from askesis.serve.responses import ResponsesRequest

CALL = {"name": "view", "arguments": '{"line": 1}'}
CHAT = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "so",
            "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
        },
        {"role": "tool", "content": "1 x", "tool_call_id": "c1"},
    ],
    "tools": [{"type": "function", "function": dict(CHAT_TOOLS[2]["function"], strict=True)}],
    "tool_choice": "auto",
    "max_tokens": 3,
    "max_completion_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 1,
    "n": 2,
    "stop": ["x", "yy"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 0,
    "thinking_budget": 2,
    "enable_thinking": True,
    "chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 2},
    "response_format": {"type": "text"},
    "logit_bias": {},
    "frequency_penalty": 0,
    "parallel_tool_calls": True,
    "user": "u",
    "metadata": {"a": "b"},
}
RESPONSES = {
    "model": "tiny",
    "instructions": "S",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
        {"type": "function_call", "call_id": "c1", **CALL},
        {"type": "function_call_output", "call_id": "c1", "output": "1 x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"role": "developer", "content": "and"},
    ],
    "tools": [RESPONSES_TOOLS[2]],
    "tool_choice": "auto",
    "max_output_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 1,
    "reasoning": {"summary": "auto"},
    "thinking_budget": 2,
    "text": {"format": {"type": "text"}},
    "include": ["reasoning.encrypted_content"],
    "truncation": "disabled",
    "store": False,
    "stream": False,
}
MESSAGES = {
    "model": "tiny",
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "so", "signature": "s"},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "c1", "name": "view", "input": {"line": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "1"}],
                    "is_error": True,
                },
                {"type": "text", "text": "and"},
            ],
        },
    ],
    "tools": [dict(ANTHROPIC_TOOLS[2], strict=True)],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 2},
    "max_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "stream": False,
}
COUNT = {name: MESSAGES[name] for name in ("model", "system", "messages", "tools", "tool_choice", "thinking")}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT,
}

HUGE = st.sampled_from([2**31, 2**63, 2**64, -1, -(2**63) - 1, 10**400, 1e308, 5e-324, 1e-7, 0, 0.0, -0.0])
TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "<|im_end|>", "</think>", "<tool_call>", "{", "null", "none", "auto", "\ud800", "\0", "x" * 3000]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), HUGE, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def places(value, path=()):
    """The path of every value in a body."""
    found = [path]
    if isinstance(value, dict):
        items = value.items()
    else:
        items = enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(body, path, how, new):
    """`body` with the value at `path` replaced, removed, doubled, or given a neighbour."""
    if not path:
        return new
    body = copy.deepcopy(body)
    at = body
    for key in path[:-1]:
        at = at[key]
    key = path[-1]
    if how == "replace":
        at[key] = new
    elif how == "remove":
        del at[key]
    elif how == "add" and isinstance(at, dict):
        at[str(new)[:20]] = new
    elif how == "add":
        at.insert(key, new)
    else:
        at[key] = [at[key], at[key]]
    return body


def answered(response):
    """An answer, or a refusal that says why."""
    assert response.status_code in (200, 400, 404), (response.status_code, response.text)
    if response.status_code != 200:
        error = response.json()["error"]
        assert len(error["message"]) > 5, error
    return response.status_code


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", BODIES)
def test_the_bodies_that_are_spoiled_are_in_order(http, path):
    assert http.post(path, json=BODIES[path]).status_code == 200
    assert http.post(path, json=BODIES[path] | ({} if "count" in path else {"stream": True})).status_code == 200


@pytest.mark.parametrize("path", BODIES)
def test_spoiled_in_one_place(http, path):
    body = BODIES[path]

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places(body)), st.sampled_from(["replace", "replace", "remove", "add", "twice"]), JSON)
    def spoil(where, how, new):
        answered(http.post(path, content=json.dumps(changed(body, where, how, new)).encode()))

    spoil()


@pytest.mark.full
@pytest.mark.parametrize("path", BODIES)
def test_spoiled_in_one_place_thousands_of_times(http, path):
    body = BODIES[path]

    @settings(max_examples=3000, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places(body)), st.sampled_from(["replace", "remove", "add", "twice"]), JSON)
    def spoil(where, how, new):
        answered(http.post(path, content=json.dumps(changed(body, where, how, new)).encode()))

    spoil()


@pytest.mark.parametrize(
    ("path", "schema"),
    [("/v1/chat/completions", ChatRequest), ("/v1/responses", ResponsesRequest), ("/v1/messages", MessagesRequest)],
)
def test_every_field_of_every_schema_refuses_what_it_cannot_be(http, path, schema):
    """Each field by name, with values of every kind: at least one is refused, and the refusal names the field."""
    minimal = {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    if path == "/v1/responses":
        minimal = {"model": "tiny", "max_output_tokens": 2, "input": "hi"}
    for name in schema.model_fields:
        refused = []
        for value in ({"?": 1}, -1.5, True):
            response = http.post(path, json=minimal | {name: value})
            if answered(response) == 400:
                refused.append(response.json()["error"]["message"])
        assert refused, name
        assert all(name in message for message in refused), (name, refused)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/chat/completions", {"n": 17}, "at most 16"),
        ("/v1/chat/completions", {"tool_choice": "required", "tools": CHAT_TOOLS}, "cannot be made to call"),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}, "only {'type': 'text'}"),
        ("/v1/chat/completions", {"temperature": 3}, "temperature"),
        ("/v1/chat/completions", {"temprature": 1}, "unknown parameter: temprature"),
        ("/v1/chat/completions", {"reasoning_effort": "high"}, "--save-effort"),
        ("/v1/chat/completions", {"reasoning_effort": "low", "thinking_budget": 9}, "give one of the two"),
        ("/v1/chat/completions", {"enable_thinking": False, "thinking_budget": 9}, "makes no sense"),
        (
            "/v1/chat/completions",
            {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True}},
            "given twice",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 9000}]}, "the model takes 1024"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, "prefix"),
        ("/v1/responses", {"previous_response_id": "resp_1"}, "send the whole conversation"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools.0"),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 9}, "max_tokens": 9}, "greater than"),
        ("/v1/messages", {"thinking": {"type": "enabled"}}, "needs budget_tokens"),
        ("/v1/messages", {"tool_choice": {"type": "any"}}, "cannot be made to call"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(http, path, body, words):
    base = {"model": "tiny", "max_tokens": 12, "messages": [{"role": "user", "content": "hi"}]}
    if path == "/v1/responses":
        base = {"model": "tiny", "input": "hi"}
    response = http.post(path, json=base | body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
    where, _, rest = response.json()["error"]["message"].partition(": ")
    assert not rest.startswith(f"{where}: ")  # the field is named once
