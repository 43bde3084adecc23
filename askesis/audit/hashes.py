"""What an audit was of: hashes of an environment's code and tasks, and the file that it comes from."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from askesis.types import Env, Task

HASH = "tasks' hash"  # an order to a worker that is no probe


def origin(env: Env) -> str:
    """The file that holds the environment's class; empty for none."""
    inner: Any = env
    while hasattr(inner, "inner"):  # wrappers
        inner = inner.inner
    module = sys.modules.get(type(inner).__module__)
    file = getattr(module, "__file__", None)
    return file or (inspect.getsourcefile(type(inner)) if module is not None else None) or ""


def code_hash(env: Env) -> str:
    """16 hex digits over the environment's files: its module's, and of a package all Python that lies in its folder."""
    file = origin(env)
    if not file:
        return ""
    own = Path(file)
    files = sorted(own.parent.rglob("*.py")) if (own.parent / "__init__.py").exists() else [own]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def tasks_hash(tasks: Sequence[Task]) -> str:
    """16 hex digits over the tasks' ids, in their order."""
    return hashlib.sha256("/".join(task.id for task in tasks).encode()).hexdigest()[:16]
