"""The command line. `main` is the entry point; nothing heavy is imported before a command runs."""

from askesis.cli.app import app, main

__all__ = ["app", "main"]
