"""For episodes that no model speaks in: a renderer whose tokens nobody looks at, tasks without bounds of tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from askesis.types import Renderer, Task

_NO_BOUND = 2**20  # tokens of a turn: a scripted policy has no tokens of its own that a limit could be about


@lru_cache(maxsize=1)
def plain_renderer() -> Renderer:
    """Qwen3's format over single bytes. Loads no file and no torch."""
    from askesis.chat import Qwen3Renderer, train_bpe

    return Qwen3Renderer(train_bpe([""], 256))


def token_free(task: Task) -> Task:
    """The task without its bounds of tokens."""
    return replace(task, limits=replace(task.limits, max_tokens=None, max_turn_tokens=_NO_BOUND))
