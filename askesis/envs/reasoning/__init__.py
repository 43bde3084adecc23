"""`reasoning`: math, logic and code out of reasoning-gym, judged strictly. See README.md beside this file."""

from askesis.envs.reasoning.environment import Reasoning

__all__ = ["Reasoning"]
