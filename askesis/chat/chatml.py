"""ChatML with Qwen's tokens: `<|im_start|>role` ... `<|im_end|>`. All of Qwen's families, but not how each writes."""

from __future__ import annotations

from collections.abc import Sequence

from askesis.chat.calls import CallSyntax
from askesis.chat.renderer import CLOSING, ChatRenderer
from askesis.chat.stream import Began, Markup
from askesis.chat.tokenizer import Tokenizer
from askesis.types import Message, Reasoning, TemplateError, Thinking, TokenIds, ToolSpec, ids

NO_THINKING = "<think>\n\n</think>\n\n"
OPENED = "<think>\n"
PROMPT = "<|im_start|>assistant\n"
_RESULT, _RESULT_ENDS = "<tool_response>", "</tool_response>"


class ChatMLRenderer(ChatRenderer):
    """A family of Qwen's. A tokenizer without Qwen's tokens gives `CheckpointError`."""

    syntax: CallSyntax
    opens = False
    """Whether the prompt itself opens the thinking."""
    shut = NO_THINKING
    """What the prompt ends with where the model is not to think."""

    def __init__(self, tokenizer: Tokenizer, *, closing: str = CLOSING) -> None:
        tokenizer.check_special()
        markup = Markup(
            think=tokenizer.id("<think>"),
            unthink=tokenizer.id("</think>"),
            stops=(tokenizer.id("<|im_end|>"), tokenizer.id("<|endoftext|>")),
            calls=self.syntax,
        )
        super().__init__(tokenizer, markup, closing=closing)
        self._newline = tuple(tokenizer.encode("\n"))
        self._parted = tokenizer.parts_at(_RESULT) and tokenizer.parts_at(_RESULT_ENDS)

    def prompt(self, thinking: Thinking | None) -> str:
        """What makes the model speak."""
        if self.thinks(thinking):
            return PROMPT + (OPENED if self.opens else "")
        return PROMPT + self.shut

    def _began(self, thinking: Thinking | None) -> Began:
        if not self.thinks(thinking):
            return "outside"
        return "inside" if self.opens else "either"

    def observed(self, message: Message) -> str:
        """The text of a message that was not sampled, as the template puts it between its marks."""
        return message.text

    def extend(
        self,
        tokens: TokenIds,
        messages: Sequence[Message],
        *,
        thinking: Thinking | None = None,
        generate: bool = True,
        history: Sequence[Message] = (),
        tools: Sequence[ToolSpec] = (),
    ) -> TokenIds:
        """Appends always. docs/renderers.md says where the template would have changed what stands before."""
        known = self._parted and all(message.role == "tool" for message in messages)
        encode = self.tokenizer.encode_again if known else self.tokenizer.encode
        new: list[int] = [*self._close(tokens)]
        text = ""  # that is not encoded yet
        for index, message in enumerate(messages):
            if message.role == "assistant":
                raise TemplateError("extend takes user, system and tool messages; an assistant's turn is sampled")
            if message.role != "tool":
                text += self.appended(message)
                continue
            opens = index == 0 or messages[index - 1].role != "tool"
            closes = index == len(messages) - 1 or messages[index + 1].role != "tool"
            result = tool_result(self.observed(message), opens=opens, closes=closes)
            if not self._parted:
                text += result
                continue
            # Nothing outside of its marks has a say in a result's tokens. What is around it is mostly the same, and
            # known then; encoding is the dearest part of what a turn costs here.
            begins, ends = result.index(_RESULT) + len(_RESULT), result.rindex(_RESULT_ENDS)
            new += encode(text + result[:begins])
            new += self.tokenizer.encode(result[begins:ends])
            text = result[ends:]
        if generate:
            text += self.prompt(thinking)
        return ids([*new, *encode(text)])

    def appended(self, message: Message) -> str:
        """A user's or a system's turn in the middle of a conversation."""
        return turn(message.role, self.observed(message))

    def _close(self, tokens: TokenIds) -> tuple[int, ...]:
        """What must follow `tokens` before the next turn can open."""
        end = self.stop_ids[0]
        if len(tokens) == 0:
            return ()
        if int(tokens[-1]) == end:
            return self._newline
        tail = tuple(int(t) for t in tokens[-len(self._newline) - 1 :])
        if tail == (end, *self._newline):
            return ()
        return (end, *self._newline)


def turn(role: str, text: str) -> str:
    """One turn, closed."""
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def tool_result(text: str, *, opens: bool, closes: bool) -> str:
    """A result within a user's turn: consecutive ones share one."""
    body = f"\n<tool_response>\n{text}\n</tool_response>"
    return ("<|im_start|>user" if opens else "") + body + ("<|im_end|>\n" if closes else "")


def last_query(messages: Sequence[Message], texts: Sequence[str]) -> int | None:
    """Where a person last asked something; a user message that is all tool response does not count."""
    for index in range(len(messages) - 1, -1, -1):
        wrapped = texts[index].startswith("<tool_response>") and texts[index].endswith("</tool_response>")
        if messages[index].role == "user" and not wrapped:
            return index
    return None


def split_thought(message: Message, content: str) -> tuple[str, str]:
    """Reasoning and text. A literal `</think>` in the text of a message without reasoning splits it: the templates'
    own quirk."""
    if any(isinstance(part, Reasoning) for part in message.parts):
        return message.reasoning, content
    if "</think>" in content:
        head, tail = content.split("</think>")[0], content.split("</think>")[-1]
        return head.rstrip("\n").split("<think>")[-1].lstrip("\n"), tail.lstrip("\n")
    return "", content
