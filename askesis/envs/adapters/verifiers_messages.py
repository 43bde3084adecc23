"""Messages of verifiers as ours, and ours as theirs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from askesis.types import EnvError, Message, ToolCall, assistant, system, tool_result, user


def ours(messages: Any) -> list[Message]:
    """A prompt: a text, or messages as dictionaries or as their models. Raises `EnvError` for what is no text."""
    if isinstance(messages, str):
        return [user(messages)]
    return [_one(message) for message in messages]


def _one(message: Any) -> Message:
    role, text = _of(message, "role"), _text(_of(message, "content"))
    if role == "system":
        return system(text)
    if role == "tool":
        return tool_result(text, tool_call_id=_of(message, "tool_call_id"))
    if role == "assistant":
        calls = tuple(_call(call) for call in _of(message, "tool_calls") or ())
        return assistant(text, reasoning=_of(message, "reasoning_content") or "", tool_calls=calls)
    if role in ("user", "text"):
        return user(text)
    raise EnvError(f"verifiers: a message with the role {role!r}; expected system, user, assistant or tool")


def _of(message: Any, key: str) -> Any:
    return message.get(key) if isinstance(message, Mapping) else getattr(message, key, None)


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        if _of(part, "type") != "text":
            raise EnvError(f"verifiers: a message holds {_of(part, 'type')}; only text is understood here")
        parts.append(str(_of(part, "text")))
    return "\n".join(parts)


def _call(call: Any) -> ToolCall:
    function = _of(call, "function") or call
    arguments = _of(function, "arguments")
    found = json.loads(arguments) if isinstance(arguments, str) else arguments
    return ToolCall(id=str(_of(call, "id") or "call_0"), name=str(_of(function, "name")), arguments=found or {})


def theirs(message: Message, calls: Sequence[ToolCall]) -> Any:
    """A turn of the policy as the response of a model of verifiers before 0.4, with only these of its calls."""
    from verifiers.types import Response, ResponseMessage
    from verifiers.types import ToolCall as Call

    made = [Call(id=call.id, name=call.name, arguments=json.dumps(dict(call.arguments))) for call in calls]
    said = ResponseMessage(
        content=message.text,
        reasoning_content=message.reasoning or None,
        tool_calls=made or None,
        finish_reason="tool_calls" if made else "stop",
        is_truncated=False,
    )
    return Response(id="0", created=int(time.time()), model="policy", message=said)


def node_message(message: Message) -> Any:
    """One of ours as a message of `verifiers.v1`."""
    from verifiers.v1.types import AssistantMessage, SystemMessage, ToolMessage, UserMessage
    from verifiers.v1.types import ToolCall as Call

    if message.role == "system":
        return SystemMessage(content=message.text)
    if message.role == "user":
        return UserMessage(content=message.text)
    if message.role == "tool":
        return ToolMessage(tool_call_id=message.tool_call_id or "", content=message.text)
    calls = [Call(id=one.id, name=one.name, arguments=json.dumps(dict(one.arguments))) for one in message.tool_calls]
    return AssistantMessage(content=message.text, reasoning_content=message.reasoning or None, tool_calls=calls or None)
