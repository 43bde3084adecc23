"""`terminal`: tasks in a shell over generated trees of files, logs and small services."""

from askesis.envs.terminal.environment import TEMPLATES, TerminalTasks

__all__ = ["TEMPLATES", "TerminalTasks"]
