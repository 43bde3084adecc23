"""Askesis trains agents: language models that think in order to act."""

__version__ = "0.1.0"
