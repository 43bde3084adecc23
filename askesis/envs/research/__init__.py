"""`research`: questions over a corpus where sources disagree, answered with quotes. See README.md beside this file."""

from askesis.envs.research.environment import Research

__all__ = ["Research"]
