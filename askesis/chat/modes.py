"""The two modes of a hybrid model: the switches in a user's text, and how each mode is best sampled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from askesis.types import Message, Thinking

# the switch stands alone: `src/think.py` and `/thinking` are no switches
_SWITCH = re.compile(r"(?<![\w/.:])/(no_)?think(?![\w/-]|\.\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """How the makers of a model recommend to sample it; fields as in `types.Sampling`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float = 0.0


# The model cards of Qwen3 (and "never greedy" when it thinks)
THINKING = Recommended(temperature=0.6, top_p=0.95, top_k=20)
ANSWERING = Recommended(temperature=0.7, top_p=0.8, top_k=20)


def mode_of(messages: Sequence[Message], default: Thinking) -> Thinking:
    """The soft switch: the latest `/think` or `/no_think` in a system or user message wins over `default`.

    A switch stands alone between words; budget and effort stay those of `default`.
    """
    for message in reversed(messages):
        if message.role in ("system", "user") and (switches := _SWITCH.findall(message.text)):
            return replace(default, enabled=not switches[-1])
    return default
