"""The Qwen3 renderer: messages to tokens, tokens to messages, and a conversation that only ever grows.

`render` writes what the official template writes, quirks included. `extend` never re-renders: it appends to tokens
that were sampled. The two agree wherever the template is prefix-stable; they differ, on purpose, where it is not:
(a) a user message follows an answer with thinking: the template would drop the thinking, `extend` keeps it;
(b) a tool result follows a call without reasoning: the template would drop the empty think block, `extend` keeps it;
(c) a second tool result follows a first one that had been rendered alone: the template would put both into one user
    turn; `extend` puts those of one call into one turn, and later ones into the next.

Think tags count where they are the vocabulary's own tokens; a model that spells one out in letters has only written
text. Special tokens inside messages are recognised, as they are where the official template meets its tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from askesis.chat.calls import CLOSE, OPEN, json_end, parse_calls, read_call
from askesis.chat.tokenizer import SPECIAL, Tokenizer
from askesis.types import (
    Message,
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
# the switch stands alone: `src/think.py` and `/thinking` are no switches
_SWITCH = re.compile(r"(?<![\w/.:])/(no_)?think(?![\w/-]|\.\w)")


class Qwen3Renderer:
    """`types.Renderer` for Qwen3.

    closing: the text forced in at the thinking budget. It ends the thinking: exactly one think tag, `</think>`, and
    nothing special beside it (else `TemplateError`). A tokenizer without Qwen's tokens gives `CheckpointError`.
    """

    def __init__(self, tokenizer: Tokenizer, *, closing: str = CLOSING) -> None:
        tokenizer.check_special()
        self.tokenizer = tokenizer
        self._end, self._stop = tokenizer.id("<|im_end|>"), (tokenizer.id("<|im_end|>"), tokenizer.id("<|endoftext|>"))
        self._think, self._unthink = tokenizer.id("<think>"), tokenizer.id("</think>")
        self._call, self._uncall = tokenizer.id(OPEN), tokenizer.id(CLOSE)
        self.closing = closing
        self._closing = tuple(tokenizer.encode(closing))
        special = {tokenizer.id(token) for token in SPECIAL}
        if [token for token in self._closing if token in special] != [self._unthink]:
            raise TemplateError(
                f"closing text {closing!r} does not just end the thinking: expected one </think>, nothing else special"
            )
        self._newline = tuple(tokenizer.encode("\n"))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`<|im_end|>` and `<|endoftext|>`."""
        return self._stop

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
        """`render` before it becomes tokens. Raises `TemplateError` for no messages, and for what is not JSON."""
        if not messages:
            raise TemplateError("cannot render a conversation without messages")
        first = messages[0].text if messages[0].role == "system" else None
        out = []
        if tools:
            schemas = "".join("\n" + _json(tool.as_json(), f"the schema of tool {tool.name!r}") for tool in tools)
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
        """The tokens that a model would have sampled to say `message`, from the generation prompt to `<|im_end|>`.

        `parse` gives the message back. A call that still has its sampled text (`raw`) is written as it was sampled.
        Raises `TemplateError` for what no model can have sampled: reasoning with thinking switched off, think tags
        inside reasoning or text, a token that ends the turn before its end.
        """
        thought, content = _thought_and_content(message)
        block = thinking is None or thinking.enabled
        if thought and not block:
            raise TemplateError("a completion cannot have reasoning with thinking switched off")
        if any(tag in part for part in (thought, content) for tag in ("<think>", "</think>")):
            raise TemplateError(f"a completion cannot have think tags inside its reasoning or text: {message}")
        tokens = self.tokenizer.encode(_assistant_body(message, thought, content, block, sampled=True) + "<|im_end|>")
        if any(token in self._stop for token in tokens[:-1]):
            raise TemplateError(f"a completion cannot go on after a token that ends the turn: {message}")
        return ids(tokens)

    # -- back to messages ----------------------------------------------------------------------------------------

    def parse(self, tokens: TokenIds, *, thinking: Thinking | None = None) -> Message:
        """A completion as a message. Reasoning is taken out before any call is looked for, so drafts never run."""
        sampled = [int(token) for token in tokens]
        while sampled and sampled[-1] in self._stop:
            sampled.pop()
        reasoning, answer = self._split(sampled, over=thinking is not None and not thinking.enabled)
        text, calls, failures = parse_calls(self.tokenizer.decode(answer))
        parts: list[Text | Reasoning] = []
        thought = self.tokenizer.decode(reasoning).strip("\n")
        if thought:
            parts.append(Reasoning(text=thought))
        if text:
            parts.append(Text(text=text))
        return Message(role="assistant", parts=tuple(parts), tool_calls=calls, failures=failures)

    def _split(self, sampled: Sequence[int], *, over: bool) -> tuple[list[int], list[int]]:
        """(thought, said): what stands in think tags, before a stray closing tag, or after one never closed.

        over: the prompt has already ended the thinking. Once it is over, a call whose JSON is whole is taken whole:
        think tags in its strings are text. Before that, a call followed by a closing tag is a draft.
        """
        reasoning: list[int] = []
        answer: list[int] = []
        inside, at = False, 0
        while at < len(sampled):
            token = sampled[at]
            if token == self._think:
                inside = True
            elif token == self._unthink:
                if not inside:  # never opened here: all that came before it was thought
                    reasoning += answer
                    answer = []
                inside, over = False, True
            elif token == self._call and over and not inside:
                end = self._call_end(sampled, at)
                answer += sampled[at:end]
                at = end
                continue
            else:
                (reasoning if inside else answer).append(token)
            at += 1
        return reasoning, answer

    def _call_end(self, sampled: Sequence[int], start: int) -> int:
        """Where to read on after the `<tool_call>` at `start`: behind the whole call if think tags stand in it."""
        rest = sampled[start + 1 :]
        if self._think not in rest and self._unthink not in rest:
            return start + 1
        text = self.tokenizer.decode(rest)
        stop = json_end(text, 0)
        if stop is None:
            return start + 1
        closings = [index for index, token in enumerate(rest) if token == self._uncall]
        inner = text.count(CLOSE, 0, stop)  # closing tags inside strings come first
        if inner >= len(closings) or self.tokenizer.decode(rest[: closings[inner]]) != text[:stop]:
            return start + 1
        return start + 1 + closings[inner] + 1

    def thinking_tokens(self, tokens: TokenIds) -> int:
        """How many of a completion's tokens were thought; the tags do not count."""
        return len(self._split([int(token) for token in tokens], over=False)[0])

    def thinking_limit(self, thinking: Thinking) -> ThinkingLimit | None:
        """The budget in this vocabulary's ids."""
        if not thinking.enabled or thinking.budget is None:
            return None
        return ThinkingLimit(
            budget=thinking.budget,
            open_id=self._think,
            close_id=self._unthink,
            closing=self._closing,
            call_open_id=self._call,
            call_close_id=self._uncall,
        )

    def decode(self, tokens: TokenIds) -> str:
        """The text of `tokens`, special ones included."""
        return self.tokenizer.decode(np.asarray(tokens))


def mode_of(messages: Sequence[Message], default: Thinking) -> Thinking:
    """The soft switch: the latest `/think` or `/no_think` in a system or user message wins over `default`.

    A switch stands alone between words; budget and effort stay those of `default`.
    """
    for message in reversed(messages):
        if message.role in ("system", "user") and (switches := _SWITCH.findall(message.text)):
            return replace(default, enabled=not switches[-1])
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


def _assistant_body(message: Message, thought: str, content: str, block: bool, *, sampled: bool = False) -> str:
    out = [f"<think>\n{thought.strip(chr(10))}\n</think>\n\n{content.lstrip(chr(10))}" if block else content]
    for index, call in enumerate(message.tool_calls):
        gap = "\n" if content or index else ""
        out.append(f"{gap}{OPEN}{_call_body(call, sampled=sampled)}{CLOSE}")
    return "".join(out)


def _call_body(call: ToolCall, *, sampled: bool) -> str:
    if sampled and call.raw:
        said = read_call(call.raw, call.id)  # a call that was changed since is no longer what was sampled
        if isinstance(said, ToolCall) and (said.name, said.arguments) == (call.name, call.arguments):
            return call.raw
    arguments: Any = call.arguments
    if not isinstance(arguments, str):  # a client's string arguments pass through as they are
        arguments = _json(dict(arguments), f"the arguments of a call to {call.name!r}")
    return f'\n{{"name": "{call.name}", "arguments": {arguments}}}\n'


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise TemplateError(f"{what} cannot be written as JSON: {error}; got {value!r}") from error
