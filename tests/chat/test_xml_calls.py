"""XML calls: what is written is what is read, with the types of the schema; what cannot be read is said."""

import pytest
from conversations import FAMILIES, OFF
from hypothesis import given
from hypothesis import strategies as st

from askesis.chat import failure_text
from askesis.types import TemplateError, Thinking, ToolCall, ToolSpec, assistant, ids

ANY = {
    "s": {"type": "string"},
    "i": {"type": "integer"},
    "x": {"type": "number"},
    "b": {"type": "boolean"},
    "l": {"type": "array"},
    "o": {"type": "object"},
    "m": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "e": {"enum": ["a", "b"]},
    "t": {"type": ["integer", "null"]},
}
SPEC = ToolSpec(name="f", description="", parameters={"type": "object", "properties": ANY})
# what a string may hold: all but what ends a parameter where another follows, and what ends the whole call
TAGGED = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=6)
    | st.sampled_from(["</parameter>", "</function>", "<parameter=s>", "<function=g>", "</tool_call>", "<think>", "\n"])
    | st.sampled_from(["true", "null", "5", "1e5", "[1]", "<b>&amp;</b>", "</think>"]),
    max_size=4,
).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TAGGED,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TAGGED, inner, max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "s": TAGGED,
        "i": st.integers(),
        "x": st.floats(allow_nan=False, allow_infinity=False),
        "b": st.booleans(),
        "l": st.lists(JSON, max_size=2),
        "o": st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), JSON, max_size=2),
        "m": TAGGED.filter(lambda text: text.strip().lower() not in ("null", "none")) | st.none(),
        "e": st.sampled_from(["a", "b"]),
        "t": st.integers() | st.none(),
    },
)


@pytest.fixture(scope="session", params=["qwen3.5", "qwen3.6", "qwen3.8"])
def renderer(request, tokenizer):
    return FAMILIES[request.param].renderer(tokenizer)


def ambiguous(arguments):
    """Whether a value holds what the format cannot tell from its own tags."""
    text = "".join(str(value) for value in arguments.values())
    return "</parameter>" in text and ("<parameter=" in text or "</function>" in text)


@given(calls=st.lists(ARGUMENTS.filter(lambda one: not ambiguous(one)), max_size=3), text=st.sampled_from(["", "So:"]))
def test_what_is_called_is_what_is_read(renderer, calls, text):
    said = assistant(
        text, tool_calls=tuple(ToolCall(id=f"call_{i}", name="f", arguments=a) for i, a in enumerate(calls))
    )
    for thinking in (OFF, Thinking()):
        tokens = renderer.render_completion(said, thinking=thinking)
        back = renderer.parse(tokens, thinking=thinking, tools=(SPEC,))
        assert not back.failures and back.text == text
        assert [(call.name, dict(call.arguments)) for call in back.tool_calls] == [("f", one) for one in calls]
        for call, arguments in zip(back.tool_calls, calls, strict=True):
            assert [type(call.arguments[key]) for key in arguments] == [type(one) for one in arguments.values()]
        assert renderer.render_completion(back, thinking=thinking).tolist() == tokens.tolist()


def called(renderer, *lines, tools=(SPEC,)):
    text = "<tool_call>\n" + "\n".join(lines) + "\n</tool_call>"
    return renderer.parse(ids(renderer.tokenizer.encode(text)), thinking=OFF, tools=tools)


TYPED = {
    ("s", "null"): "null",
    ("s", "5"): "5",
    ("s", '"said"'): '"said"',
    ("i", "5"): 5,
    ("i", " 5 "): 5,
    ("i", "5.0"): 5,
    ("i", "five"): "five",
    ("i", "null"): None,
    ("x", "5"): 5,
    ("x", "NaN"): "NaN",
    ("b", "True"): True,
    ("b", "false"): False,
    ("b", "yes"): "yes",
    ("l", "[1, 'a']"): [1, "a"],
    ("o", "{'a': None, 'b': (1,)}"): {"a": None, "b": [1]},
    ("o", '{"a": "</parameter>"}'): {"a": "</parameter>"},
    ("o", "{1, 2}"): "{1, 2}",
    ("l", "__import__('os')"): "__import__('os')",
    ("m", "null"): None,
    ("t", "7"): 7,
    ("unknown", "7"): "7",
}


@pytest.mark.parametrize("case", TYPED, ids=str)
def test_values_have_the_type_that_the_schema_asks_for(renderer, case):
    key, text = case
    (call,) = called(renderer, "<function=f>", f"<parameter={key}>", text, "</parameter>", "</function>").tool_calls
    assert call.arguments == {key: TYPED[case]} and type(call.arguments[key]) is type(TYPED[case])


def test_the_form_is_free_where_it_does_not_matter(renderer):
    (call,) = called(
        renderer, "<function=f><parameter=s>a b</parameter>  <parameter=i>1</parameter></function>"
    ).tool_calls
    assert call.arguments == {"s": "a b", "i": 1}
    (call,) = called(renderer, "<function=g><parameter=i>1</parameter></function>").tool_calls
    assert call.arguments == {"i": "1"}  # of a tool that there is not, nobody knows the types
    odd = ToolSpec(name="f", description="", parameters={"properties": ["no", "object"]})
    (call,) = called(renderer, "<function=f><parameter=i>1</parameter></function>", tools=(odd,)).tool_calls
    assert call.arguments == {"i": "1"}


BAD = {
    "nothing": ("", "malformed", "expected <function=NAME>"),
    "JSON": ('{"name": "f", "arguments": {}}', "malformed", "expected <function=NAME>"),
    "no end of the function": ("<function=f>\n<parameter=s>\na\n</parameter>", "malformed", "is missing"),
    "no end of a parameter": ("<function=f>\n<parameter=s>\na\n</function>", "malformed", "'s' is never closed"),
    "text between": ("<function=f>\nwell\n</function>", "malformed", "expected <parameter=NAME>"),
    "text behind": ("<function=f>\n</function>\nwell", "malformed", "expected nothing after"),
    "a name that never ends": ("<function=f\n</function>", "malformed", "expected <function=NAME>"),
    "no name": ("<function=>\n</function>", "shape", "no function name"),
    "twice": ("<function=f><parameter=s>a</parameter><parameter=s>b</parameter></function>", "shape", "given twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_call_is_a_typed_failure_that_the_agent_can_read(renderer, case):
    text, kind, said = BAD[case]
    message = called(renderer, text)
    (failure,) = message.failures
    assert not message.tool_calls and failure.kind == kind and failure.syntax == "xml"
    assert said in failure.detail and "<function=NAME>" in failure_text(failure)


def test_a_call_cut_off_is_unterminated(renderer):
    tokens = ids(renderer.tokenizer.encode("So: <tool_call>\n<function=f>\n<parameter=s>\na\n</parameter>"))
    message = renderer.parse(tokens, thinking=OFF, tools=(SPEC,))
    assert [failure.kind for failure in message.failures] == ["unterminated"] and message.text == "So: "
    assert failure_text(message.failures[0]) == "error: the call was never closed with </tool_call>"


def test_a_call_drafted_inside_thinking_never_runs(renderer):
    draft = "<tool_call>\n<function=f>\n</function>\n</tool_call>"
    for text in (draft, f"I could {draft}", f"{draft}\n</think>\n\nDone."):
        message = renderer.parse(ids(renderer.tokenizer.encode(text)), thinking=Thinking(), tools=(SPEC,))
        assert not message.tool_calls and draft in message.reasoning


def test_arguments_as_text_are_taken_for_what_they_say(renderer):
    call = ToolCall(id="", name="f", arguments='{"i": 1}')  # type: ignore[arg-type]
    tokens = renderer.render_completion(assistant(tool_calls=(call,)), thinking=OFF)
    assert renderer.parse(tokens, thinking=OFF, tools=(SPEC,)).tool_calls[0].arguments == {"i": 1}
    for wrong in ("[1]", "{", "words"):
        call = ToolCall(id="", name="f", arguments=wrong)  # type: ignore[arg-type]
        with pytest.raises(TemplateError, match="are no object"):
            renderer.render_completion(assistant(tool_calls=(call,)), thinking=OFF)
