"""Engines: tokens in, tokens and their log-probabilities out."""

from askesis.inference.engine import EmbeddedEngine, EngineStats

__all__ = ["EmbeddedEngine", "EngineStats"]
