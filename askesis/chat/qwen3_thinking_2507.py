"""Qwen3-2507 Thinking: Qwen3's format, and the prompt itself opens the thinking.

UNVERIFIED: no official text of its template comes with the tests. What is here is Qwen3's template with
`<|im_start|>assistant\\n<think>\\n` as its generation prompt, which is what public copies of the template have.
`load_renderer` holds a checkpoint's own template against it and takes the generic renderer where they differ.
"""

from __future__ import annotations

from askesis.chat.qwen3 import Qwen3Renderer


class Qwen3Thinking2507Renderer(Qwen3Renderer):
    """`types.Renderer` for Qwen3-...-Thinking-2507, which always thinks."""

    name = "qwen3-thinking-2507"
    modes = (True,)
    switches = False
    opens = True
