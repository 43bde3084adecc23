"""The faults that other renderers of Qwen3 have, each by its name; all texts are compared with the official ones."""

import numpy as np
import pytest
from conversations import OFF, as_dict

from askesis.types import ParseFailure, Thinking, ToolCall, ToolSpec, assistant, ids, tool_result, user

ASKED = [user("Q")]
CALL = ToolCall(id="call_0", name="f", arguments={"q": "snö & <ice>"})
SPEC = ToolSpec(name="f", description="Söker <b> & 'mer'.", parameters={"type": "object", "properties": {}})
EMPTY = "<think>\n\n</think>\n\n"


def both(renderer, official, messages, **options):
    """Our text, after it was found to be the official one."""
    text = renderer.render_text(messages, **options)
    tools = [tool.as_json() for tool in options.get("tools", ())] or None
    assert text == official.render(
        messages=[as_dict(message) for message in messages], tools=tools, add_generation_prompt=True
    )
    return text


def test_only_a_literal_false_switches_thinking_off(renderer, official):
    for given in (None, 0, "", "false", True):
        text = official.render(
            messages=[{"role": "user", "content": "Q"}], add_generation_prompt=True, enable_thinking=given
        )
        assert text == renderer.render_text(ASKED, thinking=Thinking())
    assert renderer.render_text(ASKED, thinking=OFF) == renderer.render_text(ASKED) + EMPTY


def test_soft_switches_are_plain_text_to_the_template(renderer, official):
    said = [user("a /no_think"), assistant("b"), user("c /think")]
    text = both(renderer, official, said)
    assert "a /no_think<|im_end|>" in text and "c /think<|im_end|>" in text and EMPTY not in text
    assert renderer.mode_of(said, OFF).enabled and not renderer.mode_of(said[:1], Thinking()).enabled


def test_thinking_before_the_last_question_is_dropped(renderer, official):
    said = [*ASKED, assistant("A", reasoning="old"), user("R"), assistant("B", reasoning="new", tool_calls=(CALL,))]
    text = both(renderer, official, [*said, tool_result("r")])
    assert "old" not in text and "<think>\nnew\n</think>" in text


def test_a_users_message_that_is_all_tool_response_is_no_question(renderer, official):
    said = [*ASKED, assistant("A", reasoning="kept"), user("<tool_response>\nr\n</tool_response>")]
    assert "kept" in both(renderer, official, said)
    assert "kept" not in both(renderer, official, [*said[:2], user("<tool_response>\nr\n</tool_response> and?")])


def test_a_call_without_reasoning_has_its_empty_block_only_while_it_is_last(renderer, official):
    said = [*ASKED, assistant(tool_calls=(CALL,))]
    assert EMPTY in both(renderer, official, said)
    assert EMPTY not in both(renderer, official, [*said, tool_result("r")])


def test_a_literal_end_of_thinking_in_content_is_split_off(renderer, official):
    assert "<think>\nHm\n</think>\n\nYes" in both(renderer, official, [*ASKED, assistant("<think>Hm</think>Yes")])


def test_content_in_parts_renders_as_empty(official):
    """The template's own quirk: whoever hands parts to it says nothing. Our messages are text by then."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "lost"}]}]
    assert official.render(messages=parts) == "<|im_start|>user\n<|im_end|>\n"


def test_json_keeps_its_letters_and_is_not_escaped_for_html(renderer, official):
    text = both(renderer, official, [*ASKED, assistant(tool_calls=(CALL,))], tools=(SPEC,))
    assert "\"Söker <b> & 'mer'.\"" in text and '{"q": "snö & <ice>"}' in text


def test_arguments_that_are_text_pass_through_as_they_are(renderer, official):
    call = ToolCall(id="", name="f", arguments='{"raw":  1}')  # type: ignore[arg-type]
    assert '"arguments": {"raw":  1}}' in both(renderer, official, [*ASKED, assistant(tool_calls=(call,))])


def test_consecutive_results_share_one_turn(renderer, official):
    said = [*ASKED, assistant(tool_calls=(CALL, CALL)), tool_result("r"), tool_result("s")]
    assert both(renderer, official, said).count("<|im_start|>user") == 2


GROWTH = {
    "a question follows an answer with thinking": (assistant("A", reasoning="Hm."), user("R")),
    "a result follows a call without reasoning": (assistant(tool_calls=(CALL,)), tool_result("r")),
    "a second result follows a first": (tool_result("r"), tool_result("s")),
}


@pytest.mark.parametrize("case", GROWTH)
def test_what_was_sampled_is_never_rendered_again_though_the_template_would(renderer, official, case):
    before, new = GROWTH[case]
    history = [*ASKED, before] if before.role == "assistant" else [*ASKED, assistant(tool_calls=(CALL,)), before]
    prompt = renderer.render(history[:-1], generate=before.role == "assistant")
    last = renderer.render_completion(before) if before.role == "assistant" else renderer.extend(prompt, [before])
    tokens = np.concatenate([prompt, last])
    grown = renderer.decode(np.concatenate([tokens, renderer.extend(tokens, [new])]))
    assert grown.startswith(renderer.decode(tokens))
    assert not both(renderer, official, [*history, new]).startswith(renderer.decode(tokens))


@pytest.mark.parametrize("ended", ["</think>\n\nDone.", ""])
def test_reasoning_is_taken_out_before_calls_are_looked_for(renderer, ended):
    draft = '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>'
    tokens = ids(renderer.tokenizer.encode(f"<think>\nI could {draft}, or <tool_call> {ended}"))
    assert renderer.parse(tokens).tool_calls == () and renderer.parse(tokens).failures == ()
    stream = renderer.stream()
    deltas = [delta for token in tokens for delta in stream.feed([token])] + stream.finish()
    assert not any(isinstance(delta, ToolCall | ParseFailure) for delta in deltas)
