"""From a checkpoint's folder to its renderer, and back.

Beside the tokenizer a checkpoint may have `askesis_chat.json`, an object with one field:

    {"closing": "\\n</think>\\n\\n"}

`closing` is the text that ends thinking when its budget is used up. The official one is a sentence of some thirty
tokens; a small model with a short context wants a shorter one, and must have been trained on it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from askesis.chat.qwen3 import Qwen3Renderer
from askesis.chat.renderer import CLOSING
from askesis.chat.tokenizer import TEMPLATE, Tokenizer
from askesis.types import CheckpointError, Thinking, ToolSpec, nearest, system, user

SETTINGS = "askesis_chat.json"
# marks for loss masks that some trainers put into templates; they write nothing
_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def load_renderer(folder: str | Path) -> Qwen3Renderer:
    """The renderer of a checkpoint.

    Raises `CheckpointError` where the tokenizer is missing, lacks Qwen3's tokens or has more ids than the model
    beside it embeds, and where the checkpoint's own chat template is of another family: its model was trained on
    prompts that this renderer would not write.
    """
    folder = Path(folder)
    tokenizer = Tokenizer.load(folder)
    embeddings = _read(folder / "config.json").get("vocab_size")
    if isinstance(embeddings, int):
        tokenizer.check_fits(embeddings, str(folder))
    settings = _read(folder / SETTINGS)
    for key in settings:
        if key != "closing":
            raise CheckpointError(f"{folder / SETTINGS}: unknown key {key!r}{nearest(key, ['closing'])}")
    closing = settings.get("closing", CLOSING)
    if not isinstance(closing, str):
        raise CheckpointError(f"{folder / SETTINGS}: closing must be text, got {closing!r}")
    renderer = Qwen3Renderer(tokenizer, closing=closing)
    _check_template(renderer, folder)
    return renderer


def save_renderer(renderer: Qwen3Renderer, folder: str | Path) -> None:
    """Write the tokenizer, and the closing text if it is not the official one."""
    renderer.tokenizer.save(folder)
    settings = Path(folder) / SETTINGS
    if renderer.closing != CLOSING:
        settings.write_text(json.dumps({"closing": renderer.closing}, indent=2) + "\n", encoding="utf-8")
    else:
        settings.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no JSON object: got {type(content).__name__}")
    return content


def _check_template(renderer: Qwen3Renderer, folder: Path) -> None:
    """Hold a template that came with the checkpoint against ours, on a first prompt in both modes."""
    template = renderer.tokenizer.template
    if template == TEMPLATE.read_text(encoding="utf-8"):
        return
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    tool = ToolSpec(name="look", description="Look.", parameters={"type": "object", "properties": {}})
    for tools in ((), (tool,)):
        for enabled in (True, False):
            ours = renderer.render_text([system("S"), user("U")], tools=tools, thinking=Thinking(enabled=enabled))
            try:
                theirs = environment.from_string(_MARKS.sub("", template)).render(
                    messages=[{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
                    tools=[tool.as_json() for tool in tools] or None,
                    enable_thinking=enabled,
                    add_generation_prompt=True,
                )
            except Exception as error:  # a template is a program that came with the checkpoint
                raise CheckpointError(f"{folder}: its chat template cannot be rendered: {error}") from error
            if theirs != ours:
                raise CheckpointError(
                    f"{folder}: its chat template is not that of Qwen3 (hybrid thinking), the one family that can be "
                    f"rendered; with enable_thinking={enabled} it ends in {theirs[-60:]!r}, expected {ours[-60:]!r}"
                )
