"""The Qwen3 renderer at its door, against the official template that TRL's wheel carries."""

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoTokenizer

from askesis.chat import (
    CLOSING,
    Qwen3Renderer,
    Tokenizer,
    failure_text,
    load_renderer,
    mode_of,
    save_renderer,
    train_bpe,
)
from askesis.types import (
    CheckpointError,
    Message,
    Reasoning,
    TemplateError,
    Text,
    Thinking,
    ToolCall,
    ToolSpec,
    assistant,
    ids,
    system,
    tool_result,
    user,
)

OFF = Thinking(enabled=False)
SPEC = ToolSpec(
    name="suche",
    description="Söker <b>allt</b> & 'mer'.",
    parameters={"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
)
TOOLSETS = [(), (SPEC,), (SPEC, ToolSpec(name="noop", description="", parameters={"type": "object", "properties": {}}))]


def official_template() -> str:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None, "trl is a test dependency: pip install -e '.[dev]'"
    return (Path(spec.origin).parent / "chat_templates" / "qwen3.jinja").read_text()


@pytest.fixture(scope="module")
def official():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # as transformers has it
    return environment.from_string(official_template())


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["def add(a, b):\n    return a + b\n", "Let me think about 12 things, then call the tool.", "üñï 漢字 🙂"]
    return train_bpe(texts * 3, 400, scaffolding=['\n{"name": "', '", "arguments": '])


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return Qwen3Renderer(tokenizer)


def as_dict(message: Message) -> dict:
    out: dict = {"role": message.role, "content": message.text}
    if any(isinstance(part, Reasoning) for part in message.parts):
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [{"function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls]
    return out


def official_text(official, messages, tools, thinking, generate):
    options = {} if thinking is None else {"enable_thinking": thinking.enabled}
    return official.render(
        messages=[as_dict(m) for m in messages],
        tools=[tool.as_json() for tool in tools] or None,
        add_generation_prompt=generate,
        **options,
    )


CALL = ToolCall(id="call_0", name="suche", arguments={"q": "snö & <ice>", "n": [1, {"x": None}]})
STRING_CALL = ToolCall(id="call_1", name="noop", arguments='{"raw":  1}')  # type: ignore[arg-type]
SHAPES = {
    "one question": [user("Hi")],
    "system": [system("Be brief."), user("Hi")],
    "system later": [user("Hi"), system("Be brief."), user("Well?")],
    "soft switch": [user("Hi /no_think"), assistant("Yes."), user("And now? /think")],
    "(a) user after thinking": [user("Hi"), assistant("Yes.", reasoning="Hm."), user("Why?")],
    "answer last": [user("Hi"), assistant("Yes.", reasoning="Hm.")],
    "answer last, no thought": [user("Hi"), assistant("Yes.")],
    "call last": [user("Hi"), assistant(tool_calls=(CALL,))],
    "(b) result after a bare call": [user("Hi"), assistant(tool_calls=(CALL,)), tool_result("r")],
    "result after thought": [user("Hi"), assistant("So:", reasoning="Hm.\n", tool_calls=(CALL,)), tool_result("r")],
    "(c) two results": [user("Hi"), assistant("a", tool_calls=(CALL, STRING_CALL)), tool_result("r"), tool_result("s")],
    "wrapped user": [user("Hi"), assistant("x", reasoning="y"), user("<tool_response>\nr\n</tool_response>")],
    "only wrapped": [user("<tool_response>r</tool_response>"), assistant("x", reasoning="y")],
    "literal tag": [user("Hi"), assistant("<think>\nHm\n</think>\n\nYes"), user("?"), assistant("a</think>b</think>c")],
    "empty reasoning": [user("Hi"), Message(role="assistant", parts=(Reasoning(text=""), Text(text="\n\nx")))],
    "tool first": [tool_result("r"), user("Hi")],
    "long": [
        system("S"),
        user("1"),
        assistant("2", reasoning="t", tool_calls=(CALL,)),
        tool_result("3"),
        assistant("4", reasoning="u"),
        user("5"),
        assistant(reasoning="v", tool_calls=(CALL,)),
        tool_result("6\n"),
        assistant("\n7"),
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_official_text_byte_for_byte(official, renderer, shape):
    for tools, thinking, generate in itertools.product(TOOLSETS, (None, Thinking(), OFF), (True, False)):
        want = official_text(official, SHAPES[shape], tools, thinking, generate)
        assert renderer.render_text(SHAPES[shape], tools=tools, thinking=thinking, generate=generate) == want


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)) | st.sampled_from("\n <>/"), max_size=12
) | st.sampled_from(["</think>", "<think>", "/think", "<tool_call>", "\n\n", "<tool_response>x</tool_response>"])
ARGUMENTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=5) | st.none(), max_size=2)
CALLS = st.builds(lambda n, a: ToolCall(id="call_0", name=n, arguments=a), st.sampled_from(["f", "näme"]), ARGUMENTS)
MESSAGES = st.one_of(
    st.builds(user, WORDS),
    st.builds(system, WORDS),
    st.builds(tool_result, WORDS),
    st.builds(
        lambda text, thought, calls: Message(
            role="assistant",
            parts=(*([Reasoning(text=thought)] if thought is not None else []), Text(text=text)),
            tool_calls=tuple(calls),
        ),
        WORDS,
        st.none() | WORDS,
        st.lists(CALLS, max_size=2),
    ),
)


@given(messages=st.lists(MESSAGES, min_size=1, max_size=6), tools=st.sampled_from(TOOLSETS), off=st.booleans())
def test_random_conversations_are_the_official_text(official, renderer, messages, tools, off):
    thinking = OFF if off else Thinking()
    want = official_text(official, messages, tools, thinking, True)
    assert renderer.render_text(messages, tools=tools, thinking=thinking) == want


PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="<"), max_size=12)
SAID = st.builds(
    lambda text, thought, calls: assistant(text.strip("\n"), reasoning=thought.strip("\n"), tool_calls=tuple(calls)),
    PLAIN,
    PLAIN,
    st.lists(
        st.builds(lambda a: ToolCall(id="", name="f", arguments=a), st.dictionaries(PLAIN, PLAIN, max_size=2)),
        max_size=3,
    ),
)


@given(message=SAID, thinking=st.booleans())
def test_what_is_said_is_what_is_parsed(renderer, message, thinking):
    mode = Thinking(enabled=thinking)
    if message.reasoning and not thinking:
        with pytest.raises(TemplateError):
            renderer.render_completion(message, thinking=mode)
        return
    tokens = renderer.render_completion(message, thinking=mode)
    back = renderer.parse(tokens, thinking=mode)
    assert (back.text, back.reasoning) == (message.text, message.reasoning)
    assert [(c.name, dict(c.arguments)) for c in back.tool_calls] == [
        (c.name, dict(c.arguments)) for c in message.tool_calls
    ]
    assert not back.failures


@given(data=st.data())
def test_tokens_only_grow_and_agree_with_render_where_the_template_is_stable(renderer, data):
    thinking = Thinking(enabled=data.draw(st.booleans()))
    messages = [user(data.draw(PLAIN))]
    tokens = renderer.render(messages, tools=(SPEC,), thinking=thinking)
    for _ in range(data.draw(st.integers(1, 4))):
        thought = data.draw(PLAIN).strip("\n") if thinking.enabled else ""
        said = assistant(data.draw(PLAIN).strip("\n"), reasoning=thought, tool_calls=(CALL,))
        before = tokens
        tokens = np.concatenate([tokens, renderer.render_completion(said, thinking=thinking)])
        messages.append(said)
        results = [tool_result(data.draw(PLAIN)) for _ in range(data.draw(st.integers(1, 2)))]
        messages += results
        tokens = np.concatenate([tokens, renderer.extend(tokens, results, thinking=thinking)])
        assert (tokens[: len(before)] == before).all()
        if all(m.reasoning for m in messages if m.role == "assistant"):  # else quirk (b) applies
            assert (tokens == renderer.render(messages, tools=(SPEC,), thinking=thinking)).all()


def test_extend_closes_what_a_limit_cut_off(renderer):
    start = renderer.render([user("Hi")])
    cut = np.concatenate([start, ids(renderer.tokenizer.encode("<think>\nI was just"))])
    assert renderer.decode(renderer.extend(cut, [user("Go on")])).startswith("<|im_end|>\n<|im_start|>user\nGo on")
    whole = np.concatenate([cut, ids(renderer.tokenizer.encode("<|im_end|>"))])
    assert renderer.decode(renderer.extend(whole, [user("Go on")])).startswith("\n<|im_start|>user")
    assert renderer.decode(renderer.extend(renderer.render([user("x")], generate=False), [user("y")])).startswith(
        "<|im_st"
    )
    with pytest.raises(TemplateError):
        renderer.extend(start, [assistant("no")])


BAD = {
    "unterminated": ('<tool_call>\n{"name": "f", "arguments": {}}\n', "never closed"),
    "malformed": ('<tool_call>\n{"name": "f", "arguments": {\n</tool_call>', "not valid JSON"),
    "shape": ('<tool_call>\n["f"]\n</tool_call>', "must be"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_call_is_a_typed_failure_that_the_agent_can_read(renderer, kind):
    text, said = BAD[kind]
    message = renderer.parse(ids(renderer.tokenizer.encode("<think>\nHm\n</think>\n\n" + text + "<|im_end|>")))
    assert [failure.kind for failure in message.failures] == [kind]
    assert said in failure_text(message.failures[0]) and not message.tool_calls


CALL_TEXT = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
DRAFTS = [
    f"<think>\nI could {CALL_TEXT} but no\n</think>\n\nDone.",
    f"<think>\nI could {CALL_TEXT}",  # cut off inside thinking
    f"I could {CALL_TEXT}\n</think>\n\nDone.",  # the prompt had opened the thinking
    f"Done.<think>{CALL_TEXT}</think>",
    f"Done.<think>a</think>b<think>{CALL_TEXT}",
]


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_call_drafted_inside_thinking_never_runs(renderer, draft):
    message = renderer.parse(ids(renderer.tokenizer.encode(draft)))
    assert not message.tool_calls and not message.failures
    assert "<tool_call>" in message.reasoning


def test_calls_around_text_and_arguments_encoded_twice(renderer):
    twice = json.dumps({"name": "g", "arguments": json.dumps({"b": [2]})})
    text = f"First {CALL_TEXT} then <tool_call>{twice}</tool_call> end<|im_end|>"
    message = renderer.parse(ids(renderer.tokenizer.encode(text)), thinking=OFF)
    assert [(c.id, c.name, c.arguments) for c in message.tool_calls] == [
        ("call_0", "f", {"a": 1}),
        ("call_1", "g", {"b": [2]}),
    ]
    assert message.text == "First  then  end" and message.tool_calls[1].raw == twice


def test_budget_in_this_vocabulary_and_thinking_counted(renderer):
    limit = renderer.thinking_limit(Thinking(budget=8))
    assert limit is not None and renderer.decode(ids(limit.closing)) == CLOSING
    assert limit.closing.count(limit.close_id) == 1
    assert renderer.thinking_limit(Thinking()) is None and renderer.thinking_limit(OFF) is None
    tokens = ids(renderer.tokenizer.encode("<think>abc</think>def"))
    assert renderer.thinking_tokens(tokens) == len(renderer.tokenizer.encode("abc"))


def test_the_last_soft_switch_wins():
    assert mode_of([user("a /no_think"), user("b /think")], OFF).enabled
    assert not mode_of([system("/think"), user("b /think then /no_think")], Thinking()).enabled
    assert mode_of([user("b"), assistant("/no_think")], Thinking(budget=3)) == Thinking(budget=3)


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


@given(text=st.text(max_size=60))
def test_any_text_survives_the_small_bpe(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_wrong_tokenizer_is_named(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="can be read"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="has no token"):
        tokenizer.id("<nope>")
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        tokenizer.check_fits(100, "here")
