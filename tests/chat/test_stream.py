"""A completion read as it comes: however it is dealt out, the pieces are what `parse` gives, and stay what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from askesis.chat import Tokenizer
from askesis.chat.detokenise import Detokeniser
from askesis.types import ParseFailure, Reasoning, Text, Thinking, ToolCall, ToolSpec, ids

OFF = Thinking(enabled=False)
SPEC = ToolSpec(name="f", description="", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<|endoftext|>", "<|im_start|>"]
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "</think> 🙂 </tool_call>"}}\n</tool_call>'


def dealt(renderer, tokens, cuts, thinking):
    """(pieces, message) of `tokens` fed in parts that end at `cuts`."""
    stream = renderer.stream(thinking=thinking, tools=(SPEC,))
    pieces, start = [], 0
    for cut in [*sorted(cuts), len(tokens)]:
        pieces += stream.feed(tokens[start:cut])
        start = max(start, cut)
    return pieces + stream.finish(), stream


def joined(pieces, kind):
    return "".join(piece.text for piece in pieces if isinstance(piece, kind))


XML = "<tool_call>\n<function=f>\n<parameter=a>\n1 </parameter>\n</think>\n</parameter>\n</function>\n</tool_call>"


@st.composite
def completions(draw, tokenizer):
    """Ids of anything: whole texts, tags, calls, and single tokens that may be halves of characters."""
    part = st.one_of(
        st.sampled_from([*TAGS, CALL, XML, "\n", "\n\n", "<tool", "_call>", '{"name": "f"}', "漢字 🙂", "word "]).map(
            tokenizer.encode
        ),
        st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=4),
    )
    return [token for tokens in draw(st.lists(part, max_size=9)) for token in tokens]


@given(data=st.data(), thinking=st.sampled_from([None, Thinking(), OFF]))
def test_the_pieces_of_a_stream_are_what_parse_gives(any_family, data, thinking):
    thinking = None if thinking is not None and thinking.enabled not in any_family.modes else thinking
    tokens = data.draw(completions(any_family.tokenizer))
    cuts = data.draw(st.lists(st.integers(0, len(tokens)), max_size=len(tokens)))
    pieces, stream = dealt(any_family, tokens, cuts, thinking)
    message = any_family.parse(ids(tokens), thinking=thinking, tools=(SPEC,))
    assert stream.message == message
    assert joined(pieces, Reasoning) == message.reasoning and joined(pieces, Text) == message.text
    assert [piece for piece in pieces if isinstance(piece, ToolCall)] == list(message.tool_calls)
    assert [piece for piece in pieces if isinstance(piece, ParseFailure)] == list(message.failures)
    assert all(piece.text for piece in pieces if isinstance(piece, Reasoning | Text))
    assert stream.thinking_tokens == any_family.thinking_tokens(ids(tokens), thinking=thinking)


def one_by_one(renderer, text, thinking=None):
    """What each token gives, and what the end gives."""
    stream = renderer.stream(thinking=thinking)
    steps = [(renderer.decode(ids([token])), stream.feed([token])) for token in renderer.tokenizer.encode(text)]
    return steps, stream.finish()


def test_thinking_and_text_come_as_they_are_sampled(any_renderer):
    steps, end = one_by_one(any_renderer, "<think>\nHm, well.\n</think>\n\nYes, I do.<|im_end|>")
    pieces = [piece for _, given in steps for piece in given]
    assert not end and joined(pieces, Reasoning) == "Hm, well." and joined(pieces, Text) == "Yes, I do."
    assert len(pieces) > 4 and all(len(given) <= 1 for _, given in steps)


def test_no_character_is_split_and_no_half_of_a_tag_is_shown(any_renderer):
    steps, end = one_by_one(any_renderer, "<think>漢字 🙂</think>ü <tool_ and <|im_end|>", None)
    pieces = [piece for _, given in steps for piece in given] + end
    assert joined(pieces, Reasoning) == "漢字 🙂" and joined(pieces, Text) == "ü <tool_ and "
    assert not any("\ufffd" in piece.text for piece in pieces)
    spelled = [token for letter in "So: " + CALL for token in any_renderer.tokenizer.encode(letter)]
    stream = any_renderer.stream(thinking=OFF)
    shown = [piece for token in spelled for piece in stream.feed([token])]
    assert joined(shown, Text) == "So: "
    (call,) = stream.finish()
    assert isinstance(call, ToolCall) and call.name == "f"


def test_text_after_a_call_goes_on_and_the_call_waits_for_the_end(any_renderer):
    stream = any_renderer.stream(thinking=OFF)
    tokens = any_renderer.tokenizer.encode(f"One {CALL} two")
    assert joined(stream.feed(tokens), Text) == "One  two"
    assert [type(piece) for piece in stream.finish()] == [ToolCall]


def test_a_second_end_of_thinking_makes_the_calls_before_it_drafts(any_renderer):
    """A budget of 0 closed the thinking; the model thought on in the open, and closed it once more."""
    text = f"<think>\n</think>\n\nMaybe {CALL}\n</think>\n\nDone.<|im_end|>"
    message = any_renderer.parse(ids(any_renderer.tokenizer.encode(text)))
    assert message.tool_calls == () and not message.failures
    assert CALL in message.reasoning and message.text == "Maybe \n\n\nDone."


@pytest.mark.parametrize("thinking", [None, Thinking()])
def test_where_thinking_was_not_opened_all_waits_until_it_is_known_what_it_was(any_renderer, thinking):
    steps, end = one_by_one(any_renderer, "Hm, well.", thinking)
    assert not any(given for _, given in steps) and end == [Text(text="Hm, well.")]
    steps, end = one_by_one(any_renderer, "Hm.</think>Yes", thinking)
    assert next(piece for _, given in steps for piece in given) == Reasoning(text="Hm.")


def test_a_decoder_that_looks_back_gives_the_same_text(tokenizer):
    """SentencePiece's kind drops the space before a first word: token by token it must not drop every space."""
    words = ["\u2581Hello", "\u2581world", "ly", "\u2581<0xE6>", "<0xE6>", "<0xBC>", "<0xA2>"]
    backend = Backend(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    plain = Tokenizer(backend)
    assert not plain.bytewise and tokenizer.bytewise
    tokens = [0, 1, 2, 1, 4, 5, 6, 1]
    one_by_one, at_once = Detokeniser(plain), Detokeniser(plain)
    pieces = [one_by_one.push([token]) for token in tokens] + [one_by_one.flush()]
    assert "".join(pieces) == at_once.push(tokens) == plain.decode(tokens) == "Hello worldly world漢 world"
