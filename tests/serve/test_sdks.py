"""The official SDKs against a server that runs: streaming or not, tools or not; both ways give the same answer."""

import json
import subprocess

import numpy as np
import pytest
from serve_shapes import ANTHROPIC_TOOLS, CHAT_TOOLS, MODEL, PROMPT, RESPONSES_TOOLS, RESULT, chat

from askesis.rollout import TraceStore


def conversation(server, session, *, thinking):
    """The one conversation of a session that has ended, as a trace."""
    server.http().delete(f"/s/{session}").raise_for_status()
    with TraceStore(server.folder / "traces.db", readonly=True) as store:
        (trace,) = store.traces(group=session)
    assert [node.message.role for node in trace.nodes][:4] == ["user", "assistant", "tool", "assistant"]
    assert len(trace.branches()) == 1 and trace.turns == 2
    assert bool(trace.nodes[1].thinking_tokens) == thinking
    return trace


def as_rendered(server, trace):
    """The first context is the template's, and the second extends the first."""
    renderer = server.gateway.served.renderer
    tokens = np.concatenate([node.token_ids for node in trace.nodes])
    text = renderer.decode(tokens)
    assert text.count("# Tools") == 1 and RESULT in text and text.count(PROMPT) == 1
    return text


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_chat_completions_with_tools(server, stream, thinking):
    session = f"chat-{stream}-{thinking}"
    client = server.openai(session)
    messages = [{"role": "user", "content": PROMPT}]
    for turn in range(2):
        ask = chat(messages=messages, tools=CHAT_TOOLS, temperature=0, extra_body={"enable_thinking": thinking})
        if stream:
            with client.chat.completions.stream(**ask, stream_options={"include_usage": True}) as events:
                for _ in events:
                    pass
            said = events.get_final_completion()
        else:
            said = client.chat.completions.create(**ask)
        choice = said.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert said.usage.completion_tokens_details.reasoning_tokens < said.usage.completion_tokens
        assert bool(said.usage.completion_tokens_details.reasoning_tokens) == bool(
            getattr(choice.message, "reasoning_content", None)
        )
        (call,) = choice.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("run_tests", {}) or turn
        messages += [
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": RESULT},
        ]
    trace = conversation(server, session, thinking=thinking)
    assert trace.nodes[1].message.tool_calls[0].name == "run_tests"
    as_rendered(server, trace)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_responses_with_tools(server, stream, thinking):
    session = f"responses-{stream}-{thinking}"
    client = server.openai(session)
    items = [{"role": "user", "content": PROMPT}]
    for _ in range(2):
        ask = {"model": MODEL, "input": items, "tools": RESPONSES_TOOLS, "temperature": 0, "max_output_tokens": 120}
        ask["reasoning"] = {"effort": "none"} if not thinking else {"summary": "auto"}
        if stream:
            with client.responses.stream(**ask) as events:
                kinds = [event.type for event in events]
            assert kinds[:2] == ["response.created", "response.in_progress"]
            assert kinds[-1] == "response.completed"
            said = events.get_final_response()
        else:
            said = client.responses.create(**ask)
        assert said.status == "completed"
        assert bool(said.usage.output_tokens_details.reasoning_tokens) == (said.output[0].type == "reasoning")
        call = said.output[-1]
        assert call.type == "function_call"
        items += [item.model_dump(exclude_none=True) for item in said.output]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": RESULT})
    as_rendered(server, conversation(server, session, thinking=thinking))


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_messages_with_tools(server, stream, thinking):
    session = f"messages-{stream}-{thinking}"
    client = server.anthropic(session)
    messages = [{"role": "user", "content": PROMPT}]
    for _ in range(2):
        ask = {"model": MODEL, "messages": messages, "tools": ANTHROPIC_TOOLS, "max_tokens": 120}
        ask["extra_body"] = {"temperature": 0}
        if thinking:
            ask["thinking"] = {"type": "enabled", "budget_tokens": 60}
        if stream:
            with client.messages.stream(**ask) as events:
                kinds = [event.type for event in events]
            assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
            said = events.get_final_message()
        else:
            said = client.messages.create(**ask)
        assert said.stop_reason == "tool_use"
        assert [block.type for block in said.content] == ["thinking", "tool_use"][not thinking :]
        assert bool(said.usage.output_tokens_details.thinking_tokens) == thinking
        content = [block.model_dump(exclude_none=True) for block in said.content]
        result = {"type": "tool_result", "tool_use_id": said.content[-1].id, "content": RESULT}
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    as_rendered(server, conversation(server, session, thinking=thinking))


def test_all_protocols_say_the_same_streaming_or_not(server):
    """One prompt, one seed, one sampling: seven ways to ask."""
    openai, anthropic = server.openai("same"), server.anthropic("same")
    how = {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "min_p": 0.0, "seed": 11}
    sampled = {name: how[name] for name in ("top_k", "min_p")}
    turn = [{"role": "user", "content": PROMPT}]
    ask = chat(tools=CHAT_TOOLS, temperature=1.0, top_p=0.9, seed=11, max_tokens=90, extra_body=sampled)
    whole = openai.chat.completions.create(**ask).choices[0].message
    text, thought, calls = "", "", []
    for chunk in openai.chat.completions.create(**ask, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        thought += getattr(delta, "reasoning_content", None) or ""
        calls += [(call.function.name, call.function.arguments) for call in delta.tool_calls or ()]
    assert (text, thought) == (whole.content or "", getattr(whole, "reasoning_content", ""))
    assert calls == [(call.function.name, call.function.arguments) for call in whole.tool_calls or ()]
    found = []
    body = {"max_output_tokens": 90, "tools": RESPONSES_TOOLS, "model": MODEL, "input": PROMPT}
    found.append(openai.responses.create(**body, temperature=1.0, top_p=0.9, extra_body=sampled | {"seed": 11}))
    with openai.responses.stream(**body, temperature=1.0, top_p=0.9, extra_body=sampled | {"seed": 11}) as events:
        events.until_done()
    found.append(events.get_final_response())
    for response in found:
        items = response.output
        assert "".join(c.text for item in items if item.type == "reasoning" for c in item.content) == thought
        assert response.output_text == text
        assert [(item.name, item.arguments) for item in items if item.type == "function_call"] == calls
    body = {"model": MODEL, "max_tokens": 90, "messages": turn, "tools": ANTHROPIC_TOOLS}
    body |= {"thinking": {"type": "adaptive"}, "extra_body": how}
    with anthropic.messages.stream(**body) as events:
        events.until_done()
    for message in (anthropic.messages.create(**body), events.get_final_message()):
        assert "".join(block.thinking for block in message.content if block.type == "thinking") == thought
        assert "".join(block.text for block in message.content if block.type == "text") == text
        uses = [(block.name, json.dumps(block.input)) for block in message.content if block.type == "tool_use"]
        assert uses == calls


def test_choices_logprobs_and_stop_texts(server):
    client = server.openai("choices")
    said = client.chat.completions.create(**chat(n=3, temperature=1.0, logprobs=True, max_tokens=30))
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    alone = client.chat.completions.create(**chat(temperature=1.0, max_tokens=30)).choices[0].message
    assert said.choices[0].message == alone
    assert len({choice.message.content for choice in said.choices}) > 1 or len({str(c) for c in said.choices}) == 3
    assert sum(len(choice.logprobs.content) for choice in said.choices) == said.usage.completion_tokens
    assert all(entry.logprob <= 0 for choice in said.choices for entry in choice.logprobs.content)
    many = {0: "", 1: "", 2: ""}
    tokens = dict.fromkeys(many, 0)
    for chunk in client.chat.completions.create(
        **chat(n=3, temperature=1.0, logprobs=True, max_tokens=30), stream=True
    ):
        for choice in chunk.choices:
            many[choice.index] += choice.delta.content or ""
            tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
    assert many == {choice.index: choice.message.content or "" for choice in said.choices}
    assert tokens == {choice.index: len(choice.logprobs.content) for choice in said.choices}
    plain = {"temperature": 0, "extra_body": {"enable_thinking": False}}
    full = client.chat.completions.create(**chat(**plain)).choices[0].message.content
    cut = client.chat.completions.create(**chat(**plain, stop=["zzz", full[7:12]]))
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (full[:7], "stop")
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**chat(**plain, stop=full[7:12]), stream=True)
    )
    assert streamed == full[:7]
    message = server.anthropic("choices").messages.create(
        model=MODEL,
        max_tokens=120,
        messages=[{"role": "user", "content": PROMPT}],
        stop_sequences=[full[7:12]],
        extra_body={"temperature": 0},
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", full[7:12])
    assert message.content[0].text == full[:7]


def test_thinking_can_be_said_in_all_its_places(server):
    """Every place counts, and none is ignored: mode and budget show in what is sampled."""
    client = server.openai("places")

    def thought(text=PROMPT, **body):
        ask = chat(messages=[{"role": "user", "content": text}], tools=CHAT_TOOLS, temperature=1.0, seed=5)
        return client.chat.completions.create(**ask, extra_body=body).usage.completion_tokens_details.reasoning_tokens

    assert thought() > 1
    for off in (
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
    ):
        assert thought(**off) == 0
    for bound in ({"thinking_budget": 1}, {"chat_template_kwargs": {"thinking_budget": 1}}):
        assert thought(**bound) == 1
    assert thought(thinking_budget=0) == 0
    assert thought(PROMPT + " /no_think") == 0
    assert thought(PROMPT + " /no_think /think") > 0
    assert thought(PROMPT + " /think", enable_thinking=False) == 0


def test_curl_speaks_all_three_protocols_streaming_or_not(server):
    bodies = {
        "/v1/chat/completions": chat(max_tokens=6),
        "/v1/responses": {"model": MODEL, "input": PROMPT, "max_output_tokens": 6},
        "/v1/messages": {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 6},
    }
    last = {
        "/v1/chat/completions": "[DONE]",
        "/v1/responses": '"type":"response.incomplete"',
        "/v1/messages": '"type":"message_stop"',
    }
    for path, body in bodies.items():
        for stream in (False, True):
            data = json.dumps(body | {"stream": stream})
            command = ["curl", "--silent", "--no-buffer", "--show-error", server.url + path, "--data", data]
            said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            if stream:
                assert last[path] in said.strip().splitlines()[-1]
                assert said.endswith("\n\n")
            else:
                assert json.loads(said)["usage"]


def test_models_and_counting_tokens(server):
    assert [model.id for model in server.openai().models.list()] == ["askesis-tiny", "tiny"]
    assert [model.id for model in server.anthropic().models.list()] == ["askesis-tiny", "tiny"]
    assert server.openai().models.retrieve("tiny").owned_by == "askesis"
    ask = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "tools": ANTHROPIC_TOOLS}
    counted = server.anthropic().messages.count_tokens(**ask)
    said = server.anthropic().messages.create(**ask, max_tokens=1)
    assert (counted.input_tokens, said.stop_reason) == (said.usage.input_tokens, "max_tokens")
