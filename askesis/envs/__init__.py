"""Environments: built-in ones by name, anybody's by path or import name; and tools made of functions."""

from askesis.envs.functions import tool
from askesis.envs.policies import NullPolicy, RandomPolicy
from askesis.envs.registry import ADAPTERS, BUILT_IN, load_env

__all__ = ["ADAPTERS", "BUILT_IN", "NullPolicy", "RandomPolicy", "load_env", "tool"]
