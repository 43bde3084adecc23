"""Messages to tokens and back: one renderer a model family, thinking modes, tool calls. No torch."""

from askesis.chat.calls import failure_text
from askesis.chat.effort import (
    EFFORT_FILE,
    EFFORTS,
    EffortPoint,
    EffortTable,
    effort_value,
    load_effort,
    resolve,
    save_effort,
)
from askesis.chat.families import FAMILIES, load_renderer, save_renderer
from askesis.chat.generic import GenericRenderer
from askesis.chat.modes import Recommended, mode_of
from askesis.chat.qwen3 import Qwen3Renderer
from askesis.chat.renderer import CLOSING, ChatRenderer
from askesis.chat.stream import Stream
from askesis.chat.tokenizer import SPECIAL, Tokenizer, train_bpe

__all__ = [
    "CLOSING",
    "EFFORTS",
    "EFFORT_FILE",
    "FAMILIES",
    "SPECIAL",
    "ChatRenderer",
    "EffortPoint",
    "EffortTable",
    "GenericRenderer",
    "Qwen3Renderer",
    "Recommended",
    "Stream",
    "Tokenizer",
    "effort_value",
    "failure_text",
    "load_effort",
    "load_renderer",
    "mode_of",
    "resolve",
    "save_effort",
    "save_renderer",
    "train_bpe",
]
