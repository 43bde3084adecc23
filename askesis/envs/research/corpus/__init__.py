"""A user's own corpus: read, made searchable, joined by sources not to trust, and asked about."""

from askesis.envs.research.corpus.entries import bare, normal, plain
from askesis.envs.research.corpus.shelf import Shelf

__all__ = ["Shelf", "bare", "normal", "plain"]
