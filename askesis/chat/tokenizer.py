"""A tokenizer as a value: a thin door before Hugging Face's `tokenizers`, and a small BPE of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from askesis.types import CheckpointError, TokenIds

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
TEMPLATE = Path(__file__).with_name("qwen3.jinja")
# words, numbers and runs of signs, each with the space before it; what is left is white space
_PIECES = r" ?[A-Za-z_]+| ?\d+| ?[^\sA-Za-z_\d]+|\s"


class Tokenizer:
    """Text to token ids and back. Special tokens in a text are recognised, as chat templates need it."""

    def __init__(self, backend: Backend, *, template: str | None = None) -> None:
        self._backend = backend
        self.template = template if template is not None else TEMPLATE.read_text()

    @classmethod
    def load(cls, place: str | Path) -> Tokenizer:
        """From a checkpoint's folder or a tokenizer.json. Raises `CheckpointError`; the folder's template is kept."""
        place = Path(place)
        file = place / "tokenizer.json" if place.is_dir() else place
        if not file.is_file():
            raise CheckpointError(f"no tokenizer at {place}: expected {file.name} in the checkpoint's folder")
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the library raises a bare Exception
            raise CheckpointError(f"{file} is no tokenizer that can be read: {error}") from error
        return cls(backend, template=_own_template(file.parent))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int] | TokenIds) -> str:
        """The text of `tokens`, special ones included; halves of a character become U+FFFD."""
        return str(self._backend.decode([int(token) for token in tokens], skip_special_tokens=False))

    def id(self, token: str) -> int:
        """The id of one token. Raises `CheckpointError` if the vocabulary lacks it."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"the tokenizer has no token {token!r}: expected the vocabulary of a Qwen3 model; "
                "is this the tokenizer that belongs to the checkpoint?"
            )
        return int(found)

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to one below this."""
        return int(max(self._backend.get_vocab(with_added_tokens=True).values())) + 1

    def check_fits(self, embeddings: int, where: str) -> None:
        """Raise `CheckpointError` unless a model with that many embeddings can read every id."""
        if self.vocab_size > embeddings:
            raise CheckpointError(
                f"{where}: the tokenizer has ids up to {self.vocab_size - 1}, but the model embeds only {embeddings}: "
                "the tokenizer belongs to another checkpoint"
            )

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, its configuration and the chat template, as `AutoTokenizer` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 131072,
            "chat_template": self.template,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _own_template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    try:
        template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    except (OSError, ValueError):
        return None
    return template if isinstance(template, str) else None


def train_bpe(texts: Iterable[str], vocab_size: int, *, scaffolding: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE (arXiv 1508.07909) with Qwen's special tokens: lossless on any text.

    vocab_size: merges and bytes; the special tokens and the scaffolding come on top. scaffolding: constant strings
    (a tool's schema, the opening of a call), each of which becomes one ordinary token.
    """
    phrases = sorted({phrase for phrase in scaffolding if phrase}, key=lambda p: (-len(p), p))
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    fixed = re.compile("|".join(re.escape(phrase) for phrase in (*SPECIAL, *phrases)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator((piece for text in texts for piece in fixed.split(text) if piece), trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in phrases])
    return Tokenizer(backend)
