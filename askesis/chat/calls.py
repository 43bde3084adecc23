"""Tool calls as Qwen3 writes them: JSON between `<tool_call>` tags (the Hermes convention).

A model may write anything, so nothing here raises: what cannot be read becomes a `ParseFailure`.
"""

from __future__ import annotations

import json
from typing import Any

from askesis.types import ParseFailure, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_SHAPE = '{"name": <function-name>, "arguments": <args-json-object>}'


def parse_calls(text: str) -> tuple[str, tuple[ToolCall, ...], tuple[ParseFailure, ...]]:
    """(the text around the calls, calls that can run, calls that cannot be read), each in order."""
    said: list[str] = []
    calls: list[ToolCall] = []
    failures: list[ParseFailure] = []
    at = 0
    while (start := text.find(OPEN, at)) >= 0:
        said.append(text[at:start])
        body = start + len(OPEN)
        end = _body_end(text, body)
        if end is None:  # up to the next call, or to the end, nothing closes this one
            following = text.find(OPEN, body)
            at = len(text) if following < 0 else following
            failures.append(ParseFailure(kind="unterminated", detail="", raw=text[body:at]))
            continue
        read = read_call(text[body:end], f"call_{len(calls)}")
        if isinstance(read, ToolCall):
            calls.append(read)
        else:
            failures.append(read)
        at = end + len(CLOSE)
    said.append(text[at:])
    return "".join(said).strip("\n"), tuple(calls), tuple(failures)


def read_call(raw: str, call_id: str) -> ToolCall | ParseFailure:
    """What stands between the tags, read. Arguments that are a JSON object encoded once more are decoded."""
    try:
        content = _loads(raw)
        if not isinstance(content, dict):
            return ParseFailure(kind="shape", detail="this is no JSON object", raw=raw)
        if not isinstance(content.get("name"), str) or not content["name"]:
            return ParseFailure(kind="shape", detail="there is no name", raw=raw)
    except (ValueError, RecursionError) as error:
        return ParseFailure(kind="malformed", detail=str(error), raw=raw)
    arguments = content.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = _loads(arguments)
        except (ValueError, RecursionError):
            return ParseFailure(kind="shape", detail="the arguments are a string, not an object", raw=raw)
    if not isinstance(arguments, dict):
        return ParseFailure(kind="shape", detail="the arguments are no object", raw=raw)
    return ToolCall(id=call_id, name=content["name"], arguments=arguments, raw=raw)


def json_end(text: str, start: int) -> int | None:
    """Where the closing tag stands if a whole JSON value and then `</tool_call>` follow `start`; None if not.

    This is how tags inside a JSON string are told from real ones.
    """
    try:
        _, stop = json.JSONDecoder().raw_decode(text, _skip_space(text, start))
    except (ValueError, RecursionError):
        return None
    stop = _skip_space(text, stop)
    return stop if text.startswith(CLOSE, stop) else None


def failure_text(failure: ParseFailure) -> str:
    """What the agent reads in place of a result."""
    hint = {
        "unterminated": f"the call was never closed with {CLOSE}",
        "malformed": "the call is not valid JSON",
        "shape": f"a call must be {_SHAPE}",
    }[failure.kind]
    return f"error: {hint}: {failure.detail}" if failure.detail else f"error: {hint}"


def _body_end(text: str, start: int) -> int | None:
    end = json_end(text, start)
    if end is not None:
        return end
    end, following = text.find(CLOSE, start), text.find(OPEN, start)
    return end if end >= 0 and not 0 <= following < end else None


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _loads(text: str) -> Any:
    """JSON that can also be written again: no NaN, no infinity (1e999), no half of a surrogate pair."""
    value = json.loads(text)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a string holds half of a surrogate pair, which is no text") from error
    return value
