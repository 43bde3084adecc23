"""Environments with a known hole, each beside the twin in which it is mended: to see what training makes of it."""

from askesis.envs.flawed.skipped import CountsSkipped

__all__ = ["CountsSkipped"]
