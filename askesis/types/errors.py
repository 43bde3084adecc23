"""One root for every error that Askesis raises on purpose.

Each says what went wrong, where, what was got, what was expected, and what to do. The classes that map to an
`Outcome` carry it, so that the scheduler never has to guess who ended an episode.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AskesisError(Exception):
    """Root of all deliberate errors; `str(error)` is one readable message."""


class ConfigError(AskesisError):
    """A recipe, flag or environment option is wrong."""


class CheckpointError(AskesisError):
    """A checkpoint is missing, incomplete, or not of the architecture or tokenizer it claims."""


class TemplateError(AskesisError):
    """Messages that the renderer cannot express as tokens."""


class PrefixChanged(TemplateError):
    """A chat template would change tokens that were sampled already: the conversation can only go on as a branch."""


class SandboxError(AskesisError):
    """The sandbox itself failed (not the program that ran in it)."""


class ToolError(AskesisError):
    """A tool's own machinery failed; the agent is not to blame."""


class EnvError(AskesisError):
    """An environment could not set up a task."""


class VerifierError(AskesisError):
    """A verifier crashed or gave no verdict."""


class EngineError(AskesisError):
    """An engine refused or failed a request."""


class EngineGone(EngineError):
    """An engine is no longer there: its process or its machine has ended."""


class TrainerError(AskesisError):
    """A step of the trainer failed; what had not been committed is drawn again when the run is resumed."""


class StallError(AskesisError):
    """Something did not come back in the time that it was given, and nothing else could go on meanwhile."""


class ContextOverflow(AskesisError):
    """A context leaves no room to sample; ends an episode as a limit."""


class StoreError(AskesisError):
    """The trace store or the ledger is unreadable, or contradicts itself."""


class MissingExtra(AskesisError):
    """An optional dependency is not installed; the message has the exact install command."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of `known`, or the empty string: the tail of a message."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
