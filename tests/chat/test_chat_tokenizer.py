"""Tokenizers and what a checkpoint's folder says about its chat: read, refused, written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from askesis.chat import CLOSING, SPECIAL, Qwen3Renderer, Tokenizer, load_renderer, save_renderer, train_bpe
from askesis.types import CheckpointError, ConfigError, user


@given(text=st.lists(st.text(max_size=20) | st.sampled_from([*SPECIAL, '{"name": "']), max_size=5).map("".join))
def test_any_text_survives_the_small_bpe(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


_PIECES = st.text(max_size=9) | st.sampled_from([*SPECIAL, "<", "<tool_response", "tool_response>", "</", "\n", " "])
_TEXTS = st.lists(_PIECES, max_size=4).map("".join)


@given(before=_TEXTS, after=_TEXTS, token=st.sampled_from(["<tool_response>", "</tool_response>"]))
def test_what_a_token_parts_is_encoded_as_if_it_stood_alone(tokenizer, before, after, token):
    assert tokenizer.parts_at(token)
    whole = [*tokenizer.encode(before), tokenizer.id(token), *tokenizer.encode(after)]
    assert tokenizer.encode(f"{before}{token}{after}") == whole


@pytest.mark.parametrize(
    "other",
    [
        AddedToken("</tool_response>\n", normalized=False),
        AddedToken("x</tool", normalized=False),
        AddedToken("e></tool_response", normalized=False),
        AddedToken("</tool_response>", lstrip=True, normalized=False),
        AddedToken("</tool_response>", normalized=True, special=False),
    ],
)
def test_a_token_that_others_may_swallow_parts_nothing(tokenizer, other):
    backend = Backend.from_str(tokenizer._backend.to_str())
    backend.add_tokens([other])
    vocabulary = json.loads(backend.to_str())
    for one in vocabulary["added_tokens"]:  # a token that was there already keeps its flags else
        if one["content"] == other.content:
            one |= {"lstrip": other.lstrip, "normalized": other.normalized}
    assert not Tokenizer(Backend.from_str(json.dumps(vocabulary))).parts_at("</tool_response>")


def test_special_tokens_and_scaffolding_are_one_token_each():
    phrases = ['{"name": "', '{"name": "run', "\n\n# Heading", "def "]
    tokenizer = train_bpe(["def f(): pass"] * 9, 300, scaffolding=phrases)
    for phrase in (*SPECIAL, *phrases):
        assert tokenizer.encode(phrase) == [tokenizer.id(phrase)]
    assert sorted({tokenizer.id(t) for t in (*SPECIAL, *phrases)})[-1] == tokenizer.vocab_size - 1
    assert tokenizer.encode('<tool_call>{"name": "run"}')[:2] == [tokenizer.id(t) for t in ("<tool_call>", phrases[1])]


def test_the_same_texts_give_the_same_tokenizer(tmp_path):
    for name in ("a", "b"):
        train_bpe((f"line {i % 7} of {i}\n" for i in range(99)), 320, scaffolding=["line "]).save(tmp_path / name)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_what_cannot_be_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="at least 256"):
        train_bpe(["x"], 255)
    with pytest.raises(ConfigError, match="holds a special token"):
        train_bpe(["x"], 256, scaffolding=["<|im_end|>\n"])
    with pytest.raises(ConfigError, match="keep it ASCII"):
        train_bpe(["x"], 256, scaffolding=["café"])


def test_a_wrong_tokenizer_is_named(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="can be read"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="has no token"):
        tokenizer.id("<nope>")
    Backend(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"lacks <\|endoftext\|>, .*</think>: expected the vocabulary of a Qwen3"):
        load_renderer(tmp_path)
    plain = models.WordLevel({token: index for index, token in enumerate((*SPECIAL, "?"))}, unk_token="?")
    backend = Backend(plain)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(CheckpointError, match="takes them apart"):
        Qwen3Renderer(Tokenizer(backend))


def test_a_vocabulary_bigger_than_the_model_is_refused_where_the_model_says_so(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": tokenizer.vocab_size}))
    load_renderer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": tokenizer.vocab_size - 1}))
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        load_renderer(tmp_path)


def test_a_checkpoint_may_have_a_closing_text_of_its_own(tmp_path, tokenizer):
    save_renderer(Qwen3Renderer(tokenizer, closing="\n</think>\n\n"), tmp_path)
    assert load_renderer(tmp_path).closing == "\n</think>\n\n"
    save_renderer(Qwen3Renderer(tokenizer), tmp_path)  # nothing stale stays behind
    assert load_renderer(tmp_path).closing == CLOSING
    for content, said in [('{"closign": ""}', "did you mean 'closing'"), ("[]", "no JSON object"), ("{", "no JSON")]:
        (tmp_path / "askesis_chat.json").write_text(content)
        with pytest.raises(CheckpointError, match=said):
            load_renderer(tmp_path)


def test_a_template_is_kept(tmp_path, tokenizer, templates):
    """Loaded, then saved elsewhere, in either of the two places where a template may stand."""
    for name in ("qwen3", "qwen3_training"):
        template = (templates / f"{name}.jinja").read_text()
        for file, content in [
            ("chat_template.jinja", template),
            ("tokenizer_config.json", json.dumps({"chat_template": template, "model_max_length": 77})),
        ]:
            home = tmp_path / name / file
            tokenizer.save(home)
            (home / "chat_template.jinja").unlink()
            (home / file).write_text(content)
            save_renderer(load_renderer(home), home / "again")
            assert Tokenizer.load(home / "again").template == template
        assert Tokenizer.load(home / "again").max_length == 77


def test_of_several_templates_the_default_one_counts(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert Tokenizer.load(tmp_path).template == "y"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several[:1]}))
    with pytest.raises(CheckpointError, match="none of them named 'default'"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_would_cut_or_pad_does_neither(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    messages = [user("a question of more than four tokens")]
    assert load_renderer(tmp_path).render(messages).tolist() == Qwen3Renderer(tokenizer).render(messages).tolist()
