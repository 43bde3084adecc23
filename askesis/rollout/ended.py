"""The end of an episode, as agents hear of it."""

from __future__ import annotations

from askesis.types import AskesisError


class EpisodeEnded(AskesisError):
    """Raised by `Session.turn` when no further turn is possible. Agents let it pass; the episode is over."""


def said(error: BaseException) -> str:
    """An error in one line, for an outcome's detail."""
    return f"{type(error).__name__}: {error}"
