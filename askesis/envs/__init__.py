"""Environments: built-in ones by name, and anybody's by path or import name."""

from askesis.envs.registry import BUILT_IN, load_env

__all__ = ["BUILT_IN", "load_env"]
