"""Qwen3 (hybrid thinking): one model that thinks, or not, as it is told.

`render` writes what the official template writes, quirks included. `extend` never re-renders: it appends to tokens
that were sampled. The two agree wherever the template is prefix-stable; they differ, on purpose, where it is not:
(a) a user message follows an answer with thinking: the template would drop the thinking, `extend` keeps it;
(b) a tool result follows a call without reasoning: the template would drop the empty think block, `extend` keeps it;
(c) a second tool result follows a first one that had been rendered alone: the template would put both into one user
    turn; `extend` puts those of one call into one turn, and later ones into the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from askesis.chat.calls import JsonCalls, dumps
from askesis.chat.chatml import OPENED, ChatMLRenderer, last_query, split_thought, tool_result, turn
from askesis.types import Message, TemplateError, Thinking, ToolSpec

_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


class Qwen3Renderer(ChatMLRenderer):
    """`types.Renderer` for Qwen3. A tokenizer without Qwen's tokens gives `CheckpointError`."""

    name = "qwen3"
    switches = True
    syntax = JsonCalls()

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
            schemas = "".join("\n" + dumps(tool.as_json(), f"the schema of tool {tool.name!r}") for tool in tools)
            out.append(turn("system", ("" if first is None else first + "\n\n") + _TOOLS + schemas + _CALLS))
        elif first is not None:
            out.append(turn("system", first))
        query = last_query(messages, [message.text for message in messages])
        query = len(messages) - 1 if query is None else query
        for index, message in enumerate(messages):
            last = index == len(messages) - 1
            if message.role == "user" or (message.role == "system" and index > 0):
                out.append(turn(message.role, message.text))
            elif message.role == "assistant":
                out.append(turn("assistant", self._assistant(message, after_query=index > query, last=last)))
            elif message.role == "tool":
                opens = index == 0 or messages[index - 1].role != "tool"
                closes = last or messages[index + 1].role != "tool"
                out.append(tool_result(message.text, opens=opens, closes=closes))
        if generate:
            out.append(self.prompt(thinking))
        return "".join(out)

    def _thought_and_content(self, message: Message) -> tuple[str, str]:
        return split_thought(message, message.text)

    def _assistant(self, message: Message, *, after_query: bool, last: bool) -> str:
        """A turn of the past. Its thinking is there only since the last question, and only if it is last or thought."""
        thought, content = self._thought_and_content(message)
        block = after_query and (last or bool(thought))
        return (_block(thought) + content.lstrip("\n") if block else content) + self._calls_after(message, content)

    def _calls_after(self, message: Message, content: str, *, sampled: bool = False) -> str:
        calls = self._call_text(message, sampled=sampled)
        return "".join(("\n" if content or index else "") + call for index, call in enumerate(calls))

    def completion_text(self, message: Message, *, thinking: Thinking | None) -> str:
        """A think block, empty where nothing was thought, unless the prompt had one."""
        thought, content = self._thought_and_content(message)
        said = content
        if self.thinks(thinking):
            block = _block(thought)
            said = (block.removeprefix(OPENED) if self.opens else block) + content.lstrip("\n")
        return said + self._calls_after(message, content, sampled=True)


def _block(thought: str) -> str:
    return OPENED + thought.strip("\n") + "\n</think>\n\n"
