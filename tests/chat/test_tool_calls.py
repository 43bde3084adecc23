"""Completions back to messages: what was said is what is parsed, drafts never run, failures can be read."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.chat import failure_text
from askesis.types import Message, TemplateError, Text, Thinking, ToolCall, assistant, ids

OFF = Thinking(enabled=False)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", '"}}', "\n", "\\"]
TAGGED = st.lists(PLAIN | st.sampled_from(TAGS), max_size=4).map("".join)  # what a call may carry in its strings
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TAGGED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TAGGED, inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(
    st.builds(
        lambda name, arguments: ToolCall(id="", name=name, arguments=arguments),
        st.sampled_from(["run", "f_2", "näme"]),
        st.dictionaries(TAGGED, VALUES, max_size=3),
    ),
    max_size=3,
).map(tuple)


def parsed(renderer, text, thinking=None) -> Message:
    return renderer.parse(ids(renderer.tokenizer.encode(text)), thinking=thinking)


def named(message):
    return [(call.name, call.arguments) for call in message.tool_calls]


@given(text=PLAIN, thought=PLAIN, calls=CALLS, enabled=st.booleans())
def test_what_is_said_is_what_is_parsed(renderer, text, thought, calls, enabled):
    mode = Thinking(enabled=enabled)
    said = assistant(text.strip("\n"), reasoning=thought.strip("\n") if enabled else "", tool_calls=calls)
    tokens = renderer.render_completion(said, thinking=mode)
    assert tokens[-1] == renderer.stop_ids[0]
    back = renderer.parse(tokens, thinking=mode)
    assert (back.text, back.reasoning, named(back)) == (said.text, said.reasoning, named(said))
    assert not back.failures and [call.id for call in back.tool_calls] == [f"call_{i}" for i in range(len(calls))]
    again = renderer.render_completion(back, thinking=mode)
    assert again.tolist() == tokens.tolist()
    assert renderer.parse(again, thinking=mode) == back


def test_a_completion_has_the_block_of_its_mode(renderer):
    call = ToolCall(id="", name="f", arguments={"a": 1})
    body = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    for message, mode, want in [
        (assistant("So:", reasoning="Hm.", tool_calls=(call,)), None, "<think>\nHm.\n</think>\n\nSo:\n" + body),
        (assistant("So:", tool_calls=(call,)), Thinking(), "<think>\n\n</think>\n\nSo:\n" + body),
        (assistant(tool_calls=(call,)), OFF, body),
    ]:
        assert renderer.decode(renderer.render_completion(message, thinking=mode)) == want


def test_what_no_model_can_have_sampled_is_refused(renderer):
    for message, mode in [
        (assistant("x", reasoning="y"), OFF),
        (assistant("x", reasoning="y</think>z"), None),
        (assistant("x<think>y"), None),
        (assistant("x<|im_end|>y"), None),
    ]:
        with pytest.raises(TemplateError, match="completion cannot"):
            renderer.render_completion(message, thinking=mode)


def test_a_call_keeps_its_sampled_text_until_it_is_changed(renderer):
    raw = '{"arguments":{"a":1.0},  "name":"f"}'
    (call,) = parsed(renderer, f"<tool_call>{raw}</tool_call>", OFF).tool_calls
    assert call.raw == raw
    assert raw in renderer.decode(renderer.render_completion(assistant(tool_calls=(call,))))
    changed = replace(call, arguments={"a": 2})
    assert '{"name": "f", "arguments": {"a": 2}}' in renderer.decode(
        renderer.render_completion(assistant(tool_calls=(changed,)))
    )


REAL = '<tool_call>\n{"name": "real", "arguments": {"a": "</think> <think>"}}\n</tool_call>'
DRAFT = '<tool_call>\n{"name": "draft", "arguments": {}}\n</tool_call>'
DRAFTS = {
    "inside": f"<think>\nI could {DRAFT} but no\n</think>\n\nDone.",
    "cut off inside": f"<think>\nI could {DRAFT}",
    "cut off, reasoning only": f"<think>{DRAFT}</tool_call>",
    "the prompt had opened the thinking": f"I could {DRAFT}\n</think>\n\nDone.",
    "a second block": f"<think>a</think>Done.<think>{DRAFT}</think>",
    "a second block, cut off": f"<think>a</think>b<think>{DRAFT}",
    "a second end": f"<think>a</think>{DRAFT}</think>Done.",
    "a block inside an open call": f"<think>a</think><tool_call><think>{DRAFT}</think>",
    "an open call around the end": f"<think><tool_call>{DRAFT}</think>Done.",
}


@pytest.mark.parametrize("case", DRAFTS)
@pytest.mark.parametrize("thinking", [None, Thinking(budget=4)])
def test_a_call_drafted_inside_thinking_never_runs(renderer, case, thinking):
    message = parsed(renderer, DRAFTS[case], thinking)
    assert not message.tool_calls and DRAFT in message.reasoning


def test_a_closing_tag_in_a_string_is_text_only_once_the_thinking_is_over(renderer):
    """Where thinking was never seen to end, the same call may be a draft, and the tag its end."""
    assert named(parsed(renderer, REAL, OFF)) and named(parsed(renderer, "<think>a</think>" + REAL))
    assert not parsed(renderer, REAL).tool_calls and not parsed(renderer, "<think>a" + REAL).tool_calls


PIECES = st.sampled_from(["think", "cut", "call", "text"])


@given(pieces=st.lists(PIECES, max_size=6), opened=st.booleans())
def test_only_calls_outside_thinking_run(renderer, pieces, opened):
    """Drafts in blocks, real calls after them, tags of thinking in the strings of the real ones."""
    text, real = ("<think>\nfirst\n</think>\n\n" if opened else ""), 0
    for piece in pieces:
        if piece == "think":
            text += f"<think>{DRAFT}</think>"
        elif piece == "cut":
            text += f"<think>never closed {DRAFT}"
            break
        elif piece == "call":
            text += REAL
            real += 1
        else:
            text += " some text "
    message = parsed(renderer, text, Thinking() if opened else OFF)
    assert named(message) == [("real", {"a": "</think> <think>"})] * real
    assert not message.failures


def call(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


BAD = {
    "never closed": ("unterminated", '<tool_call>\n{"name": "f", "arguments": {}}\n', "never closed"),
    "never opened again": ("unterminated", '<tool_call>\n{"name": "f", "arg', "never closed"),
    "half an object": ("malformed", call('{"name": "f", "arguments": {'), "not valid JSON"),
    "nothing": ("malformed", call(""), "not valid JSON"),
    "single quotes": ("malformed", call("{'name': 'f'}"), "not valid JSON"),
    "two objects": ("malformed", call('{"name": "f"} {"name": "g"}'), "not valid JSON"),
    "no number": ("malformed", call('{"name": "f", "arguments": {"a": NaN}}'), "not valid JSON"),
    "beyond any float": ("malformed", call('{"name": "f", "arguments": {"a": 1e999}}'), "not valid JSON"),
    "half a character": ("malformed", call('{"name": "f", "arguments": {"a": "\\ud83d"}}'), "surrogate"),
    "bottomless": ("malformed", call('{"name": "f", "arguments": ' + "[" * 5000), "not valid JSON"),
    "a list": ("shape", call('["f"]'), "no JSON object"),
    "no name": ("shape", call('{"arguments": {}}'), "no name"),
    "an empty name": ("shape", call('{"name": "", "arguments": {}}'), "no name"),
    "arguments in a list": ("shape", call('{"name": "f", "arguments": [1]}'), "no object"),
    "arguments in words": ("shape", call('{"name": "f", "arguments": "all of them"}'), "not an object"),
    "a list, encoded twice": ("shape", call('{"name": "f", "arguments": "[1]"}'), "no object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_call_is_a_typed_failure_that_the_agent_can_read(renderer, case):
    kind, text, said = BAD[case]
    message = parsed(renderer, "<think>\nHm\n</think>\n\nSo: " + text + "<|im_end|>")
    assert [failure.kind for failure in message.failures] == [kind] and not message.tool_calls
    assert message.reasoning == "Hm" and message.text == "So: "
    assert failure_text(message.failures[0]).startswith("error: ") and said in failure_text(message.failures[0])
    assert message.failures[0].raw in text


def test_a_bad_call_does_not_take_the_next_one_with_it(renderer):
    good = call('{"name": "g", "arguments": {}}')
    message = parsed(renderer, "<tool_call>\n{oops\n" + good + call("{oops") + good, OFF)
    assert [failure.kind for failure in message.failures] == ["unterminated", "malformed"]
    assert [(c.id, c.name) for c in message.tool_calls] == [("call_0", "g"), ("call_1", "g")]


def test_text_around_calls_and_arguments_encoded_twice(renderer):
    twice = json.dumps({"name": "g", "arguments": json.dumps({"b": [2]})})
    message = parsed(renderer, f"First {call(json.dumps({'name': 'f'}))} then <tool_call>{twice}</tool_call> end", OFF)
    assert named(message) == [("f", {}), ("g", {"b": [2]})]
    assert message.parts == (Text(text="First  then  end"),) and message.tool_calls[1].raw == twice


def test_a_tag_spelled_out_in_letters_ends_no_thinking(renderer):
    """Only the vocabulary's own token is a tag: thinking about tags must not let a draft run."""
    encode = renderer.tokenizer.encode
    spelled = [token for letter in "</think>" for token in encode(letter)]
    tokens = [*encode("<think>I write "), *spelled, *encode(DRAFT)]
    assert not renderer.parse(ids(tokens)).tool_calls
