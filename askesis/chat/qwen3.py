"""The Qwen3 renderer: messages to tokens, tokens to messages, and a conversation that only ever grows.

`render` writes what the official template writes, quirks included. `extend` never re-renders: it appends to tokens
that were sampled. The two agree wherever the template is prefix-stable; they differ, on purpose, where it is not:
(a) a user message follows an answer with thinking: the template would drop the thinking, `extend` keeps it;
(b) a tool result follows a call without reasoning: the template would drop the empty think block, `extend` keeps it;
(c) a second tool result follows a first one that had been rendered alone: the template would put both into one user
    turn; `extend` puts those of one call into one turn, and later ones into the next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from askesis.chat.tokenizer import Tokenizer
from askesis.types import (
    Message,
    ParseFailure,
    Reasoning,
    TemplateError,
    Text,
    Thinking,
    ThinkingLimit,
    TokenIds,
    ToolCall,
    ToolSpec,
    ids,
)

# Qwen3 Technical Report, section 4.3: what is put in when the thinking budget is used up
CLOSING = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
NO_THINKING = "<think>\n\n</think>\n\n"
_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


class Qwen3Renderer:
    """`types.Renderer` for Qwen3. closing: the text forced in at the budget; it must end the thinking."""

    def __init__(self, tokenizer: Tokenizer, *, closing: str = CLOSING) -> None:
        self.tokenizer = tokenizer
        self._start, self._end = tokenizer.id("<|im_start|>"), tokenizer.id("<|im_end|>")
        self._think, self._unthink = tokenizer.id("<think>"), tokenizer.id("</think>")
        tokenizer.id("<tool_call>"), tokenizer.id("</tool_call>")  # a vocabulary without them is refused here
        if "</think>" not in closing:
            raise TemplateError(f"closing text {closing!r} does not end the thinking: it has no </think>")
        self.closing = closing
        self._closing = tuple(tokenizer.encode(closing))
        self._newline = tuple(tokenizer.encode("\n"))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`<|im_end|>` and `<|endoftext|>`."""
        return (self._end, self.tokenizer.id("<|endoftext|>"))

    # -- to tokens -----------------------------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> TokenIds:
        """The whole conversation as the official template writes it."""
        return ids(self.tokenizer.encode(self.render_text(messages, tools=tools, thinking=thinking, generate=generate)))

    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> str:
        """`render` before it becomes tokens. Raises `TemplateError` for an empty conversation."""
        if not messages:
            raise TemplateError("cannot render a conversation without messages")
        first = messages[0].text if messages[0].role == "system" else None
        out = []
        if tools:
            schemas = "".join("\n" + json.dumps(tool.as_json(), ensure_ascii=False) for tool in tools)
            out.append(_turn("system", ("" if first is None else first + "\n\n") + _TOOLS + schemas + _CALLS))
        elif first is not None:
            out.append(_turn("system", first))
        query = _last_query(messages)
        for index, message in enumerate(messages):
            last = index == len(messages) - 1
            if message.role == "user" or (message.role == "system" and index > 0):
                out.append(_turn(message.role, message.text))
            elif message.role == "assistant":
                thought, content = _thought_and_content(message)
                block = index > query and (last or bool(thought))
                out.append(_turn("assistant", _assistant_body(message, thought, content, block)))
            elif message.role == "tool":
                opens = index == 0 or messages[index - 1].role != "tool"
                closes = last or messages[index + 1].role != "tool"
                out.append(_tool_result(message, opens=opens, closes=closes))
        if generate:
            out.append(_prompt(thinking))
        return "".join(out)

    def extend(
        self, tokens: TokenIds, messages: Sequence[Message], *, thinking: Thinking | None = None, generate: bool = True
    ) -> TokenIds:
        """The new tokens that append `messages` to `tokens`: nothing before them is touched.

        A turn that a limit cut off is closed first. Raises `TemplateError` for an assistant message: what the model
        says is sampled, or comes in through `render_completion`.
        """
        out = []
        for index, message in enumerate(messages):
            if message.role == "assistant":
                raise TemplateError("extend takes user, system and tool messages; an assistant's turn is sampled")
            if message.role == "tool":
                opens = index == 0 or messages[index - 1].role != "tool"
                closes = index == len(messages) - 1 or messages[index + 1].role != "tool"
                out.append(_tool_result(message, opens=opens, closes=closes))
            else:
                out.append(_turn(message.role, message.text))
        if generate:
            out.append(_prompt(thinking))
        return ids([*self._close(tokens), *self.tokenizer.encode("".join(out))])

    def _close(self, tokens: TokenIds) -> tuple[int, ...]:
        """What must follow `tokens` before the next turn can open."""
        if len(tokens) == 0:
            return ()
        if int(tokens[-1]) == self._end:
            return self._newline
        tail = tuple(int(t) for t in tokens[-len(self._newline) - 1 :])
        if tail == (self._end, *self._newline):
            return ()
        return (self._end, *self._newline)

    def render_completion(self, message: Message, *, thinking: Thinking | None = None) -> TokenIds:
        """The tokens that a model would have sampled to say `message`, from the generation prompt to `<|im_end|>`."""
        thought, content = _thought_and_content(message)
        if thought and thinking is not None and not thinking.enabled:
            raise TemplateError("a message with reasoning cannot be a completion with thinking switched off")
        block = thinking is None or thinking.enabled
        return ids(self.tokenizer.encode(_assistant_body(message, thought, content, block) + "<|im_end|>"))

    # -- back to messages ----------------------------------------------------------------------------------------

    def parse(self, tokens: TokenIds, *, thinking: Thinking | None = None) -> Message:
        """A completion as a message. Reasoning is taken out before any call is looked for, so drafts never run."""
        sampled = [int(token) for token in tokens]
        while sampled and sampled[-1] in self.stop_ids:
            sampled.pop()
        reasoning, answer = self._split(sampled)
        text, calls, failures = _parse_calls(self.tokenizer.decode(answer))
        parts: list[Text | Reasoning] = []
        thought = self.tokenizer.decode(reasoning).strip("\n")
        if thought:
            parts.append(Reasoning(text=thought))
        if text:
            parts.append(Text(text=text))
        return Message(role="assistant", parts=tuple(parts), tool_calls=calls, failures=failures)

    def _split(self, sampled: Sequence[int]) -> tuple[list[int], list[int]]:
        """(thought, said): what stands in think tags, before a stray closing tag, or after one never closed."""
        reasoning: list[int] = []
        answer: list[int] = []
        inside = False
        for token in sampled:
            if token == self._think:
                inside = True
            elif token == self._unthink:
                if not inside:  # never opened here: all that came before it was thought
                    reasoning += answer
                    answer = []
                inside = False
            else:
                (reasoning if inside else answer).append(token)
        return reasoning, answer

    def thinking_tokens(self, tokens: TokenIds) -> int:
        """How many of a completion's tokens were thought; the tags do not count."""
        return len(self._split([int(token) for token in tokens])[0])

    def thinking_limit(self, thinking: Thinking) -> ThinkingLimit | None:
        """The budget in this vocabulary's ids."""
        if not thinking.enabled or thinking.budget is None:
            return None
        return ThinkingLimit(budget=thinking.budget, open_id=self._think, close_id=self._unthink, closing=self._closing)

    def decode(self, tokens: TokenIds) -> str:
        """The text of `tokens`, special ones included."""
        return self.tokenizer.decode(np.asarray(tokens))


def failure_text(failure: ParseFailure) -> str:
    """What the agent reads in place of a result."""
    hint = {
        "unterminated": "the call was never closed with </tool_call>",
        "malformed": "the call is not valid JSON",
        "shape": 'a call must be {"name": <function-name>, "arguments": <args-json-object>}',
    }[failure.kind]
    return f"error: {hint}: {failure.detail}" if failure.detail else f"error: {hint}"


def mode_of(messages: Sequence[Message], default: Thinking) -> Thinking:
    """The soft switch: the latest `/think` or `/no_think` in a system or user message wins over `default`."""
    for message in reversed(messages):
        if message.role not in ("system", "user"):
            continue
        on, off = message.text.rfind("/think"), message.text.rfind("/no_think")
        if max(on, off) >= 0:
            return replace(default, enabled=on > off)
    return default


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _prompt(thinking: Thinking | None) -> str:
    return "<|im_start|>assistant\n" + ("" if thinking is None or thinking.enabled else NO_THINKING)


def _tool_result(message: Message, *, opens: bool, closes: bool) -> str:
    body = f"\n<tool_response>\n{message.text}\n</tool_response>"
    return ("<|im_start|>user" if opens else "") + body + ("<|im_end|>\n" if closes else "")


def _last_query(messages: Sequence[Message]) -> int:
    """Where a person last asked something; a user message that is all tool response does not count."""
    for index in range(len(messages) - 1, -1, -1):
        text = messages[index].text
        wrapped = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if messages[index].role == "user" and not wrapped:
            return index
    return len(messages) - 1


def _thought_and_content(message: Message) -> tuple[str, str]:
    content = message.text
    if any(isinstance(part, Reasoning) for part in message.parts):
        return message.reasoning, content
    if "</think>" in content:  # the template's own quirk: a literal tag in the content splits it
        head, tail = content.split("</think>")[0], content.split("</think>")[-1]
        return head.rstrip("\n").split("<think>")[-1].lstrip("\n"), tail.lstrip("\n")
    return "", content


def _assistant_body(message: Message, thought: str, content: str, block: bool) -> str:
    out = [f"<think>\n{thought.strip(chr(10))}\n</think>\n\n{content.lstrip(chr(10))}" if block else content]
    for index, call in enumerate(message.tool_calls):
        arguments: Any = call.arguments
        if not isinstance(arguments, str):  # a client's string arguments pass through as they are
            arguments = json.dumps(arguments, ensure_ascii=False)
        gap = "\n" if content or index else ""
        out.append(f'{gap}<tool_call>\n{{"name": "{call.name}", "arguments": {arguments}}}\n</tool_call>')
    return "".join(out)


def _parse_calls(text: str) -> tuple[str, tuple[ToolCall, ...], tuple[ParseFailure, ...]]:
    """(text without calls, calls that can run, calls that cannot be read)."""
    before, *rest = text.split("<tool_call>")
    said: list[str] = [before]
    calls: list[ToolCall] = []
    failures: list[ParseFailure] = []
    for piece in rest:
        raw, closed, after = piece.partition("</tool_call>")
        if not closed:
            failures.append(ParseFailure(kind="unterminated", detail="", raw=piece))
            continue
        said.append(after)
        call = _read_call(raw, f"call_{len(calls)}")
        if isinstance(call, ToolCall):
            calls.append(call)
        else:
            failures.append(call)
    return "".join(said).strip("\n"), tuple(calls), tuple(failures)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _read_call(raw: str, call_id: str) -> ToolCall | ParseFailure:
    try:
        content = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return ParseFailure(kind="malformed", detail=str(error), raw=raw)
    if not isinstance(content, dict) or not isinstance(content.get("name"), str) or not content["name"]:
        return ParseFailure(kind="shape", detail="no name", raw=raw)
    arguments = content.get("arguments", {})
    if isinstance(arguments, str):  # some models encode their arguments twice
        try:
            arguments = json.loads(arguments, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return ParseFailure(kind="shape", detail="arguments are a string, not an object", raw=raw)
    if not isinstance(arguments, dict):
        return ParseFailure(kind="shape", detail="arguments are not an object", raw=raw)
    return ToolCall(id=call_id, name=content["name"], arguments=arguments, raw=raw)
