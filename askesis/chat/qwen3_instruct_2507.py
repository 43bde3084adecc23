"""Qwen3-2507 Instruct: Qwen3's format without thinking. Its template knows no think blocks and no switch."""

from __future__ import annotations

from askesis.chat.qwen3 import Qwen3Renderer
from askesis.types import Message


class Qwen3Instruct2507Renderer(Qwen3Renderer):
    """`types.Renderer` for Qwen3-...-Instruct-2507: reasoning of other models in a history is left out."""

    name = "qwen3-instruct-2507"
    modes = (False,)
    switches = False
    shut = ""

    def _thought_and_content(self, message: Message) -> tuple[str, str]:
        return message.reasoning, message.text

    def _assistant(self, message: Message, *, after_query: bool, last: bool) -> str:
        return message.text + self._calls_after(message, message.text)
