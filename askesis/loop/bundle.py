"""A checkpoint in hand: model, renderer and configuration, and a way to talk to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from askesis.chat import Qwen3Renderer, load_renderer
from askesis.inference import EmbeddedEngine
from askesis.loop import checkpoints
from askesis.loop.prepared import run_async
from askesis.models import ModelConfig, Qwen3, load_checkpoint
from askesis.types import ConfigError, Message, Sampling, Text, Thinking, ToolSpec, nearest

_CONTEXT = 4096  # tokens that `generate` reserves, where the model has as many positions
_ROLES = ("system", "user", "assistant", "tool")
# Qwen's recommendation for its models, thinking or not
_THINKING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
_ANSWERING = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}


@dataclass(slots=True, kw_only=True, eq=False)
class Bundle:
    """What `askesis.load` gives."""

    path: Path
    model: Qwen3
    renderer: Qwen3Renderer

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
        thinking: bool | Thinking = True,
        tools: Sequence[ToolSpec] = (),
        max_tokens: int = 512,
        seed: int | None = None,
        **sampling: Any,
    ) -> Message:
        """The assistant's next message.

        messages: a user's text, `types.Message`s, or dictionaries with `role` and `content`. sampling: fields of
        `types.Sampling` (`temperature`, `top_p`, `top_k`, `min_p`); unset, those recommended for the mode.
        Raises `ConfigError` for a role or a parameter that there is not.
        """
        thought = thinking if isinstance(thinking, Thinking) else Thinking(enabled=thinking)
        conversation = [as_message(messages)] if isinstance(messages, str) else [*map(as_message, messages)]
        for name in sampling:
            if name not in ("temperature", "top_p", "top_k", "min_p"):
                raise ConfigError(f"generate: unknown parameter {name!r}{nearest(name, _THINKING | {'min_p': 0})}")
        if not sampling:
            sampling = dict(_THINKING if thought.enabled else _ANSWERING)
        prompt = self.renderer.render(conversation, tools=tools, thinking=thought)
        request = Sampling(
            max_tokens=max_tokens,
            stop=self.renderer.stop_ids,
            seed=seed,
            thinking=self.renderer.thinking_limit(thought),
            **sampling,
        )

        async def answer() -> Message:
            room = min(self.config.context_length, len(prompt) + max_tokens)
            engine = self.engine(slots=1, context_length=room)
            try:
                completion = await engine.generate(prompt, request)
            finally:
                await engine.close()
            return self.renderer.parse(completion.token_ids, thinking=thought)

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
