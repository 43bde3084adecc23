"""From a checkpoint's folder to its renderer, and back.

The family is found by what the checkpoint's own chat template writes, not by names: it is held against every family's
text on a set of conversations, in every mode. A template that is none of them is run as it is (`GenericRenderer`).

Beside the tokenizer a checkpoint may have `askesis_chat.json`, an object with these fields, each of which may be left
out:

    {"closing": "\\n</think>\\n\\n", "preserve_thinking": true, "calls": "json", "stops": ["<|end|>"]}

closing: the text that ends thinking when its budget is used up. The official one is a sentence of some thirty tokens;
a small model with a short context wants a shorter one, and must have been trained on it. preserve_thinking: for the
families whose template has that switch (Qwen3.6, Qwen3.8). calls, stops: for the generic renderer, see there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from askesis.chat.chatml import ChatMLRenderer
from askesis.chat.generic import GenericRenderer
from askesis.chat.modes import Recommended
from askesis.chat.qwen3 import Qwen3Renderer
from askesis.chat.qwen3_5 import Qwen35Renderer, Qwen35SmallRenderer, Qwen36Renderer, Qwen38Renderer
from askesis.chat.qwen3_instruct_2507 import Qwen3Instruct2507Renderer
from askesis.chat.qwen3_thinking_2507 import Qwen3Thinking2507Renderer
from askesis.chat.renderer import CLOSING, ChatRenderer
from askesis.chat.template import ChatTemplate
from askesis.chat.tokenizer import SPECIAL, TEMPLATE, Tokenizer
from askesis.types import (
    CheckpointError,
    Message,
    TemplateError,
    Thinking,
    ToolCall,
    ToolSpec,
    assistant,
    nearest,
    system,
    tool_result,
    user,
)

SETTINGS = "askesis_chat.json"
_KEYS: dict[str, type] = {"closing": str, "preserve_thinking": bool, "calls": str, "stops": list}
FAMILIES: tuple[type[ChatMLRenderer], ...] = (
    Qwen3Renderer,
    Qwen3Instruct2507Renderer,
    Qwen3Thinking2507Renderer,
    Qwen35Renderer,
    Qwen35SmallRenderer,
    Qwen36Renderer,
    Qwen38Renderer,
)


def load_renderer(folder: str | Path) -> ChatRenderer:
    """The renderer of a checkpoint: of its family (`name` says which), or the generic one on its own template.

    Raises `CheckpointError` where the tokenizer is missing, has more ids than the model beside it embeds, or where the
    template is of no known family and cannot be run or made out either.
    """
    folder = Path(folder)
    tokenizer = Tokenizer.load(folder)
    embeddings = _read(folder / "config.json").get("vocab_size")
    if isinstance(embeddings, int):
        tokenizer.check_fits(embeddings, str(folder))
    settings = _settings(folder)
    family = _family(tokenizer, folder)
    if family is None:
        return _generic(tokenizer, folder, settings)
    for key in ("calls", "stops"):
        if key in settings:
            raise CheckpointError(f"{folder / SETTINGS}: {key} is for the generic renderer, but this is {family.name}")
    options: dict[str, Any] = {"closing": settings.get("closing", CLOSING)}
    if "preserve_thinking" in settings:
        if not issubclass(family, Qwen36Renderer):
            raise CheckpointError(f"{folder / SETTINGS}: {family.name} has no preserve_thinking; leave it out")
        options["preserve_thinking"] = settings["preserve_thinking"]
    return family(tokenizer, **options)


def save_renderer(renderer: ChatRenderer, folder: str | Path) -> None:
    """Write the tokenizer with its template, and the settings that are not those of the family."""
    renderer.tokenizer.save(folder)
    settings: dict[str, Any] = {}
    if renderer.closing != CLOSING:
        settings["closing"] = renderer.closing
    if isinstance(renderer, Qwen36Renderer) and renderer.preserve_thinking != type(renderer).preserve_thinking:
        settings["preserve_thinking"] = renderer.preserve_thinking
    if isinstance(renderer, GenericRenderer):
        settings["calls"] = "none" if renderer.calls is None else renderer.calls.name
        settings["stops"] = [renderer.tokenizer.decode([token]) for token in renderer.stop_ids]
    file = Path(folder) / SETTINGS
    if settings:
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


# -- which family ----------------------------------------------------------------------------------------------------

_CALL = ToolCall(id="call_0", name="look", arguments={"where": "here\nthere", "deep": True})
_TOOL = ToolSpec(name="look", description="Look.", parameters={"type": "object", "properties": {}})
_PAST = [
    system("S"),
    user("U"),
    assistant("A", reasoning="R", tool_calls=(_CALL,)),
    tool_result("T"),
    tool_result("T"),
    assistant("B", reasoning="R"),
]
_PROBES: tuple[tuple[Sequence[Message], tuple[ToolSpec, ...]], ...] = (
    ([user("U")], ()),
    ([system("S"), user("U")], ()),
    ([system("S"), user("U")], (_TOOL,)),
    ([user("U"), assistant(" A")], ()),
    (_PAST, (_TOOL,)),
    ([*_PAST, user("V")], (_TOOL,)),
    ([*_PAST, user("V"), assistant(tool_calls=(_CALL, _CALL)), tool_result("T ")], (_TOOL,)),
)


def _family(tokenizer: Tokenizer, folder: Path) -> type[ChatMLRenderer] | None:
    """The one whose texts the template writes; None if it is none of them."""
    own = tokenizer.template != TEMPLATE.read_text(encoding="utf-8")
    if not own or all(tokenizer.find(token) is not None for token in SPECIAL):
        tokenizer.check_special()
    else:
        return None
    if not own:  # also where the checkpoint has no template: the vocabulary is Qwen's
        return Qwen3Renderer
    try:
        template = ChatTemplate(tokenizer.template, tokenizer.named)
    except TemplateError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    theirs = list(_written(template))
    return next((family for family in FAMILIES if _agrees(family(tokenizer), theirs)), None)


_Written = tuple[Sequence[Message], tuple[ToolSpec, ...], bool | None, bool, str | None]


def _written(template: ChatTemplate) -> Iterator[_Written]:
    """What a template makes of the probes: (messages, tools, mode, generate, its text, or None where it refuses)."""
    for messages, tools in _PROBES:
        for mode in (None, True, False):
            for generate in (True, False):
                thinking = None if mode is None else Thinking(enabled=mode)
                try:
                    text = template.render(messages, tools=tools, thinking=thinking, generate=generate)
                except TemplateError:
                    text = None
                yield messages, tools, mode, generate, text


def _agrees(renderer: ChatMLRenderer, theirs: Sequence[_Written]) -> bool:
    for messages, tools, mode, generate, text in theirs:
        if mode is not None and mode not in renderer.modes:
            mode = renderer.default  # a template without the switch overhears it
        thinking = None if mode is None else Thinking(enabled=mode)
        try:
            ours = renderer.render_text(messages, tools=tools, thinking=thinking, generate=generate)
        except TemplateError:
            ours = None
        if ours != text:
            return False
    return True


def _generic(tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any]) -> GenericRenderer:
    if "preserve_thinking" in settings:
        raise CheckpointError(f"{folder / SETTINGS}: the generic renderer has no preserve_thinking; leave it out")
    if settings.get("calls", "none") not in ("json", "xml", "none"):
        raise CheckpointError(f"{folder / SETTINGS}: calls is {settings['calls']!r}, expected json, xml or none")
    generation = _read(folder / "generation_config.json")
    ends = generation.get("eos_token_id", [])
    stops = [one for one in (ends if isinstance(ends, list) else [ends]) if isinstance(one, int)]
    stops += [tokenizer.id(token) for token in settings.get("stops", [])]
    if (end := tokenizer.find(tokenizer.named["eos_token"])) is not None:
        stops.append(end)
    try:
        return GenericRenderer(
            tokenizer,
            ChatTemplate(tokenizer.template, tokenizer.named),
            closing=settings.get("closing", CLOSING),
            calls=settings.get("calls"),
            stops=stops,
            recommended=_recommended(generation),
        )
    except (TemplateError, CheckpointError) as error:
        raise CheckpointError(
            f"{folder}: its chat template is of no known family ({', '.join(one.name for one in FAMILIES)}), and "
            f"the generic renderer cannot use it: {error}"
        ) from error


def _recommended(generation: Mapping[str, Any]) -> Recommended | None:
    """The checkpoint's own sampling, if it has any."""
    names = ("temperature", "top_p", "top_k", "min_p")
    found = {name: generation[name] for name in names if isinstance(generation.get(name), int | float)}
    if not found:
        return None
    return Recommended(**{"temperature": 1.0, "top_p": 1.0, "top_k": 0} | found)


# -- files -----------------------------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict[str, Any]:
    settings = _read(folder / SETTINGS)
    for key, value in settings.items():
        if key not in _KEYS:
            raise CheckpointError(f"{folder / SETTINGS}: unknown key {key!r}{nearest(key, _KEYS)}")
        if not isinstance(value, _KEYS[key]) or (
            isinstance(value, list) and not all(isinstance(one, str) for one in value)
        ):
            kind = {"closing": "text", "calls": "text", "stops": "a list of texts"}.get(key, "true or false")
            raise CheckpointError(f"{folder / SETTINGS}: {key} must be {kind}, got {value!r}")
    return settings


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
