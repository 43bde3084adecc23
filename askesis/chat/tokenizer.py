"""A tokenizer as a value: a thin door before Hugging Face's `tokenizers`, and a small BPE of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from askesis.types import CheckpointError, ConfigError, TokenIds

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
_AGAIN = 64  # texts whose ids are remembered
_NAMED = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
TEMPLATE = Path(__file__).with_name("qwen3.jinja")
# words, numbers and runs of signs, each with the space before it; what is left is white space
_PIECES = r" ?[A-Za-z_]+| ?\d+| ?[^\sA-Za-z_\d]+|\s"


class Tokenizer:
    """Text to token ids and back. Special tokens in a text are recognised, as chat templates need it."""

    def __init__(
        self,
        backend: Backend,
        *,
        template: str | None = None,
        max_length: int = 131072,
        named: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()  # a tokenizer.json may ask for either; a conversation must stay whole
        backend.no_padding()
        self._backend = backend
        self._texts: dict[int, str] = {}
        self._again: dict[str, tuple[int, ...]] = {}
        self.template = template if template is not None else TEMPLATE.read_text(encoding="utf-8")
        self.max_length = max_length
        self.named = dict(_NAMED if named is None else named)
        """Tokens by their role (`bos_token`, `eos_token`, ...), as chat templates know them."""

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
        settings = _settings(file.parent)
        length = settings.get("model_max_length")
        return cls(
            backend,
            template=_own_template(file.parent, settings),
            max_length=length if isinstance(length, int) else 131072,
            named=_NAMED | _named(settings),
        )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Half of a surrogate pair is no character: it becomes U+FFFD."""
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_again(self, text: str) -> tuple[int, ...]:
        """`encode` for texts that come several times soon after each other, as a group's prompt does."""
        known = self._again.get(text)
        if known is None:
            known = self._again[text] = tuple(self.encode(text))
            if len(self._again) > _AGAIN:
                del self._again[next(iter(self._again))]
        return known

    def decode(self, tokens: Sequence[int] | TokenIds) -> str:
        """The text of `tokens`, special ones included; halves of a character become U+FFFD."""
        known = tokens.tolist() if isinstance(tokens, np.ndarray) else [int(token) for token in tokens]
        return str(self._backend.decode(known, skip_special_tokens=False))

    @cached_property
    def bytewise(self) -> bool:
        """Whether the text of tokens is their bytes, joined."""
        return isinstance(self._backend.decoder, decoders.ByteLevel)

    def text_of(self, token: int) -> str:
        """`decode` of one token, remembered."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self.decode([token])
        return text

    def find(self, token: str) -> int | None:
        """The id of one token; None if the vocabulary lacks it."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def id(self, token: str) -> int:
        """The id of one token. Raises `CheckpointError` if the vocabulary lacks it."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"the tokenizer has no token {token!r}: expected the vocabulary of a Qwen3 model; "
                "is this the tokenizer that belongs to the checkpoint?"
            )
        return int(found)

    def parts_at(self, token: str) -> bool:
        """Whether what stands before `token` and after it is encoded as if it stood alone, wherever `token` is in a
        text: it is taken out first, swallows nothing beside it, and no other such token can begin or end within it."""
        added = {str(one.content): one for one in self._backend.get_added_tokens_decoder().values()}
        own = added.get(token)
        plain = own is not None and not (own.lstrip or own.rstrip or own.single_word or own.normalized)
        return plain and self.bytewise and not any(_meet(token, other) for other in added if other != token)

    def check_special(self) -> None:
        """Raise `CheckpointError` unless each of `SPECIAL` is in the vocabulary and is read from text as one token."""
        missing = [token for token in SPECIAL if self._backend.token_to_id(token) is None]
        if missing:
            raise CheckpointError(
                f"the tokenizer lacks {', '.join(missing)}: expected the vocabulary of a Qwen3 model; "
                "is this the tokenizer that belongs to the checkpoint?"
            )
        split = [token for token in SPECIAL if self.encode(token) != [self.id(token)]]
        if split:
            raise CheckpointError(
                f"the tokenizer has {', '.join(split)} but takes them apart when it reads text: "
                "they must be added tokens in tokenizer.json"
            )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all tokens that the vocabulary calls special."""
        return frozenset(id for id, token in self._backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
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
            **self.named,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.max_length,
            "chat_template": self.template,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        # transformers prefers this file to the setting above: one left from before must not win
        (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8")


def _meet(first: str, second: str) -> bool:
    """Whether a text can hold both in places that overlap."""
    if first in second or second in first:
        return True
    shorter = min(len(first), len(second))
    return any(first[-n:] == second[:n] or second[-n:] == first[:n] for n in range(1, shorter))


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} is no JSON object: got {type(settings).__name__}")
    return settings


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of a tokenizer_config.json, each a text or an object with one."""
    found = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[key] = value
    return found


def _own_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
        if not isinstance(template, str):
            raise CheckpointError(f"{folder}: several chat templates, none of them named 'default'; got {list(named)}")
    return template if isinstance(template, str) else None


def train_bpe(texts: Iterable[str], vocab_size: int, *, scaffolding: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE (arXiv 1508.07909) with Qwen's special tokens: lossless on any text.

    vocab_size: merges and bytes (so at least 256); the special tokens and the scaffolding come on top. scaffolding:
    constant strings (a tool's schema, the opening of a call), each of which becomes one ordinary token. The same
    texts give the same tokenizer. Raises `ConfigError` for a vocabulary too small, and for a phrase that cannot be
    a token: one with a special token in it, or one that a byte-level decoder cannot give back.
    """
    if vocab_size < 256:
        raise ConfigError(f"a byte-level vocabulary needs at least 256 tokens, one a byte: got vocab_size={vocab_size}")
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
    tokenizer = Tokenizer(backend)
    for phrase in phrases:
        if any(token in phrase for token in SPECIAL):
            raise ConfigError(f"scaffolding {phrase!r} holds a special token, which would no longer be seen as one")
        if tokenizer.decode([tokenizer.id(phrase)]) != phrase:
            raise ConfigError(
                f"scaffolding {phrase!r} cannot be one token: a byte-level decoder takes letters of it for bytes; "
                "keep it ASCII"
            )
    return tokenizer
