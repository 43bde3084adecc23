"""A checkpoint in hand: model, renderer and configuration, and a way to talk to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from askesis.chat import ChatRenderer, load_effort, load_renderer, resolve
from askesis.inference import EmbeddedEngine
from askesis.loop import checkpoints
from askesis.loop.prepared import run_async
from askesis.models import ModelConfig, Qwen3, load_checkpoint
from askesis.types import ConfigError, Message, Text, Thinking, ToolSpec, nearest

_CONTEXT = 4096  # tokens that `generate` reserves, where the model has as many positions
_ROLES = ("system", "user", "assistant", "tool")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(slots=True, kw_only=True, eq=False)
class Bundle:
    """What `askesis.load` gives."""

    path: Path
    model: Qwen3
    renderer: ChatRenderer

    @property
    def config(self) -> ModelConfig:
        """The model's dimensions."""
        return self.model.config

    def engine(self, *, slots: int = 64, context_length: int | None = None, compile: bool = False) -> EmbeddedEngine:
        """An engine on these weights; close it when done."""
        length = context_length or min(_CONTEXT, self.config.context_length)
        return EmbeddedEngine(self.model, slots=slots, context_length=length, compile=compile)

    def generate(
        self,
        messages: str | Sequence[Message | Mapping[str, str]],
        *,
        thinking: bool | Thinking | None = None,
        tools: Sequence[ToolSpec] = (),
        max_tokens: int = 512,
        seed: int | None = None,
        **sampling: Any,
    ) -> Message:
        """The assistant's next message.

        messages: a user's text, `types.Message`s, or dictionaries with `role` and `content`. thinking: the mode; None
        for the family's default. sampling: fields of `types.Sampling` (`temperature`, `top_p`, `top_k`, `min_p`);
        unset, those recommended for the mode.
        Raises `ConfigError` for a role or a parameter that there is not.
        """
        if thinking is None:
            thinking = self.renderer.default
        thought = thinking if isinstance(thinking, Thinking) else Thinking(enabled=thinking)
        thought = resolve(thought, load_effort(self.path), checkpoint=self.path)
        conversation = [as_message(messages)] if isinstance(messages, str) else [*map(as_message, messages)]
        for name in sampling:
            if name not in _SAMPLING:
                raise ConfigError(f"generate: unknown parameter {name!r}{nearest(name, _SAMPLING)}")
        prompt = self.renderer.render(conversation, tools=tools, thinking=thought)
        request = replace(self.renderer.sampling(thought), max_tokens=max_tokens, seed=seed)
        if sampling:
            off = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
            request = replace(request, **off | sampling)

        async def answer() -> Message:
            room = min(self.config.context_length, len(prompt) + max_tokens)
            engine = self.engine(slots=1, context_length=room)
            try:
                completion = await engine.generate(prompt, request)
            finally:
                await engine.close()
            return self.renderer.parse(completion.token_ids, thinking=thought, tools=tools)

        return run_async(answer)


def as_message(value: str | Message | Mapping[str, str]) -> Message:
    """A message from a user's text, or from a dictionary. Raises `ConfigError` for an unknown role."""
    if isinstance(value, Message):
        return value
    if isinstance(value, str):
        return Message(role="user", parts=(Text(text=value),))
    role = value.get("role", "")
    if role not in _ROLES:
        raise ConfigError(f"message with role {role!r}{nearest(role, _ROLES)}: expected one of {', '.join(_ROLES)}")
    return Message(role=role, parts=(Text(text=value.get("content", "")),))  # type: ignore[arg-type]


def load(checkpoint: str | Path) -> Bundle:
    """Open a checkpoint: `askesis-tiny`, a Hugging Face folder, or a run's folder. Raises `CheckpointError`."""
    path = checkpoints.resolve(checkpoint)
    model, _ = load_checkpoint(path)
    return Bundle(path=path, model=model, renderer=load_renderer(path))
