"""Messages to tokens and back: one renderer a model family, thinking modes, tool calls. No torch."""

from askesis.chat.calls import failure_text
from askesis.chat.families import load_renderer, save_renderer
from askesis.chat.qwen3 import CLOSING, Qwen3Renderer, mode_of
from askesis.chat.tokenizer import SPECIAL, Tokenizer, train_bpe

__all__ = [
    "CLOSING",
    "SPECIAL",
    "Qwen3Renderer",
    "Tokenizer",
    "failure_text",
    "load_renderer",
    "mode_of",
    "save_renderer",
    "train_bpe",
]
