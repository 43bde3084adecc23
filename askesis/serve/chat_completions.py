"""OpenAI Chat Completions, with the fields that vLLM and DeepSeek added for thinking."""

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
    Stop,
    Stops,
    Strict,
    Temperature,
    TemplateKwargs,
    TextPart,
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
from askesis.serve.faults import Fault
from askesis.serve.reply import Logprob, Reply
from askesis.serve.settings import Served
from askesis.serve.wire import event
from askesis.types import Message, Reasoning, Text, ToolCall, assistant, system, tool_result, user

Content = str | list[TextPart]


class SystemMessage(Strict):
    """A system message."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    """A user's message."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Strict):
    """What was called. arguments: a JSON object, as text."""

    name: str
    arguments: str


class Call(Strict):
    """A call that the assistant made. index: as in the chunks of a stream, which some clients resend."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Strict):
    """What the assistant said. Its reasoning may be left out, also where there was some."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None
    name: str | None = None
    refusal: Annotated[None, supports(None, why="a refusal cannot be served")] = None
    annotations: list[Any] | None = None
    audio: Annotated[None, supports(None, why="audio cannot be served")] = None
    function_call: Annotated[None, supports(None, why="use tool_calls")] = None


class ToolMessage(Strict):
    """What a call gave."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionTool(Strict):
    """A function as the model sees it. strict: a call that does not fit the parameters is told as text."""

    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool."""

    type: Literal["function"]
    function: FunctionTool


class StreamOptions(Strict):
    """Of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Annotated[bool | None, supports(None, False, why="cannot be served")] = None


class ResponseFormat(Strict):
    """Plain text is what there is."""

    type: Annotated[str, supports("text", why="only {'type': 'text'} can be served: output is not constrained")]
    json_schema: Any = None


class ChatRequest(Strict):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stop | Stops | None = None
    logprobs: bool | None = None
    tools: Annotated[list[Tool], Field(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | JsonObject | None = None
    enable_thinking: bool | None = None
    thinking_budget: Budget | None = None
    reasoning_effort: Efforts | Share | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    # known, and served only where they change nothing
    top_logprobs: Annotated[
        int | None, supports(None, 0, why="only the sampled token's log-probability is known: leave top_logprobs out")
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, supports(None, True, why="calls cannot be limited to one: leave parallel_tool_calls out")
    ] = None
    response_format: ResponseFormat | None = None
    frequency_penalty: Annotated[float | None, supports(None, 0, why="penalties cannot be served")] = None
    presence_penalty: Annotated[float | None, supports(None, 0, why="penalties cannot be served")] = None
    repetition_penalty: Annotated[float | None, supports(None, 1, why="penalties cannot be served")] = None
    logit_bias: Annotated[JsonObject | None, supports(None, {}, why="logit_bias cannot be served")] = None
    modalities: Annotated[list[str] | None, supports(None, ["text"], why="only text can be served")] = None
    verbosity: Annotated[str | None, supports(None, "medium", why="verbosity cannot be served")] = None
    functions: Annotated[Any, supports(None, [], why="use tools")] = None
    function_call: Annotated[Any, supports(None, "none", "auto", why="use tool_choice")] = None
    audio: Annotated[Any, supports(None, why="audio cannot be served")] = None
    prediction: Annotated[Any, supports(None, why="predicted output cannot be served")] = None
    web_search_options: Annotated[Any, supports(None, why="web search cannot be served")] = None
    moderation: Annotated[Any, supports(None, why="moderation cannot be served")] = None
    # accepted, and without meaning here
    user: str | None = None
    metadata: Metadata = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: JsonObject | None = None
    prompt_cache_retention: str | None = None


class ChatCompletions:
    """The protocol; see `wire.Wire`."""

    schema: type[BaseModel] = ChatRequest

    def read(self, body: bytes, served: Served) -> Asked:
        """The request in Askesis' terms."""
        given = read(ChatRequest, body)
        messages = _messages(given.messages)
        extra = given.chat_template_kwargs or TemplateKwargs()
        thinking = served.mode(
            messages,
            enabled=one_of("enable_thinking", given.enable_thinking, extra.enable_thinking),
            budget=one_of("thinking_budget", given.thinking_budget, extra.thinking_budget),
            effort=given.reasoning_effort,
        )
        functions = [tool.function for tool in given.tools or ()]
        tools = tool_specs([(f.name, f.description, f.parameters, f.strict) for f in functions])
        offered = may_call(given.tool_choice, bool(tools))
        stops = (given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ())
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
            max_tokens=one_of("max_completion_tokens", given.max_completion_tokens, given.max_tokens),
            stops=stops,
            choices=given.n or 1,
            stream=bool(given.stream),
            logprobs=bool(given.logprobs),
            calls=offered,
            strict=strict_names([(f.name, f.strict) for f in functions]),
            usage_chunk=given.stream_options is not None and bool(given.stream_options.include_usage),
        )

    def writer(self, asked: Asked, served: Served) -> ChatWriter:
        """For one answer."""
        return ChatWriter(asked, asked.model if served.any_name else served.name)

    def error(self, fault: Fault) -> dict[str, Any]:
        """OpenAI's shape."""
        return fault.openai()


def text_of(content: Content | None) -> str:
    """All text of a content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _messages(given: Sequence[ChatMessage]) -> list[Message]:
    history = History()
    for at, message in enumerate(given):
        if isinstance(message, SystemMessage):
            history.say(system(text_of(message.content)))
        elif isinstance(message, UserMessage):
            history.say(user(text_of(message.content)))
        elif isinstance(message, ToolMessage):
            history.answers(message.tool_call_id, f"messages.{at}.tool_call_id")
            history.say(tool_result(text_of(message.content), tool_call_id=message.tool_call_id))
        else:
            reasoning = one_of(
                f"messages.{at}.reasoning_content", message.reasoning_content or None, message.reasoning or None
            )
            calls = tuple(
                ToolCall(
                    id=call.id,
                    name=call.function.name,
                    arguments=json_object(
                        call.function.arguments or "{}", f"messages.{at}.tool_calls.{n}.function.arguments"
                    ),
                )
                for n, call in enumerate(message.tool_calls or ())
            )
            history.say(assistant(text_of(message.content), reasoning=reasoning or "", tool_calls=calls))
    return history.done("messages")


_FINISH = {"stop": "stop", "stop_text": "stop", "length": "length", "calls": "tool_calls"}


class ChatWriter:
    """See `wire.Writer`."""

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked = asked
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._prompt_tokens = 0
        self._calls: dict[int, int] = {}

    def whole(self, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
        """`chat.completion`."""
        self._prompt_tokens = prompt_tokens
        choices = []
        for reply in replies:
            message: dict[str, Any] = {"role": "assistant", "content": reply.text or (None if reply.calls else "")}
            message["refusal"] = None
            if reply.reasoning:
                message["reasoning_content"] = reply.reasoning
            if reply.calls:
                message["tool_calls"] = [_call(call) for call in reply.calls]
            choices.append(
                {
                    "index": reply.index,
                    "message": message,
                    "logprobs": self._logprobs(reply),
                    "finish_reason": _FINISH[reply.finish],
                }
            )
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage(replies)}

    def begin(self, prompt_tokens: int) -> bytes:
        """The role of each choice."""
        self._prompt_tokens = prompt_tokens
        return b"".join(
            self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._asked.choices)
        )

    def more(self, reply: Reply) -> bytes:
        """Deltas."""
        out = []
        logprobs = self._logprobs(reply)
        for delta in reply.drain():
            if isinstance(delta, Reasoning):
                out.append(self._chunk(reply.index, {"reasoning_content": delta.text}, logprobs))
            elif isinstance(delta, Text):
                out.append(self._chunk(reply.index, {"content": delta.text}, logprobs))
            else:
                number = self._calls.get(reply.index, 0)
                self._calls[reply.index] = number + 1
                call = {"tool_calls": [{"index": number, **_call(delta)}]}
                out.append(self._chunk(reply.index, call, logprobs))
            logprobs = None
        if logprobs is not None and logprobs["content"]:
            out.append(self._chunk(reply.index, {}, logprobs))
        return b"".join(out)

    def end_choice(self, reply: Reply) -> bytes:
        """Why it ended."""
        return self._chunk(reply.index, {}, None, _FINISH[reply.finish])

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Usage, if it was asked for."""
        out = b""
        if self._asked.usage_chunk:
            usage = self._usage(replies)
            out = event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return out + b"data: [DONE]\n\n"

    def fail(self, fault: Fault) -> bytes:
        """An error in place of the rest."""
        return event(fault.openai()) + b"data: [DONE]\n\n"

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def _logprobs(self, reply: Reply) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        return {"content": [_logprob(one) for one in reply.drain_logprobs()], "refusal": None}

    def _usage(self, replies: Sequence[Reply]) -> dict[str, Any]:
        said = sum(reply.count for reply in replies)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": said,
            "total_tokens": self._prompt_tokens + said,
            "completion_tokens_details": {"reasoning_tokens": sum(reply.thought for reply in replies)},
        }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_text(call)}}


def _logprob(one: Logprob) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode()), "top_logprobs": []}
