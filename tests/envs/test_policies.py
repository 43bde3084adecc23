"""Policies that know nothing: calls that a schema allows, the same for the same seed, made of what was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.envs.policies import NullPolicy, RandomPolicy, emptiest, legal
from askesis.types import ConfigError, Thinking, ToolSpec, assistant, tool_result, user

SEEN = [user("Look for the red fox in /srv/data.txt."), assistant("…"), tool_result("fox: 17\nhen: 4")]


def spec(name, properties, required=None):
    schema = {"type": "object", "properties": properties, "required": list(required or properties)}
    return ToolSpec(name=name, description="", parameters=schema)


def leaves(depth=2):
    bounds = st.integers(-5, 5)
    numbers = st.builds(
        lambda kind, low, span: {"type": kind, "minimum": low, "maximum": low + span},
        st.sampled_from(["integer", "number"]),
        bounds,
        st.integers(0, 9),
    )
    strings = st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 4),
        st.integers(0, 20),
    )
    plain = st.one_of(
        numbers,
        strings,
        st.just({"type": ["string", "null"]}),
        st.just({"type": "boolean"}),
        st.just({"const": {"a": 1}}),
        st.just({"enum": ["left", 2, None]}),
        st.just({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5}),
    )
    if depth == 0:
        return plain
    deeper = leaves(depth - 1)
    return st.one_of(
        plain,
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, deeper, st.integers(0, 2)),
        st.builds(lambda a, b: {"anyOf": [a, b]}, deeper, deeper),
        st.builds(lambda a: {"type": "object", "properties": {"in": a}, "required": ["in"]}, deeper),
        st.builds(lambda a: {"allOf": [a, {"description": "said twice"}]}, deeper),
    )


@given(st.dictionaries(st.sampled_from("abcd"), leaves(), max_size=3), st.integers(0, 2**32))
def test_random_calls_are_legal_and_repeatable(properties, seed):
    tool = spec("t", properties)
    said = [RandomPolicy([tool], seed=seed).act(SEEN, Thinking()) for _ in range(2)]
    assert said[0] == said[1]
    (call,) = said[0].tool_calls
    assert call.name == "t"
    assert legal(tool.parameters, call.arguments)


def test_random_calls_reach_every_tool_and_use_what_was_seen():
    tools = [
        spec("find", {"text": {"type": "string"}, "line": {"type": "integer"}}),
        spec("open", {}),
        spec("stop", {}),
    ]
    calls = [RandomPolicy(tools, seed=seed).act(SEEN, Thinking()).tool_calls[0] for seed in range(300)]
    assert {call.name for call in calls} == {"find", "open", "stop"}
    texts = {call.arguments["text"] for call in calls if call.name == "find"}
    assert {"fox", "/srv/data.txt"} <= texts and len(texts) > 10
    assert 17 in {call.arguments["line"] for call in calls if call.name == "find"}


def test_a_tool_that_nothing_is_known_to_fit_is_left_alone():
    locked = spec("locked", {"key": {"type": "string", "pattern": "^[0-9a-f]{64}$"}})
    fitting = spec("fitting", {"animal": {"type": "string", "pattern": "^(fox|hen)$"}})
    for seed in range(20):
        (call,) = RandomPolicy([locked, fitting], seed=seed).act(SEEN, Thinking()).tool_calls
        assert (call.name, call.arguments["animal"] in ("fox", "hen")) == ("fitting", True)
    assert not RandomPolicy([locked], seed=0).act(SEEN, Thinking()).tool_calls
    assert not RandomPolicy([fitting], seed=0, stop=1.0).act(SEEN, Thinking()).tool_calls
    nested = {"$defs": {"n": {"type": "integer", "minimum": 3}}, "type": "object", "required": ["n"]}
    nested["properties"] = {"n": {"$ref": "#/$defs/n"}}
    referring = ToolSpec(name="r", description="", parameters=nested)
    assert RandomPolicy([referring], seed=1).act(SEEN, Thinking()).tool_calls[0].arguments["n"] >= 3


def test_null_does_nothing_in_four_ways():
    tools = [spec("look", {}), spec("answer", {"text": {"type": "string"}, "sure": {"type": "boolean"}})]
    said = {how: NullPolicy(tools, how=how).act(SEEN, Thinking()) for how in ("stop", "whitespace", "echo", "submit")}
    assert (said["stop"].text, said["stop"].tool_calls) == ("", ())
    assert said["whitespace"].text.strip() == "" != said["whitespace"].text
    assert said["echo"].text == SEEN[0].text
    (call,) = said["submit"].tool_calls
    assert (call.name, call.arguments) == ("answer", {"text": "", "sure": False})
    assert not NullPolicy(tools[:1], how="submit").act(SEEN, Thinking()).tool_calls
    with pytest.raises(ConfigError, match=r"'sbmit'; did you mean 'submit'\?"):
        NullPolicy(tools, how="sbmit")
    least = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 2}, "o": {}}, "required": ["n"]}
    assert emptiest(least) == {"n": 2}
