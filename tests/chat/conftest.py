"""Tokenizers small enough to train here, and the official template that TRL's wheel carries."""

import importlib.util
import json
from pathlib import Path

import pytest
from conversations import FAMILIES
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from askesis.chat import SPECIAL, Qwen3Renderer, Tokenizer, train_bpe

TEXTS = [
    "def add(a, b):\n    return a + b\n\n\n",
    "Let me think about 12 things.\n\nThen I call the tool: {}\n",
    "üñï 漢字 🙂",
]


@pytest.fixture(scope="session")
def templates() -> Path:
    spec = importlib.util.find_spec("trl")  # found, not imported: its import is heavy
    assert spec is not None and spec.origin is not None, "trl is a test dependency: pip install -e '.[dev]'"
    return Path(spec.origin).parent / "chat_templates"


@pytest.fixture(scope="session")
def compiled():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # as transformers has it
    return environment.from_string


@pytest.fixture(scope="session")
def official(templates, compiled):
    return compiled((templates / "qwen3.jinja").read_text())


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS * 3, 400, scaffolding=['\n{"name": "', '", "arguments": '])


def qwen_like() -> Tokenizer:
    """A small vocabulary that cuts text into pieces as Qwen3's own does: signs swallow the line breaks after them."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    pieces = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return Tokenizer(backend)


@pytest.fixture(scope="session")
def renderer(tokenizer) -> Qwen3Renderer:
    return Qwen3Renderer(tokenizer)


@pytest.fixture(scope="session", params=["ours", "qwen-like"])
def any_renderer(request, tokenizer) -> Qwen3Renderer:
    """Renderers over vocabularies that cut text differently: what holds at the seams must hold for both."""
    return Qwen3Renderer(tokenizer if request.param == "ours" else qwen_like())


@pytest.fixture(scope="session", params=["ours", "qwen-like", "qwen3-instruct-2507", "qwen3.5", "qwen3.6"])
def any_family(request, tokenizer):
    if request.param in FAMILIES:
        return FAMILIES[request.param].renderer(tokenizer)
    return Qwen3Renderer(tokenizer if request.param == "ours" else qwen_like())
