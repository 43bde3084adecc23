"""A checkpoint's own chat template, run as transformers runs it. It is a program that came with the weights: it runs in
jinja's sandbox, and whatever goes wrong in it is a `TemplateError`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from askesis.types import Message, Reasoning, TemplateError, Thinking, ToolSpec

# marks for loss masks that some trainers put into templates; they write nothing
_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


class ChatTemplate:
    """source: jinja. tokens: what the template may know as `bos_token` and the like.

    Its clock stands still: a conversation that goes on past midnight keeps its beginning.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._tokens = dict(tokens or {})
        now = datetime.now()

        def refuse(message: str) -> str:
            raise TemplateError(f"the chat template refuses: {message}")

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = now.strftime
        try:
            self._template = environment.from_string(_MARKS.sub("", source))
        except Exception as error:
            raise TemplateError(f"the chat template is no jinja that can be read: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> str:
        """What it writes. The mode is given as `enable_thinking`, and as `thinking`, as DeepSeek's templates have it.

        Raises `TemplateError` where the template fails.
        """
        mode = {} if thinking is None else {"enable_thinking": thinking.enabled, "thinking": thinking.enabled}
        try:
            return self._template.render(
                messages=[as_dict(message) for message in messages],
                tools=[tool.as_json() for tool in tools] or None,
                add_generation_prompt=generate,
                **self._tokens,
                **mode,
            )
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(f"the chat template fails: {type(error).__name__}: {error}") from error


def as_dict(message: Message) -> dict[str, Any]:
    """A message as templates take it."""
    out: dict[str, Any] = {"role": message.role, "content": message.text}
    if any(isinstance(part, Reasoning) for part in message.parts):
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
