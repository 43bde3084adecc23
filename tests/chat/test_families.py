"""Which renderer a checkpoint gets: by what its template writes, and by nothing else."""

import json

import pytest
from conversations import FAMILIES, compiled, official_text
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from askesis.chat import load_renderer, save_renderer
from askesis.types import CheckpointError, Thinking, assistant, ids, system, user

TEMPLATES = {
    "qwen3": "qwen3",
    "qwen3_instruct_2507": "qwen3-instruct-2507",
    "qwen3_5_think": "qwen3.5",
    "qwen3_5_nothink": "qwen3.5-small",
    "qwen3_6": "qwen3.6",
    "qwen3_8": "qwen3.8",
    "qwen3_training": "generic",  # it keeps thinking that Qwen3's own drops
    "qwen2_5": "generic",
    "nemotron_3_nano": "generic",
    "llama3_1": "generic",
    "gemma3": "generic",
}
OTHERS = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<end_of_turn>", "<start_of_turn>"]


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """Writes a checkpoint's folder with a template, and the special tokens of some other families."""

    def write(template, *, settings=None, generation=None):
        tokenizer.save(tmp_path)
        backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in OTHERS])
        backend.save(str(tmp_path / "tokenizer.json"))
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps(config | {"bos_token": {"content": "<|endoftext|>"}})
        )
        (tmp_path / "chat_template.jinja").write_text(template)
        for name, content in (("askesis_chat.json", settings), ("generation_config.json", generation)):
            if content is not None:
                (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_family_is_found_by_what_the_template_writes(checkpoint, templates, template):
    folder = checkpoint((templates / f"{template}.jinja").read_text())
    renderer = load_renderer(folder)
    assert renderer.name == TEMPLATES[template]
    save_renderer(renderer, folder / "again")
    again = load_renderer(folder / "again")
    assert (again.name, again.stop_ids[0], again.calls and again.calls.name) == (
        renderer.name,
        renderer.stop_ids[0],
        renderer.calls and renderer.calls.name,
    )


def test_thinking_2507_is_found_by_the_template_that_public_copies_have(checkpoint, templates):
    family = FAMILIES["qwen3-thinking-2507 (unverified)"]
    renderer = load_renderer(checkpoint(family.source(templates)))
    assert renderer.name == "qwen3-thinking-2507" and renderer.modes == (True,)


def test_preserve_thinking_is_a_setting_of_the_families_that_have_it(checkpoint, templates):
    spoken = [user("1"), assistant("2", reasoning="R"), user("3")]
    settings = {"preserve_thinking": True, "closing": "</think>"}
    folder = checkpoint((templates / "qwen3_6.jinja").read_text(), settings=settings)
    renderer = load_renderer(folder)
    assert "R" in renderer.render_text(spoken)
    save_renderer(renderer, folder)
    assert json.loads((folder / "askesis_chat.json").read_text()) == settings
    folder = checkpoint((templates / "qwen3_5_think.jinja").read_text(), settings=settings)
    with pytest.raises(CheckpointError, match=r"qwen3\.5 has no preserve_thinking"):
        load_renderer(folder)


WRONG = {
    "no jinja": ("{% if %}", {}, "no jinja that can be read"),
    "it fails": ("{{ messages.nothing.at_all }}", {}, r"known family \(qwen3, .*cannot use it: .*UndefinedError"),
    "no end of a turn": ("{% for m in messages %}{{ m.content }}\n{% endfor %}", {}, None),
    "a prompt that changes": ("{{ 'a' if add_generation_prompt else 'b' }}", {}, "changes what stands before it"),
    "an unknown key": ("{{ 1 }}", {"closign": "x"}, "did you mean 'closing'"),
    "calls of no kind": ("{{ 1 }}", {"calls": "yaml"}, "expected json, xml or none"),
    "a stop that is no token": ("{{ 1 }}", {"stops": ["<nope>"]}, "has no token '<nope>'"),
    "stops that are no list": ("{{ 1 }}", {"stops": "<|im_end|>"}, "stops must be a list of texts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_said(checkpoint, case):
    template, settings, said = WRONG[case]
    folder = checkpoint(template, settings=settings)
    if said is None:  # the tokenizer's own end of text stands in
        renderer = load_renderer(folder)
        assert renderer.decode(ids(renderer.stop_ids)) == "<|im_end|>"
        return
    with pytest.raises(CheckpointError, match=said):
        load_renderer(folder)


def test_the_generic_renderer_writes_what_the_template_writes(checkpoint, templates):
    for name in ("llama3_1", "qwen2_5", "gemma3"):
        source = (templates / f"{name}.jinja").read_text()
        renderer = load_renderer(checkpoint(source))
        spoken = [system("S"), user("U"), assistant("A"), user("V")]
        want = official_text(compiled(source), spoken, (), None, True, bos_token="<|endoftext|>")
        assert renderer.render_text(spoken, thinking=Thinking(enabled=False)) == want


def test_a_checkpoint_brings_its_own_sampling(checkpoint, templates):
    generation = {"temperature": 0.3, "top_p": 0.5, "eos_token_id": [1, 2]}
    renderer = load_renderer(checkpoint((templates / "qwen2_5.jinja").read_text(), generation=generation))
    sampling = renderer.sampling()
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.3, 0.5, 0)
    assert set(sampling.stop) >= {1, 2, renderer.tokenizer.id("<|im_end|>")}


def test_sampling_is_that_of_the_mode_with_its_stops_and_its_budget(tokenizer):
    for name, family in FAMILIES.items():
        renderer = family.renderer(tokenizer)
        for enabled in renderer.modes:
            sampling = renderer.sampling(Thinking(enabled=enabled, budget=7))
            want = (0.6, 0.95, 20, 0.0) if enabled else (0.7, 0.8, 20, 0.0)
            assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == want, name
            assert sampling.stop == renderer.stop_ids and (sampling.thinking is not None) == enabled
            if sampling.thinking is not None:  # a prompt that opens the thinking counts from there
                opened = renderer.render_text([user("U")], thinking=Thinking()).endswith("<think>\n")
                assert sampling.thinking.open == opened
        assert renderer.sampling() == renderer.sampling(Thinking(enabled=renderer.modes[0]))


def test_switches_count_where_the_models_know_them(tokenizer):
    said = [user("So /no_think")]
    for name, family in FAMILIES.items():
        assert family.renderer(tokenizer).mode_of(said, Thinking()).enabled == (name != "qwen3"), name
