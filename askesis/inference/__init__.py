"""Engines: tokens in, tokens and their log-probabilities out."""

from askesis.inference.engine import EmbeddedEngine
from askesis.inference.router import ReplicaStats, Router
from askesis.inference.stats import EngineStats

__all__ = ["EmbeddedEngine", "EngineStats", "ReplicaStats", "Router"]
