"""From a checkpoint's folder to its renderer."""

from __future__ import annotations

import json
from pathlib import Path

from askesis.chat.qwen3 import CLOSING, Qwen3Renderer
from askesis.chat.tokenizer import Tokenizer
from askesis.types import CheckpointError

SETTINGS = "askesis_chat.json"


def load_renderer(folder: str | Path) -> Qwen3Renderer:
    """The renderer of a checkpoint. `askesis_chat.json` beside the tokenizer may set `closing`."""
    path = Path(folder) / SETTINGS
    closing = CLOSING
    if path.is_file():
        try:
            closing = json.loads(path.read_text()).get("closing", CLOSING)
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is no JSON object: {error}") from error
    return Qwen3Renderer(Tokenizer.load(folder), closing=closing)


def save_renderer(renderer: Qwen3Renderer, folder: str | Path) -> None:
    """Write the tokenizer, and the closing text if it is not the official one."""
    renderer.tokenizer.save(folder)
    if renderer.closing != CLOSING:
        (Path(folder) / SETTINGS).write_text(json.dumps({"closing": renderer.closing}, indent=2) + "\n")
