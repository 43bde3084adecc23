"""Any checkpoint's own chat template: rendered by the template, extended by comparing two of its renderings.

What the template writes is not known beforehand, so it is asked: what does a prompt end with in either mode, what ends
a turn, how is a call written. And before a conversation goes on, whether the template would leave what was sampled as
it is. Where it would not (it drops the thinking of an earlier answer, it moves the tools), `extend` raises
`PrefixChanged`: only a branch can go on, and that must be seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from askesis.chat.calls import CLOSE, OPEN, CallSyntax, JsonCalls
from askesis.chat.modes import Recommended
from askesis.chat.renderer import CLOSING, ChatRenderer
from askesis.chat.stream import Began, Markup
from askesis.chat.template import ChatTemplate
from askesis.chat.tokenizer import Tokenizer
from askesis.chat.xml_calls import XmlCalls
from askesis.types import (
    CheckpointError,
    Message,
    PrefixChanged,
    TemplateError,
    Thinking,
    TokenIds,
    ToolCall,
    ToolSpec,
    assistant,
    ids,
    user,
)

_QUESTION = user("What now?")
_TOOL = ToolSpec(
    name="probe_tool",
    description="Probe.",
    parameters={"type": "object", "properties": {"text": {"type": "string"}, "yes": {"type": "boolean"}}},
)
_CALL = ToolCall(id="call_0", name="probe_tool", arguments={"text": "words", "yes": True})
_SYNTAXES: tuple[CallSyntax, ...] = (JsonCalls(), XmlCalls(json_scalars=True), XmlCalls(json_scalars=False))
_OPENED = re.compile(r"<think>\s*$")
_SHUT = re.compile(r"</think>\s*$")
_BLOCK = re.compile(r"<think>\s*(</think>\s*)?$")


class GenericRenderer(ChatRenderer):
    """`types.Renderer` for a template that is of no family known here.

    calls: how calls are written (`json`, `xml`, `none`); None finds out. stops: tokens that end a turn, beside the one
    that the template writes. recommended: the checkpoint's own sampling, for both modes. Raises `CheckpointError` for
    a template whose prompt or whose end of a turn cannot be made out.
    """

    name = "generic"

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        closing: str = CLOSING,
        calls: str | None = None,
        stops: Iterable[int] = (),
        recommended: Recommended | None = None,
    ) -> None:
        self._template = template
        if recommended is not None:
            self.recommended = {True: recommended, False: recommended}
        think, unthink = tokenizer.find("<think>"), tokenizer.find("</think>")
        tagged = think is not None and unthink is not None
        try:
            self._prompts = {enabled: self._prompt(Thinking(enabled=enabled)) for enabled in (True, False)}
            default = self._prompt(None)
            self.modes = self._modes(default, tagged)
            end = self._end(tokenizer, stops)
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint's chat template cannot be used: {error}") from error
        markup = Markup(
            think=think if tagged and think is not None else -1,
            unthink=unthink if tagged and unthink is not None else -1,
            stops=tuple(dict.fromkeys([end, *stops])),
            calls=self._syntax(calls),
        )
        super().__init__(tokenizer, markup, closing=closing)
        self._end_text = tokenizer.decode([end])

    # -- finding out -------------------------------------------------------------------------------------------------

    def _prompt(self, thinking: Thinking | None) -> str:
        """What the template adds to make the model speak."""
        before = self._template.render([_QUESTION], thinking=thinking, generate=False)
        whole = self._template.render([_QUESTION], thinking=thinking)
        if not whole.startswith(before):
            raise TemplateError("its generation prompt changes what stands before it")
        return whole[len(before) :]

    def _modes(self, default: str, tagged: bool) -> tuple[bool, ...]:
        """The modes that there are, the default first."""
        on, off = (self._template.render([_QUESTION], thinking=Thinking(enabled=one)) for one in (True, False))
        if on != off:
            return (True, False) if self._template.render([_QUESTION]) == on else (False, True)
        return (tagged and (_OPENED.search(default) is not None or "</think>" in self._template.source),)

    def _end(self, tokenizer: Tokenizer, stops: Iterable[int]) -> int:
        """The token that ends an assistant's turn: the first special one that the template writes after its text."""
        said = "An answer."
        text = self._template.render([_QUESTION, assistant(said)], generate=False)
        tail = tokenizer.encode(text[text.rindex(said) + len(said) :]) if said in text else []
        found = next((token for token in tail if token in tokenizer.special_ids), None)
        found = next(iter(stops), None) if found is None else found
        if found is None:
            raise TemplateError("it writes no special token that ends an assistant's turn, and no other is known")
        return found

    def _syntax(self, calls: str | None) -> CallSyntax | None:
        """How the template writes calls: the first way of which it is true that a call can be read back."""
        if calls == "none":
            return None
        try:
            text = self._template.render([_QUESTION, assistant(tool_calls=(_CALL,))], tools=[_TOOL], generate=False)
        except TemplateError:
            text = ""
        written = re.findall(re.escape(OPEN) + "(.*?)" + re.escape(CLOSE), text, re.DOTALL)[-1:]
        likely = sorted(_SYNTAXES, key=lambda syntax: [syntax.write(_CALL)] != written)  # what writes it to the letter
        for syntax in likely:
            if calls in (None, syntax.name) and any(self._reads(syntax, raw) for raw in written):
                return syntax
        return next((syntax for syntax in likely if syntax.name == calls), None)

    @staticmethod
    def _reads(syntax: CallSyntax, raw: str) -> bool:
        read = syntax.read(raw, _CALL.id, [_TOOL])
        return isinstance(read, ToolCall) and (read.name, read.arguments) == (_CALL.name, _CALL.arguments)

    def _began(self, thinking: Thinking | None) -> Began:
        enabled = self.thinks(thinking)
        prompt = self._prompts[enabled]
        if _OPENED.search(prompt) is not None:
            return "inside"
        return "outside" if not enabled or _SHUT.search(prompt) is not None else "either"

    # -- to tokens ---------------------------------------------------------------------------------------------------

    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> str:
        """`render` before it becomes tokens. Raises `TemplateError` for no messages, where the template fails, and for
        tools whose calls could not be read."""
        if not messages:
            raise TemplateError("cannot render a conversation without messages")
        if tools and self.calls is None:
            raise TemplateError(
                "nobody knows how this checkpoint's template writes calls, so it can have no tools; if its calls stand "
                'between <tool_call> tags, say how with "calls": "json" or "xml" in askesis_chat.json'
            )
        self.thinks(thinking)
        return self._template.render(messages, tools=tools, thinking=thinking, generate=generate)

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
        """What the template writes after `history`, if it leaves all that stands before as it is.

        Raises `TemplateError` without a history, and `PrefixChanged` where the template would change it.
        """
        if any(message.role == "assistant" for message in messages):
            raise TemplateError("extend takes user, system and tool messages; an assistant's turn is sampled")
        if not history and len(tokens) == 0:
            return self.render(messages, tools=tools, thinking=thinking, generate=generate)
        if not history:
            raise TemplateError("the generic renderer extends by comparing renderings: it needs the history")
        before = self.render_text(history, tools=tools, thinking=thinking, generate=False)
        after = before
        if messages or generate:
            after = self.render_text([*history, *messages], tools=tools, thinking=thinking, generate=generate)
        if not after.startswith(before):
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
            raise PrefixChanged(
                "the chat template would change what stands before the new messages: "
                f"{before[max(0, at - 20) : at + 20]!r} would become {after[max(0, at - 20) : at + 20]!r}; "
                "go on in a branch, rendered anew"
            )
        if history[-1].role != "assistant":
            return ids(self.tokenizer.encode(after[len(before) :]))
        self._check_kept(before, history, tools)
        end = before.rfind(self._end_text)
        new = self.tokenizer.encode(after[end + len(self._end_text) :])
        ended = len(tokens) > 0 and int(tokens[-1]) == self.stop_ids[0]
        return ids(new if ended else [self.stop_ids[0], *new])

    def _check_kept(self, before: str, history: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
        """Whether the answer that `before` ends with stands there as it was sampled: after a prompt, with its thinking.

        Raises `PrefixChanged` if not.
        """
        prompts = [
            self._template.render(history[:-1], tools=tools, thinking=Thinking(enabled=mode)) for mode in self.modes
        ]
        start = next((len(prompt) for prompt in prompts if before.startswith(prompt)), None)
        if start is None:
            raise PrefixChanged(
                "the chat template would write the last answer without what its prompt ended with "
                f"({prompts[0][-30:]!r}); go on in a branch, rendered anew"
            )
        if history[-1].reasoning.strip() not in before[start:]:
            raise PrefixChanged(
                "the chat template would leave out the thinking of the last answer; go on in a branch, rendered anew"
            )

    def completion_text(self, message: Message, *, thinking: Thinking | None) -> str:
        """What the template writes for an answer; with its thinking, also where the template would leave that out."""
        enabled = self.thinks(thinking)
        mode = Thinking(enabled=enabled)
        before = self._template.render([_QUESTION], thinking=mode, generate=False)
        text = self._template.render([_QUESTION, message], thinking=mode, generate=False)
        end = text.rfind(self._end_text)
        if not text.startswith(before) or end < len(before):
            raise TemplateError("the chat template does not write an answer after its question and before its end")
        text, prompt = text[len(before) : end], self._prompts[enabled]
        if text.startswith(prompt) and message.reasoning.strip() in text[len(prompt) :]:
            said = text[len(prompt) :]
        else:
            header = _BLOCK.sub("", prompt)
            if not text.startswith(header):
                raise TemplateError(f"the chat template does not begin an answer as its prompt does: {header!r}")
            said = self._block(message, mode) + text[len(header) :]
        return self._as_sampled(said, message.tool_calls)

    def _block(self, message: Message, thinking: Thinking) -> str:
        began = self._began(thinking)
        if began == "outside" or (began == "either" and not message.reasoning):
            return ""
        return ("" if began == "inside" else "<think>\n") + message.reasoning.strip("\n") + "\n</think>\n\n"

    def _as_sampled(self, text: str, calls: Sequence[ToolCall]) -> str:
        """`text` with the calls as they were sampled, where they still are what was sampled."""
        if not calls:
            return text
        if self.calls is None:
            raise TemplateError("nobody knows how this checkpoint's template writes calls, so there can be none")
        at = 0
        for call in calls:
            start = text.find(OPEN, at)
            end = -1 if start < 0 else self.calls.end(text[start + len(OPEN) :])
            if end is None or end < 0:
                raise TemplateError(f"the chat template does not write a call to {call.name!r} so that it can be read")
            at, stop = start + len(OPEN), start + len(OPEN) + end
            if call.raw and self.calls.unchanged(call):
                text, stop = text[:at] + call.raw + text[stop:], at + len(call.raw)
            at = stop
        return text
