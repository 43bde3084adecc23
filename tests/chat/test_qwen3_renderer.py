"""Qwen3 beside its template: our copy of it, tokenizers that transformers opens, budgets, switches."""

import itertools

import pytest
from conversations import ARGUMENTS, OFF, SHAPES, TOOLSETS, WORDS, as_dict
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from askesis.chat import CLOSING, Qwen3Renderer, load_renderer, mode_of, save_renderer
from askesis.chat.tokenizer import TEMPLATE
from askesis.types import (
    TemplateError,
    Thinking,
    ToolCall,
    assistant,
    ids,
    system,
    tool_result,
    user,
)

CONTENTS = st.none() | WORDS | st.just([{"type": "text", "text": "parts are not rendered"}])
LOOSE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]), "content": CONTENTS},
    optional={
        "reasoning_content": st.none() | WORDS,
        "tool_calls": st.none()
        | st.lists(
            st.builds(
                lambda name, arguments, wrapped: (
                    {"function": {"name": name, "arguments": arguments}}
                    if wrapped
                    else {"name": name, "arguments": arguments}
                ),
                st.sampled_from(["f", "näme"]),
                ARGUMENTS | st.just('{"as":  "text"}'),
                st.booleans(),
            ),
            max_size=2,
        ),
    },
)


@given(
    messages=st.lists(LOOSE, min_size=1, max_size=6),
    tools=st.sampled_from(TOOLSETS),
    options=st.sampled_from([{}, {"enable_thinking": True}, {"enable_thinking": False}, {"enable_thinking": 0}]),
    generate=st.booleans(),
)
def test_our_template_file_is_the_official_one_on_any_dictionaries(
    official, compiled, messages, tools, options, generate
):
    if messages[0]["role"] == "system" and not isinstance(messages[0]["content"], str):
        messages = [{"role": "user", "content": "Hi"}, *messages]  # the official template fails on such an opening
    given_tools = [tool.as_json() for tool in tools] or None
    ours, theirs = (
        template.render(messages=messages, tools=given_tools, add_generation_prompt=generate, **options)
        for template in (compiled(TEMPLATE.read_text()), official)
    )
    assert ours == theirs


def test_what_cannot_be_rendered_is_said(renderer):
    with pytest.raises(TemplateError, match="without messages"):
        renderer.render([])
    call = ToolCall(id="", name="f", arguments={"a": {1, 2}})
    with pytest.raises(TemplateError, match="arguments of a call to 'f' cannot be written as JSON"):
        renderer.render([user("x"), assistant(tool_calls=(call,))])
    half = renderer.render([user("half a pair: \ud83d")])
    assert "half a pair: \ufffd" in renderer.decode(half)


def test_budget_in_this_vocabulary_and_thinking_counted(renderer):
    limit = renderer.thinking_limit(Thinking(budget=8))
    assert limit is not None and renderer.decode(ids(limit.closing)) == CLOSING
    assert limit.closing.count(limit.close_id) == 1
    assert renderer.thinking_limit(Thinking(budget=8, episode_budget=5)).budget == 5
    assert renderer.thinking_limit(Thinking(episode_budget=5)).budget == 5
    assert renderer.thinking_limit(Thinking()) is None and renderer.thinking_limit(OFF) is None
    for text in ("<think>abc</think>def", "<think>abc", "abc</think>def"):
        assert renderer.thinking_tokens(ids(renderer.tokenizer.encode(text))) == len(renderer.tokenizer.encode("abc"))
    assert renderer.thinking_tokens(ids(renderer.tokenizer.encode("abc<|im_end|>"))) == 0


@pytest.mark.parametrize("closing", ["", "no end", "</think></think>", "<think></think>", "</think><|im_end|>"])
def test_a_closing_text_ends_the_thinking_and_nothing_else(tokenizer, closing):
    with pytest.raises(TemplateError, match="expected one </think>"):
        Qwen3Renderer(tokenizer, closing=closing)


def test_the_last_soft_switch_wins():
    assert mode_of([user("a /no_think"), user("b /think")], OFF).enabled
    assert not mode_of([system("/think"), user("b /think then /no_think.")], Thinking()).enabled
    assert mode_of([user("b"), assistant("/no_think"), tool_result("/no_think")], Thinking(budget=3)) == Thinking(
        budget=3
    )
    assert mode_of([user("/no_think"), user("no switch")], Thinking(budget=3)) == Thinking(enabled=False, budget=3)
    for text in ("cat src/think.py", "https://host/think", "/thinking", "/think/of", "/no_thinking", "/think-tank"):
        assert not mode_of([user(text)], OFF).enabled and mode_of([user(text)], Thinking()).enabled, text


def test_a_saved_tokenizer_is_one_that_transformers_opens(tmp_path, tokenizer):
    save_renderer(Qwen3Renderer(tokenizer, closing="\n</think>\n\n"), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = load_renderer(tmp_path)
    assert ours.closing == "\n</think>\n\n" and theirs.eos_token == "<|im_end|>"
    for messages, enabled, tools in itertools.product(SHAPES.values(), (True, False), TOOLSETS):
        if any(isinstance(call.arguments, str) for m in messages for call in m.tool_calls):
            continue  # transformers parses string arguments before the template sees them
        got = theirs.apply_chat_template(
            [as_dict(m) for m in messages],
            tools=[t.as_json() for t in tools] or None,
            enable_thinking=enabled,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        assert list(got) == ours.render(messages, tools=tools, thinking=Thinking(enabled=enabled)).tolist()
    words = 'two  spaces\t\u00a0 e\u0301 漢字 <think>\n{"name": "x"}</tool_call>\r\n'
    assert theirs(words)["input_ids"] == tokenizer.encode(words) and theirs.decode(tokenizer.encode(words)) == words
    theirs.save_pretrained(tmp_path / "again")  # and what transformers saves, we open
    assert load_renderer(tmp_path / "again").tokenizer.encode(words) == tokenizer.encode(words)
