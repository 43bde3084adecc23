"""A conversation's tokens only ever grow: `extend` appends, and is `render` wherever the template is stable."""

import copy
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.chat import SPECIAL
from askesis.types import TemplateError, Thinking, ToolCall, ToolSpec, assistant, ids, system, tool_result, user

OFF = Thinking(enabled=False)
SPEC = ToolSpec(name="f", description="Does it.", parameters={"type": "object", "properties": {}})
CALL = ToolCall(id="call_0", name="f", arguments={"q": "snö & <ice>"})
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)


def joined(*pieces):
    return np.concatenate(pieces)


@given(data=st.data())
def test_what_is_appended_is_encoded_as_one_text(any_renderer, data):
    """Whatever results hold, marks too: encoding them apart from what is always around them changes no token."""
    body = st.lists(PLAIN | st.sampled_from([*SPECIAL, "<", "</", "\n", "\u0301"]), max_size=4).map("".join)
    given = data.draw(st.lists(body.map(tool_result) | body.map(user), min_size=1, max_size=4))
    tokens = any_renderer.render_completion(assistant("x", tool_calls=(CALL,)), thinking=OFF)
    whole = copy.copy(any_renderer)
    whole._parted = False
    new = any_renderer.extend(tokens, given, thinking=OFF).tolist()
    assert new == whole.extend(tokens, given, thinking=OFF).tolist()
    text = unicodedata.normalize("NFC", any_renderer.tokenizer.decode(new))  # as some tokenizers have it
    assert all(unicodedata.normalize("NFC", message.text.strip()) in text for message in given)


@given(data=st.data())
def test_extend_is_render_where_the_template_is_stable(any_renderer, data):
    thinking = Thinking()
    messages = [user(data.draw(PLAIN))]
    tokens = any_renderer.render(messages, tools=(SPEC,), thinking=thinking)
    for _ in range(data.draw(st.integers(1, 4))):
        calls = (CALL,) * data.draw(st.integers(1, 2))
        said = assistant(data.draw(PLAIN), reasoning=data.draw(PLAIN).strip("\n") or "Hm.", tool_calls=calls)
        tokens = joined(tokens, any_renderer.render_completion(said, thinking=thinking))
        results = [tool_result(data.draw(PLAIN)) for _ in calls]
        messages += [said, *results]
        tokens = joined(tokens, any_renderer.extend(tokens, results, thinking=thinking))
        assert tokens.tolist() == any_renderer.render(messages, tools=(SPEC,), thinking=thinking).tolist()


@given(data=st.data())
def test_a_last_turn_without_thinking_is_where_render_has_it(any_renderer, data):
    """The prompt of the mode without thinking ends as the template writes an empty block before a last answer."""
    messages = [user(data.draw(PLAIN))]
    said = assistant(data.draw(PLAIN).lstrip("\n\r\t ") + "!", tool_calls=(CALL,) * data.draw(st.integers(0, 2)))
    tokens = any_renderer.render(messages, thinking=OFF)
    tokens = joined(tokens, any_renderer.render_completion(said, thinking=OFF))
    tokens = joined(tokens, any_renderer.extend(tokens, [], thinking=OFF, generate=False))
    assert tokens.tolist() == any_renderer.render([*messages, said], generate=False).tolist()


TURN = r"<\|im_start\|>(system|user|assistant)\n((?!<\|im_start\|>).)*?<\|im_end\|>\n"
PROMPT = r"<\|im_start\|>assistant\n(<think>\n\n</think>\n\n)?"
OBSERVED = st.lists(
    st.builds(tool_result, PLAIN) | st.builds(user, PLAIN) | st.builds(system, PLAIN), min_size=0, max_size=3
)


@given(data=st.data())
def test_whatever_is_sampled_the_tokens_grow_and_stay_well_formed(any_renderer, data):
    """The completions are noise, tags of thinking and calls among it; some end by themselves, some are cut off."""
    tokenizer = any_renderer.tokenizer
    structure = {tokenizer.id(token) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")}
    tags = [tokenizer.id(t) for t in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
    noise = st.integers(0, tokenizer.vocab_size - 1).filter(lambda i: i not in structure) | st.sampled_from(tags)
    tokens = any_renderer.render([user("Hi")])
    for _ in range(data.draw(st.integers(1, 4))):
        thinking = Thinking(enabled=data.draw(st.booleans()))
        sampled = data.draw(st.lists(noise, max_size=12)) + data.draw(st.sampled_from([[], [any_renderer.stop_ids[0]]]))
        said = any_renderer.parse(ids(sampled), thinking=thinking)
        assert all(call.raw in tokenizer.decode(sampled) for call in said.tool_calls)
        before = joined(tokens, ids(sampled))
        kept = before.copy()
        new = any_renderer.extend(before, data.draw(OBSERVED), thinking=thinking)
        assert new.dtype == np.int32 and (before == kept).all()
        tokens = joined(before, new)
        assert re.fullmatch(f"({TURN})+{PROMPT}", any_renderer.decode(tokens), re.DOTALL)


def test_a_turn_is_closed_once_however_it_ended(any_renderer):
    def goes_on(tokens):
        return any_renderer.decode(any_renderer.extend(tokens, [user("Go on")]))

    encode = any_renderer.tokenizer.encode
    start = any_renderer.render([user("Hi")])
    cut = joined(start, ids(encode("<think>\nI was just")))
    assert goes_on(cut).startswith("<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n")
    assert goes_on(joined(cut, ids(encode("<|im_end|>")))).startswith("\n<|im_start|>user")
    assert goes_on(any_renderer.render([user("x")], generate=False)).startswith("<|im_start|>user")
    assert goes_on(ids([])).startswith("<|im_start|>user")
    with pytest.raises(TemplateError, match="an assistant's turn is sampled"):
        any_renderer.extend(start, [assistant("no")])


def test_consecutive_results_share_a_turn_and_the_mode_may_change(renderer):
    tokens = ids(renderer.tokenizer.encode("<|im_end|>"))
    new = renderer.extend(tokens, [tool_result("a"), tool_result("b"), user("c"), tool_result("d")], thinking=OFF)
    assert renderer.decode(new) == (
        "\n<|im_start|>user\n<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nd\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


QUESTION = [user("Q")]
BLOCK, EMPTY = "<think>\nHm.\n</think>\n\n", "<think>\n\n</think>\n\n"
DIFFERENT = {
    "(a) a user message after an answer with thinking": (assistant("A", reasoning="Hm."), [[user("?")]], BLOCK, 1),
    "(b) a result after a call without reasoning": (assistant(tool_calls=(CALL,)), [[tool_result("r")]], EMPTY, 1),
    "(c) a second result after a first": (
        assistant("A", reasoning="Hm.", tool_calls=(CALL, CALL)),
        [[tool_result("r")], [tool_result("s")]],
        "<|im_end|>\n<|im_start|>user",
        1,
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_where_extend_differs_from_render_it_is_by_what_it_keeps(renderer, case):
    said, additions, kept, times = DIFFERENT[case]
    tokens = joined(renderer.render(QUESTION), renderer.render_completion(said))
    messages = [*QUESTION, said]
    for index, addition in enumerate(additions):
        messages += addition
        tokens = joined(tokens, renderer.extend(tokens, addition, generate=index == len(additions) - 1))
    grown, rendered = renderer.decode(tokens), renderer.decode(renderer.render(messages))
    assert grown != rendered
    assert grown.count(kept) == rendered.count(kept) + times
    without = grown.replace(kept, "", 1) if "(c)" not in case else "".join(grown.rsplit(kept, 1))
    assert without == rendered
