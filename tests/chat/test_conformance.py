"""What every family writes, against the official template, byte for byte; what the one refuses, the other refuses."""

import itertools

import pytest
from conversations import FAMILIES, MESSAGES, OFF, SHAPES, TOOLSETS, Refused, compiled, official_text
from hypothesis import given
from hypothesis import strategies as st

from askesis.types import TemplateError, Thinking, user

MODES = (None, Thinking(), OFF)


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request, templates, tokenizer):
    """(our renderer, the official text of a conversation, or why there is none)."""
    family = FAMILIES[request.param]
    template = compiled(family.source(templates))

    def theirs(messages, tools, thinking, generate, **options):
        return official_text(template, messages, tools, thinking, generate, **family.options, **options)

    return family.renderer(tokenizer), theirs


def agree(renderer, theirs, messages, tools, thinking, generate):
    if thinking is not None and thinking.enabled not in renderer.modes:
        if generate:  # the official template overhears the wrong mode; a trace must not bear its name
            with pytest.raises(TemplateError, match="has no such mode"):
                renderer.render_text(messages, tools=tools, thinking=thinking)
        return
    try:
        want = theirs(messages, tools, thinking, generate)
    except Refused:
        with pytest.raises(TemplateError):
            renderer.render_text(messages, tools=tools, thinking=thinking, generate=generate)
    else:
        assert renderer.render_text(messages, tools=tools, thinking=thinking, generate=generate) == want


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_official_text_byte_for_byte(pair, shape):
    renderer, theirs = pair
    if shape == "arguments as text" and renderer.calls.name == "xml":
        return  # their templates fail on it; ours reads the text
    for tools, thinking, generate in itertools.product(TOOLSETS, MODES, (True, False)):
        agree(renderer, theirs, SHAPES[shape], tools, thinking, generate)


@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=5),
    asked=st.booleans(),
    tools=st.sampled_from(TOOLSETS),
    thinking=st.sampled_from(MODES),
    generate=st.booleans(),
)
def test_random_conversations_are_the_official_text(pair, messages, asked, tools, thinking, generate):
    messages = [*messages[:1], user("Hi"), *messages[1:]] if asked else messages
    agree(*pair, messages, tools, thinking, generate)


@pytest.mark.parametrize("effort", [("low", 0.2), ("medium", 0.5), ("xhigh", 1.0)])
def test_effort_is_a_sentence_to_qwen3_8(templates, tokenizer, effort):
    family = FAMILIES["qwen3.8"]
    official, renderer = compiled(family.source(templates)), family.renderer(tokenizer)
    for shape, tools in itertools.product(("one question", "system", "empty system"), TOOLSETS):
        want = official_text(official, SHAPES[shape], tools, None, True, reasoning_effort=effort[0])
        assert renderer.render_text(SHAPES[shape], tools=tools, thinking=Thinking(effort=effort[1])) == want
