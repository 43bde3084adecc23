"""OpenAI Responses, without a server's memory: what went before is in `input`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from askesis.serve.asked import (
    Asked,
    Budget,
    Count,
    Efforts,
    History,
    JsonObject,
    Metadata,
    MinP,
    Seed,
    Share,
    Strict,
    Temperature,
    TemplateKwargs,
    ToolName,
    TopK,
    TopP,
    arguments_text,
    json_object,
    may_call,
    one_of,
    read,
    strict_names,
    supports,
    tool_specs,
)
from askesis.serve.faults import Fault, invalid
from askesis.serve.reply import Reply
from askesis.serve.settings import Served
from askesis.serve.wire import event
from askesis.types import Message, Reasoning, Text, ToolCall, assistant, system, tool_result, user

Status = Literal["in_progress", "completed", "incomplete"]


class Part(Strict):
    """A piece of text, coming or going."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class MessageItem(Strict):
    """A message of any role; `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class CallItem(Strict):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    parsed_arguments: Any = None
    caller: Any = None
    namespace: Annotated[str | None, supports(None, why="namespaces cannot be served")] = None


class ResultItem(Strict):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]
    id: str | None = None
    status: Status | None = None


class ThoughtPart(Strict):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Strict):
    """What the assistant thought; it may be left out."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ThoughtPart] | None = None
    content: list[ThoughtPart] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


Item = MessageItem | CallItem | ResultItem | ReasoningItem


class FunctionTool(Strict):
    """A function as the model sees it. strict: a call that does not fit the parameters is told as text."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ReasoningOptions(Strict):
    """How much to think. summary: what is thought is given whole; there is no summary of it."""

    effort: Efforts | Share | None = None
    summary: Annotated[
        str | None, supports(None, "auto", why="summaries cannot be served: the reasoning is given whole")
    ] = None
    generate_summary: Annotated[str | None, supports(None, "auto", why="summaries cannot be served")] = None


class TextFormat(Strict):
    """Plain text is what there is."""

    type: Annotated[str, supports("text", why="only {'type': 'text'} can be served: output is not constrained")]


class TextOptions(Strict):
    """Of the text."""

    format: TextFormat | None = None
    verbosity: Annotated[str | None, supports(None, "medium", why="verbosity cannot be served")] = None


class StreamOptions(Strict):
    """Of a stream."""

    include_obfuscation: bool | None = None


Include = Annotated[
    str, supports("reasoning.encrypted_content", why="only 'reasoning.encrypted_content' can be included")
]


class ResponsesRequest(Strict):
    """The body of `POST /v1/responses`."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | JsonObject | None = None
    reasoning: ReasoningOptions | None = None
    enable_thinking: bool | None = None
    thinking_budget: Budget | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    # known, and served only where they change nothing
    include: list[Include] | None = None
    text: TextOptions | None = None
    parallel_tool_calls: Annotated[
        bool | None, supports(None, True, why="calls cannot be limited to one: leave parallel_tool_calls out")
    ] = None
    previous_response_id: Annotated[
        str | None, supports(None, why="nothing is kept under an id: send the whole conversation as input")
    ] = None
    conversation: Annotated[Any, supports(None, why="nothing is kept under an id: send the whole conversation")] = None
    background: Annotated[bool | None, supports(None, False, why="background mode cannot be served")] = None
    truncation: Annotated[str | None, supports(None, "disabled", why="the input is never shortened")] = None
    top_logprobs: Annotated[int | None, supports(None, 0, why="log-probabilities cannot be served here")] = None
    prompt: Annotated[Any, supports(None, why="stored prompts cannot be served")] = None
    context_management: Annotated[Any, supports(None, [], why="the input is never shortened")] = None
    moderation: Annotated[Any, supports(None, why="moderation cannot be served")] = None
    # accepted, and without meaning here
    max_tool_calls: int | None = None
    store: bool | None = None
    user: str | None = None
    metadata: Metadata = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: JsonObject | None = None
    prompt_cache_retention: str | None = None


class Responses:
    """The protocol; see `wire.Wire`."""

    schema: type[BaseModel] = ResponsesRequest

    def read(self, body: bytes, served: Served) -> Asked:
        """The request in Askesis' terms."""
        given = read(ResponsesRequest, body)
        messages = _messages(given)
        extra = given.chat_template_kwargs or TemplateKwargs()
        reasoning = given.reasoning or ReasoningOptions()
        thinking = served.mode(
            messages,
            enabled=one_of("enable_thinking", given.enable_thinking, extra.enable_thinking),
            budget=one_of("thinking_budget", given.thinking_budget, extra.thinking_budget),
            effort=reasoning.effort,
            where="reasoning.effort",
        )
        tools = tool_specs([(t.name, t.description, t.parameters, t.strict) for t in given.tools or ()])
        offered = may_call(given.tool_choice, bool(tools))
        sampling = served.sampling(
            thinking,
            temperature=given.temperature,
            top_p=given.top_p,
            top_k=given.top_k,
            min_p=given.min_p,
            seed=given.seed,
        )
        return Asked(
            model=given.model,
            messages=messages,
            tools=tools if offered else (),
            thinking=thinking,
            sampling=sampling,
            max_tokens=given.max_output_tokens,
            stream=bool(given.stream),
            calls=offered,
            strict=strict_names([(t.name, t.strict) for t in given.tools or ()]),
            echo={
                "instructions": given.instructions,
                "max_output_tokens": given.max_output_tokens,
                "metadata": given.metadata or {},
                "parallel_tool_calls": True,
                "previous_response_id": None,
                "reasoning": {"effort": reasoning.effort, "summary": None},
                "store": False,
                "temperature": sampling.temperature,
                "text": {"format": {"type": "text"}},
                "tool_choice": given.tool_choice or "auto",
                "tools": [tool.model_dump() for tool in given.tools or ()],
                "top_p": sampling.top_p,
                "truncation": "disabled",
                "user": given.user,
            },
        )

    def writer(self, asked: Asked, served: Served) -> ResponsesWriter:
        """For one answer."""
        return ResponsesWriter(asked, asked.model if served.any_name else served.name)

    def error(self, fault: Fault) -> dict[str, Any]:
        """OpenAI's shape."""
        return fault.openai()


def _text(content: str | Sequence[Part]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _messages(given: ResponsesRequest) -> list[Message]:
    history = History()
    if given.instructions:
        history.say(system(given.instructions))
    if isinstance(given.input, str):
        history.say(user(given.input))
        return history.done("input")
    for at, item in enumerate(given.input):
        if isinstance(item, ReasoningItem):
            parts = item.content or item.summary or ()
            history.part(assistant(reasoning="".join(part.text for part in parts)))
        elif isinstance(item, CallItem):
            arguments = json_object(item.arguments or "{}", f"input.{at}.arguments")
            history.part(assistant(tool_calls=(ToolCall(id=item.call_id, name=item.name, arguments=arguments),)))
        elif isinstance(item, ResultItem):
            history.answers(item.call_id, f"input.{at}.call_id")
            history.say(tool_result(_text(item.output), tool_call_id=item.call_id))
        elif item.role == "assistant":
            history.part(assistant(_text(item.content)))
        else:
            history.say((user if item.role == "user" else system)(_text(item.content)))
    return history.done("input")


class ResponsesWriter:
    """See `wire.Writer`. A whole answer is what a stream's events add up to."""

    def __init__(self, asked: Asked, model: str) -> None:
        if asked.choices != 1:
            raise invalid("there is one answer only", param="n")
        self._asked = asked
        self._base = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": False,
            "error": None,
            **asked.echo,
        }
        self._prompt_tokens = 0
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def whole(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """The response."""
        self._prompt_tokens = prompt_tokens
        self.more(replies[0])
        self.end_choice(replies[0])
        return self._final(replies[0])

    def begin(self, prompt_tokens: int) -> bytes:
        """The response exists."""
        self._prompt_tokens = prompt_tokens
        started = self._response("in_progress")
        return self._event("response.created", response=started) + self._event("response.in_progress", response=started)

    def more(self, reply: Reply) -> bytes:
        """Deltas, each in its item."""
        out = []
        for delta in reply.drain():
            if isinstance(delta, ToolCall):
                out.append(self._close("completed") + self._call(delta))
                continue
            kind = "reasoning" if isinstance(delta, Reasoning) else "message"
            if self._open is None or self._open["type"] != kind:
                out.append(self._close("completed") + self._begin(kind))
            assert self._open is not None
            self._open["content"][0]["text"] += delta.text
            what: dict[str, Any] = {"logprobs": []} if isinstance(delta, Text) else {}
            name = "response.output_text.delta" if isinstance(delta, Text) else "response.reasoning_text.delta"
            out.append(self._event(name, **self._where(), content_index=0, delta=delta.text, **what))
        return b"".join(out)

    def end_choice(self, reply: Reply) -> bytes:
        """The last item is complete. An answer without anything is an empty message."""
        out = b""
        if not self._output and self._open is None:
            out = self._begin("message")
        return out + self._close("incomplete" if reply.finish == "length" else "completed")

    def end(self, replies: Sequence[Reply]) -> bytes:
        """The whole response."""
        final = self._final(replies[0])
        return self._event(f"response.{final['status']}", response=final)

    def fail(self, fault: Fault) -> bytes:
        """The response ends here."""
        error = {"code": "server_error", "message": str(fault)}
        return self._event("response.failed", response=self._response("failed") | {"error": error})

    def _begin(self, kind: str) -> bytes:
        """Open an item of text or reasoning."""
        message = kind == "message"
        item: dict[str, Any] = {"type": kind, "status": "in_progress", "content": []}
        item |= {"id": f"msg_{secrets.token_hex(16)}", "role": "assistant"} if message else {}
        item |= {} if message else {"id": f"rs_{secrets.token_hex(16)}", "summary": []}
        added = self._event("response.output_item.added", output_index=len(self._output), item=item)
        part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        if message:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._open = item | {"content": [part]}
        return added + self._event("response.content_part.added", **self._where(), content_index=0, part=part)

    def _close(self, status: str) -> bytes:
        """The open item, if there is one, is complete."""
        item = self._open
        if item is None:
            return b""
        part = item["content"][0]
        message = item["type"] == "message"
        name = "response.output_text.done" if message else "response.reasoning_text.done"
        what: dict[str, Any] = {"logprobs": []} if message else {}
        out = self._event(name, **self._where(), content_index=0, text=part["text"], **what)
        out += self._event("response.content_part.done", **self._where(), content_index=0, part=part)
        item["status"] = status
        return out + self._done(item)

    def _call(self, call: ToolCall) -> bytes:
        """A call, whole."""
        text = arguments_text(call)
        item = {
            "id": f"fc_{secrets.token_hex(16)}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        out = self._event("response.output_item.added", output_index=len(self._output), item=item)
        self._open = item
        out += self._event("response.function_call_arguments.delta", **self._where(), delta=text)
        out += self._event("response.function_call_arguments.done", **self._where(), name=call.name, arguments=text)
        return out + self._done(item | {"arguments": text, "status": "completed"})

    def _done(self, item: dict[str, Any]) -> bytes:
        out = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return out

    def _where(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._output)}

    def _event(self, name: str, /, **data: Any) -> bytes:
        found = event({"type": name, "sequence_number": self._number, **data}, name)
        self._number += 1
        return found

    def _response(self, status: str) -> dict[str, Any]:
        return {**self._base, "status": status, "incomplete_details": None, "output": self._output, "usage": None}

    def _final(self, reply: Reply) -> dict[str, Any]:
        cut = reply.finish == "length"
        return self._response("incomplete" if cut else "completed") | {
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "completed_at": int(time.time()),
            "usage": {
                "input_tokens": self._prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": reply.count,
                "output_tokens_details": {"reasoning_tokens": reply.thought},
                "total_tokens": self._prompt_tokens + reply.count,
            },
        }
