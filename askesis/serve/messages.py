"""Anthropic Messages."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from askesis.serve.asked import (
    Asked,
    Budget,
    Count,
    History,
    JsonObject,
    Metadata,
    MinP,
    Seed,
    Stops,
    Strict,
    Temperature,
    ToolName,
    TopK,
    TopP,
    arguments_text,
    read,
    strict_names,
    supports,
    tool_specs,
)
from askesis.serve.faults import Fault, invalid
from askesis.serve.reply import Reply
from askesis.serve.settings import Served
from askesis.serve.wire import event
from askesis.types import Message, Reasoning, Thinking, ToolCall, assistant, system, tool_result, user

CacheControl = Annotated[JsonObject | None, Field(description="accepted, and not used")]


class TextBlock(Strict):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl = None
    citations: Annotated[Any, supports(None, [], why="citations cannot be served")] = None


class ThinkingBlock(Strict):
    """What the assistant thought; it may be left out."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Strict):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject
    cache_control: CacheControl = None
    caller: Any = None


class ToolResultBlock(Strict):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = None


class Turn(Strict):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: (
        str | list[Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]]
    )


class Tool(Strict):
    """A tool as the model sees it. strict: a call that does not fit the schema is told as text."""

    name: ToolName
    input_schema: JsonObject
    type: Annotated[str | None, supports(None, "custom", why="only tools of the client can be served")] = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl = None
    input_examples: Annotated[Any, supports(None, [], why="examples cannot be served: put them in the description")] = (
        None
    )


class ToolChoice(Strict):
    """Whether the model may call."""

    type: Annotated[
        str, supports("auto", "none", why="only 'auto' and 'none' can be served: the model cannot be made to call")
    ]
    name: str | None = None
    disable_parallel_tool_use: Annotated[bool | None, supports(None, False, why="calls cannot be limited to one")] = (
        None
    )


class ThinkingOptions(Strict):
    """Whether to think, and how much. adaptive: as much as the model likes, or as `output_config.effort` says."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Budget | None = None
    display: Annotated[
        str | None, supports(None, "summarized", why="what is thought is given whole, and cannot be left out")
    ] = None


class OutputConfig(Strict):
    """How much to think, on a scale."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Annotated[Any, supports(None, why="output is not constrained")] = None


class CountRequest(Strict):
    """The body of `POST /v1/messages/count_tokens`."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[Tool], Field(max_length=256)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl = None


class MessagesRequest(CountRequest):
    """The body of `POST /v1/messages`."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Stops | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    # known, and served only where they change nothing
    container: Annotated[Any, supports(None, why="containers cannot be served")] = None
    mcp_servers: Annotated[Any, supports(None, [], why="the client has to call MCP servers itself")] = None
    context_management: Annotated[Any, supports(None, why="the conversation is never shortened")] = None
    # accepted, and without meaning here
    metadata: Metadata = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    diagnostics: JsonObject | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class Messages:
    """The protocol; see `wire.Wire`."""

    schema: type[BaseModel] = MessagesRequest

    def read(self, body: bytes, served: Served) -> Asked:
        """The request in Askesis' terms. Without `thinking` the model does not think, as in this protocol."""
        given = read(MessagesRequest, body)
        budget = given.thinking.budget_tokens if given.thinking else None
        if budget is not None and budget >= given.max_tokens:
            raise invalid(
                f"max_tokens must be greater than thinking.budget_tokens, got {given.max_tokens} and {budget}",
                param="max_tokens",
            )
        messages, thinking = _messages(given), _thinking(given, served)
        tools, offered = _tools(given)
        return Asked(
            model=given.model,
            messages=messages,
            tools=tools if offered else (),
            thinking=thinking,
            sampling=served.sampling(
                thinking,
                temperature=given.temperature,
                top_p=given.top_p,
                top_k=given.top_k,
                min_p=given.min_p,
                seed=given.seed,
            ),
            max_tokens=given.max_tokens,
            stops=tuple(given.stop_sequences or ()),
            stream=bool(given.stream),
            calls=offered,
            strict=strict_names([(t.name, t.strict) for t in given.tools or ()]),
        )

    def read_count(self, body: bytes, served: Served) -> Asked:
        """A request whose tokens are to be counted."""
        given = read(CountRequest, body)
        tools, offered = _tools(given)
        return Asked(
            model=given.model,
            messages=_messages(given),
            tools=tools if offered else (),
            thinking=_thinking(given, served),
        )

    def writer(self, asked: Asked, served: Served) -> MessagesWriter:
        """For one answer."""
        return MessagesWriter(asked, asked.model if served.any_name else served.name)

    def error(self, fault: Fault) -> dict[str, Any]:
        """Anthropic's shape."""
        return fault.anthropic()


def _thinking(given: CountRequest, served: Served) -> Thinking:
    options = given.thinking
    effort = None if given.output_config is None else given.output_config.effort
    if options is not None and options.type == "enabled" and options.budget_tokens is None:
        raise invalid("thinking of type 'enabled' needs budget_tokens", param="thinking.budget_tokens")
    if options is not None and options.type != "enabled" and options.budget_tokens is not None:
        raise invalid(f"thinking of type {options.type!r} takes no budget_tokens", param="thinking.budget_tokens")
    enabled = options is not None and options.type != "disabled"
    if not enabled and options is None and effort is not None:
        enabled = True
    return served.mode(
        _messages(given),
        enabled=enabled,
        budget=options.budget_tokens if options else None,
        effort=effort,
        where="output_config.effort",
    )


def _tools(given: CountRequest) -> tuple[Sequence[Any], bool]:
    tools = tool_specs([(t.name, t.description, t.input_schema, t.strict) for t in given.tools or ()])
    return tools, bool(tools) and (given.tool_choice is None or given.tool_choice.type != "none")


def _text(content: str | Sequence[TextBlock] | None) -> str:
    return content or "" if content is None or isinstance(content, str) else "".join(block.text for block in content)


def _messages(given: CountRequest) -> list[Message]:
    history = History()
    if given.system:
        history.say(system(_text(given.system)))
    for at, turn in enumerate(given.messages):
        blocks = [TextBlock(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content
        if turn.role == "assistant":
            for number, block in enumerate(blocks):
                history.part(_said(block, f"messages.{at}.content.{number}"))
        else:
            _heard(history, turn.role, blocks, f"messages.{at}.content")
    return history.done("messages")


def _said(block: Any, where: str) -> Message:
    if isinstance(block, TextBlock):
        return assistant(block.text)
    if isinstance(block, ThinkingBlock):
        return assistant(reasoning=block.thinking)
    if isinstance(block, ToolUseBlock):
        return assistant(tool_calls=(ToolCall(id=block.id, name=block.name, arguments=block.input),))
    raise invalid(f"{where}: the assistant's message cannot have a {block.type}", param=where)


def _heard(history: History, role: str, blocks: Sequence[Any], where: str) -> None:
    """A user's (or system) message: results of calls are messages of their own, neighbouring texts are one."""
    texts: list[str] = []

    def told() -> None:
        if texts:
            history.say((user if role == "user" else system)("".join(texts)))
            texts.clear()

    for number, block in enumerate(blocks):
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolResultBlock) and role == "user":
            told()
            history.answers(block.tool_use_id, f"{where}.{number}.tool_use_id")
            text = _text(block.content)
            if block.is_error and not text.lower().startswith("error"):
                text = f"error: {text}"
            history.say(tool_result(text, tool_call_id=block.tool_use_id))
        else:
            raise invalid(f"{where}.{number}: a {role}'s message cannot have a {block.type}", param=f"{where}.{number}")
    if not blocks:
        texts.append("")
    told()


def signature(thinking: str) -> str:
    """What vouches for a thinking block. It is a digest: an edited block is told from what was sampled by its text."""
    return hashlib.blake2b(thinking.encode(), digest_size=32, person=b"askesis-thinking").hexdigest()


class MessagesWriter:
    """See `wire.Writer`. A whole answer is what a stream's events add up to."""

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked = asked
        self._message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._prompt_tokens = 0
        self._content: list[dict[str, Any]] = []
        self._open = False

    def whole(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """The message."""
        reply = replies[0]
        self._prompt_tokens = prompt_tokens
        self.more(reply)
        self.end_choice(reply)
        return self._message | self._ended(reply) | {"content": self._content, "usage": self._usage(reply)}

    def begin(self, prompt_tokens: int) -> bytes:
        """The message exists."""
        self._prompt_tokens = prompt_tokens
        message = self._message | {"usage": {"input_tokens": prompt_tokens, "output_tokens": 0}}
        return self._event("message_start", message=message) + self._event("ping")

    def more(self, reply: Reply) -> bytes:
        """Deltas, each in its block."""
        out = []
        for delta in reply.drain():
            if isinstance(delta, ToolCall):
                out.append(self._close() + self._call(delta))
                continue
            kind = "thinking" if isinstance(delta, Reasoning) else "text"
            if not self._open or self._content[-1]["type"] != kind:
                out.append(self._close() + self._begin({"type": kind, kind: ""}))
            self._content[-1][kind] += delta.text
            out.append(self._delta({"type": f"{kind}_delta", kind: delta.text}))
        return b"".join(out)

    def end_choice(self, reply: Reply) -> bytes:
        """The last block is complete."""
        return self._close()

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Why it ended, and what it cost."""
        reply = replies[0]
        return self._event("message_delta", delta=self._ended(reply), usage=self._usage(reply)) + self._event(
            "message_stop"
        )

    def fail(self, fault: Fault) -> bytes:
        """An error in place of the rest."""
        return event(fault.anthropic(), "error")

    def _begin(self, block: dict[str, Any]) -> bytes:
        shown = block | ({"signature": ""} if block["type"] == "thinking" else {})
        out = self._event("content_block_start", index=len(self._content), content_block=shown)
        self._content.append(dict(block))
        self._open = True
        return out

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = False
        out, block = b"", self._content[-1]
        if block["type"] == "thinking":
            block["signature"] = signature(block["thinking"])
            out = self._delta({"type": "signature_delta", "signature": block["signature"]})
        return out + self._event("content_block_stop", index=len(self._content) - 1)

    def _call(self, call: ToolCall) -> bytes:
        out = self._begin({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        self._content[-1]["input"] = dict(call.arguments)
        return out + self._delta({"type": "input_json_delta", "partial_json": arguments_text(call)}) + self._close()

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._event("content_block_delta", index=len(self._content) - 1, delta=delta)

    def _ended(self, reply: Reply) -> dict[str, Any]:
        reason = {"stop": "end_turn", "stop_text": "stop_sequence", "calls": "tool_use", "length": "max_tokens"}
        full = reply.finish == "length" and reply.count < (self._asked.max_tokens or 0)
        return {
            "stop_reason": "model_context_window_exceeded" if full else reason[reply.finish],
            "stop_sequence": reply.stop,
        }

    def _usage(self, reply: Reply) -> dict[str, Any]:
        return {
            "input_tokens": self._prompt_tokens,
            "output_tokens": reply.count,
            "output_tokens_details": {"thinking_tokens": reply.thought},
        }

    def _event(self, name: str, /, **data: Any) -> bytes:
        return event({"type": name, **data}, name)
