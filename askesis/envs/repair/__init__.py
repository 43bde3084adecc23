"""`repair`: broken Python modules, their tests, and a verifier out of reach. See README.md beside this file."""

from askesis.envs.repair.environment import Repair

__all__ = ["Repair"]
