"""Qwen3.5, 3.6 and 3.8: hybrid again, with XML calls, no soft switches, and a prompt that opens the thinking.

The template trims the white space around every text. Thinking before the last question is dropped, unless it is asked
to be kept: 3.6 does on request (`preserve_thinking`), 3.8 does by default, so that there the tokens of a conversation
stay as they were sampled. Between two questions every turn has its think block, also an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence

from askesis.chat.calls import CallSyntax, dumps
from askesis.chat.chatml import OPENED, ChatMLRenderer, last_query, split_thought, tool_result, turn
from askesis.chat.renderer import CLOSING
from askesis.chat.tokenizer import Tokenizer
from askesis.chat.xml_calls import XmlCalls
from askesis.types import Message, TemplateError, Thinking, ToolSpec

_TOOLS = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_CALLS = """
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within \
<tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell \
the user about function calls
</IMPORTANT>"""


class Qwen35Renderer(ChatMLRenderer):
    """`types.Renderer` for Qwen3.5-4B and larger: it thinks unless told not to."""

    name = "qwen3.5"
    syntax: CallSyntax = XmlCalls(json_scalars=False)
    opens = True
    preserve_thinking = False

    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> str:
        """`render` before it becomes tokens. Raises `TemplateError` for no messages, for a system message that is not
        the first, for a conversation in which nobody asked anything, and for what is not JSON."""
        if not messages:
            raise TemplateError("cannot render a conversation without messages")
        texts = [self.observed(message) for message in messages]
        out = [self._head(messages[0], texts[0], tools, thinking)]
        query = last_query(messages, texts)
        if query is None:
            raise TemplateError(f"{self.name} needs a user's message that is no tool response: there is none")
        for index, message in enumerate(messages):
            last = index == len(messages) - 1
            if message.role == "system" and index > 0:
                raise self._late_system()
            if message.role == "user":
                out.append(turn("user", texts[index]))
            elif message.role == "assistant":
                out.append(turn("assistant", self._assistant(message, block=self.preserve_thinking or index > query)))
            elif message.role == "tool":
                opens = index > 0 and messages[index - 1].role != "tool"  # at the very beginning it never opens
                closes = last or messages[index + 1].role != "tool"
                out.append(tool_result(texts[index], opens=opens, closes=closes))
        if generate:
            out.append(self.prompt(thinking))
        return "".join(out)

    def observed(self, message: Message) -> str:
        """Without the white space around it."""
        return message.text.strip()

    def appended(self, message: Message) -> str:
        """A user's turn. Raises `TemplateError` for a system message."""
        if message.role == "system":
            raise self._late_system()
        return super().appended(message)

    def _late_system(self) -> TemplateError:
        return TemplateError(
            f"{self.name} takes a system message at the beginning only: put it first, or say it as user"
        )

    def _instructions(self, thinking: Thinking | None) -> str:
        """What stands at the top of the system's turn because of the mode."""
        return ""

    def _head(self, first: Message, text: str, tools: Sequence[ToolSpec], thinking: Thinking | None) -> str:
        has_system = first.role == "system"
        above = self._instructions(thinking)
        if tools:
            schemas = "".join("\n" + dumps(tool.as_json(), f"the schema of tool {tool.name!r}") for tool in tools)
            below = ("\n\n" + text) if has_system and text else ""
            return turn("system", (above + "\n\n" if above else "") + _TOOLS + schemas + _CALLS + below)
        return self._plain_head(above, text if has_system else None)

    def _plain_head(self, above: str, text: str | None) -> str:
        return "" if text is None else turn("system", text)

    def _thought_and_content(self, message: Message) -> tuple[str, str]:
        thought, content = split_thought(message, message.text.strip())
        return thought.strip(), content

    def _assistant(self, message: Message, *, block: bool, sampled: bool = False) -> str:
        thought, content = self._thought_and_content(message)
        calls = "\n".join(self._call_text(message, sampled=sampled))
        gap = "\n\n" if calls and content.strip() else ""
        return (f"{OPENED}{thought}\n</think>\n\n" if block else "") + content + gap + calls

    def completion_text(self, message: Message, *, thinking: Thinking | None) -> str:
        """The rest of the think block that the prompt has opened, and what is said."""
        return self._assistant(message, block=self.thinks(thinking), sampled=True).removeprefix(OPENED)


class Qwen35SmallRenderer(Qwen35Renderer):
    """`types.Renderer` for Qwen3.5-2B and smaller: it does not think unless told to."""

    name = "qwen3.5-small"
    modes = (False, True)


class Qwen36Renderer(Qwen35Renderer):
    """`types.Renderer` for Qwen3.6. preserve_thinking: keep the thinking of turns before the last question."""

    name = "qwen3.6"
    syntax: CallSyntax = XmlCalls(json_scalars=True)

    def __init__(self, tokenizer: Tokenizer, *, closing: str = CLOSING, preserve_thinking: bool | None = None) -> None:
        super().__init__(tokenizer, closing=closing)
        if preserve_thinking is not None:
            self.preserve_thinking = preserve_thinking


_EFFORT = {
    "low": "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to the conclusion "
    "without unnecessary elaboration.",
    "medium": "",
    "xhigh": "Reasoning effort is set to xhigh. Please think carefully through the task, validate key assumptions, "
    "consider plausible alternatives, and prioritize correctness, consistency, and clarity in the final answer.",
}


class Qwen38Renderer(Qwen36Renderer):
    """`types.Renderer` for Qwen3.8. preserve_thinking: off drops the thinking of turns before the last question.

    `Thinking.effort` is a sentence in the system's turn: up to 1/3 low, up to 2/3 medium, above and without one xhigh.
    It belongs to the beginning: an `extend` with another effort leaves it as it was.
    """

    name = "qwen3.8"
    preserve_thinking = True

    def _instructions(self, thinking: Thinking | None) -> str:
        if not self.thinks(thinking):
            return ""
        effort = 1.0 if thinking is None or thinking.effort is None else thinking.effort
        return _EFFORT["low" if effort <= 1 / 3 else "medium" if effort <= 2 / 3 else "xhigh"]

    def _plain_head(self, above: str, text: str | None) -> str:
        whole = "\n\n".join(part for part in (above, text) if part)
        return turn("system", whole) if whole else ""

    def _thought_and_content(self, message: Message) -> tuple[str, str]:
        return message.reasoning.strip(), message.text.strip()  # a literal `</think>` stays where it is
