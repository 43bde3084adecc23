"""What every family shares: tokens back to messages, budgets, sampling, and the rules of a conversation that grows.

A family says how its template writes (`render_text`), what it appends (`extend`), what a model would have sampled
(`completion_text`), and which modes it has. The rest is here, once.

Think tags count where they are the vocabulary's own tokens; a model that spells one out in letters has only written
text. Special tokens inside messages are recognised, as they are where an official template meets its tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from askesis.chat.calls import CLOSE, OPEN, CallSyntax
from askesis.chat.modes import ANSWERING, THINKING, Recommended, mode_of
from askesis.chat.stream import Began, Markup, Stream
from askesis.chat.tokenizer import SPECIAL, Tokenizer
from askesis.types import (
    Message,
    Sampling,
    TemplateError,
    Thinking,
    ThinkingLimit,
    TokenIds,
    ToolSpec,
    ids,
)

# Qwen3 Technical Report, section 4.3: what is put in when the thinking budget is used up
CLOSING = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)


class ChatRenderer(ABC):
    """`types.Renderer` for one family and one tokenizer.

    closing: the text forced in at the thinking budget. It ends the thinking: exactly one think tag, `</think>`, and
    nothing special beside it (else `TemplateError`).
    """

    name: str
    modes: tuple[bool, ...] = (True, False)
    """The values of `Thinking.enabled` that there are, the default first."""
    switches = False
    """Whether the models were trained on `/think` and `/no_think` in what is said to them."""
    recommended: Mapping[bool, Recommended] = {True: THINKING, False: ANSWERING}

    def __init__(self, tokenizer: Tokenizer, markup: Markup, *, closing: str) -> None:
        self.tokenizer = tokenizer
        self.closing = closing
        self._markup = markup
        self._closing = tuple(tokenizer.encode(closing))
        special = set(markup.stops) | {found for token in SPECIAL if (found := tokenizer.find(token)) is not None}
        if markup.unthink >= 0 and [token for token in self._closing if token in special] != [markup.unthink]:
            raise TemplateError(
                f"closing text {closing!r} does not just end the thinking: expected one </think>, nothing else special"
            )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a turn."""
        return self._markup.stops

    @property
    def calls(self) -> CallSyntax | None:
        """How calls are written; None where they cannot be read."""
        return self._markup.calls

    @property
    def default(self) -> bool:
        """Whether the template has the model think where nobody says."""
        return self.modes[0]

    # -- to tokens -----------------------------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> TokenIds:
        """The whole conversation as the official template writes it. Raises as `render_text` does."""
        text = self.render_text(messages, tools=tools, thinking=thinking, generate=generate)
        return ids(self.tokenizer.encode_again(text))

    @abstractmethod
    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: Thinking | None = None,
        generate: bool = True,
    ) -> str:
        """`render` before it becomes tokens. Raises `TemplateError` for no messages, for what the template does not
        take, for a mode that the family does not have, and for what is not JSON."""

    @abstractmethod
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
        """The new tokens that append `messages` to `tokens`: nothing before them is touched.

        A turn that a limit cut off is closed first. history, tools: what `tokens` were rendered from, where the
        caller has them. Raises `TemplateError` for an assistant message: what the model says is sampled, or comes in
        through `render_completion`; and `PrefixChanged` where only a branch can go on.
        """

    @abstractmethod
    def completion_text(self, message: Message, *, thinking: Thinking | None) -> str:
        """What follows the generation prompt where a model says `message`, without the token that ends the turn."""

    def render_completion(self, message: Message, *, thinking: Thinking | None = None) -> TokenIds:
        """The tokens that a model would have sampled to say `message`, from the generation prompt to the turn's end.

        `parse` gives the message back. A call that still has its sampled text (`raw`) is written as it was sampled.
        Raises `TemplateError` for what no model can have sampled: reasoning with thinking switched off, think tags
        inside reasoning or text, a token that ends the turn before its end.
        """
        thought, content = self._thought_and_content(message)
        if thought and not self.thinks(thinking):
            raise TemplateError("a completion cannot have reasoning with thinking switched off")
        if any(tag in part for part in (thought, content) for tag in ("<think>", "</think>")):
            raise TemplateError(f"a completion cannot have think tags inside its reasoning or text: {message}")
        tokens = self.tokenizer.encode(self.completion_text(message, thinking=thinking))
        if any(token in self.stop_ids for token in tokens):
            raise TemplateError(f"a completion cannot go on after a token that ends the turn: {message}")
        return ids([*tokens, self.stop_ids[0]])

    def thinks(self, thinking: Thinking | None) -> bool:
        """Whether `thinking` (None: the family's default) is the thinking mode. Raises `TemplateError` where the
        family has no such mode."""
        enabled = self.default if thinking is None else thinking.enabled
        if enabled not in self.modes:
            has = "never thinks: give Thinking(enabled=False)" if enabled else "always thinks: give Thinking()"
            raise TemplateError(f"{self.name} has no such mode; it {has}")
        return enabled

    def mode_of(self, messages: Sequence[Message], default: Thinking) -> Thinking:
        """`default`, unless a `/think` or `/no_think` says otherwise (the last one wins), where the family has them."""
        return mode_of(messages, default) if self.switches else default

    def _thought_and_content(self, message: Message) -> tuple[str, str]:
        """Reasoning and text, as the template takes them."""
        return message.reasoning, message.text

    def _call_text(self, message: Message, *, sampled: bool) -> list[str]:
        """Each call of `message` with its tags; as it was sampled, where it still is what was sampled."""
        if message.tool_calls and self.calls is None:
            raise TemplateError(f"{self.name}: nobody knows how this template's calls are read, so there can be none")
        out = []
        for call in message.tool_calls:
            assert self.calls is not None
            kept = sampled and bool(call.raw) and self.calls.unchanged(call)
            out.append(f"{OPEN}{call.raw if kept else self.calls.write(call)}{CLOSE}")
        return out

    # -- back to messages ----------------------------------------------------------------------------------------

    @abstractmethod
    def _began(self, thinking: Thinking | None) -> Began:
        """Where a completion begins: in the thinking, after it, or at the model's choice."""

    def stream(self, *, thinking: Thinking | None = None, tools: Sequence[ToolSpec] = ()) -> Stream:
        """A completion to be read as it is sampled; see `askesis.chat.stream`."""
        return Stream(self.tokenizer, self._markup, self._began(thinking), tools)

    def parse(self, tokens: TokenIds, *, thinking: Thinking | None = None, tools: Sequence[ToolSpec] = ()) -> Message:
        """A completion as a message. Reasoning is taken out before any call is looked for, so drafts never run.

        tools: their schemas give the arguments of XML calls their types.
        """
        stream = self.stream(thinking=thinking, tools=tools)
        stream.feed(tokens)
        stream.finish()
        return stream.message

    def thinking_tokens(self, tokens: TokenIds, *, thinking: Thinking | None = None) -> int:
        """How many of a completion's tokens were thought; the tags do not count."""
        stream = self.stream(thinking=thinking)
        stream.feed(tokens)
        stream.finish()
        return stream.thinking_tokens

    # -- what an engine is told ----------------------------------------------------------------------------------

    def thinking_limit(self, thinking: Thinking) -> ThinkingLimit | None:
        """The budget of one turn in this vocabulary's ids: no more than the whole episode's.

        Raises `TemplateError` where the vocabulary has no think tags.
        """
        bounds = [bound for bound in (thinking.budget, thinking.episode_budget) if bound is not None]
        if not thinking.enabled or not bounds:
            return None
        if self._markup.unthink < 0:
            raise TemplateError(f"{self.name}: the vocabulary has no think tags, so thinking cannot have a budget")
        call, uncall = self.tokenizer.find(OPEN), self.tokenizer.find(CLOSE)
        return ThinkingLimit(
            budget=min(bounds),
            open_id=self._markup.think,
            close_id=self._markup.unthink,
            closing=self._closing,
            open=self._began(thinking) == "inside",
            call_open_id=-1 if call is None else call,
            call_close_id=-1 if uncall is None else uncall,
        )

    def sampling(self, thinking: Thinking | None = None) -> Sampling:
        """The recommended sampling of a mode (None: the family's default), with its stops and its budget."""
        enabled = self.thinks(thinking)
        return Sampling(
            **asdict(self.recommended[enabled]),
            stop=self.stop_ids,
            thinking=None if thinking is None else self.thinking_limit(thinking),
        )

    def decode(self, tokens: TokenIds) -> str:
        """The text of `tokens`, special ones included."""
        return self.tokenizer.decode(np.asarray(tokens))
