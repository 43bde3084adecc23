"""A file of prepared tasks: one line with the project as it was when they were made, then a line for each task.

The file is all that is needed to train: it has the sources and the tests in it, and the hash of their content.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from askesis.envs.repair.project.reading import Project
from askesis.types import ConfigError

FORMAT = "askesis repair_project 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """requires: what the tests need beside pytest. pytest_args: further arguments of it. python: the version (3.11)
    under which everything was tried. tasks: the data of each. made: what came of making them, for people."""

    project: Project
    tasks: Sequence[Mapping[str, Any]]
    requires: Sequence[str] = ()
    pytest_args: Sequence[str] = ()
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}"
    made: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file at `path`, at once and whole; packed where its name ends in .gz."""
        project = self.project
        header = {
            "format": FORMAT,
            "name": project.name,
            "digest": project.digest,
            "python": self.python,
            "requires": [*self.requires],
            "pytest_args": [*self.pytest_args],
            "roots": [*project.roots],
            "sources": [*project.sources],
            "tests": [*project.tests],
            "made": dict(self.made),
            "files": {name: _text(content) for name, content in sorted(project.files.items())},
        }
        lines = [json.dumps(one, sort_keys=True, ensure_ascii=False) for one in (header, *self.tasks)]
        data = "".join(f"{line}\n" for line in lines).encode()
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        scratch.rename(path)


def read_task_file(path: str | Path) -> TaskFile:
    """What `TaskFile.write` wrote. Raises `ConfigError` for anything else, and for a file that was changed."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise ConfigError(
            f"repair_project: no task file {place} (looked in {Path.cwd()}); "
            f"make one of a project with tests: askesis envs make-repair PROJECT -o {place.name}"
        )
    try:
        data = place.read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode().split("\n")
        header, *tasks = [json.loads(line) for line in lines if line]
        if header["format"] != FORMAT:
            raise ConfigError(f"{place}: its format is {header['format']!r}, expected {FORMAT!r}; make it anew")
        project = Project(
            name=header["name"],
            files={name: _bytes(content) for name, content in header["files"].items()},
            roots=tuple(header["roots"]),
            sources=tuple(header["sources"]),
            tests=tuple(header["tests"]),
        )
        found = TaskFile(
            project=project,
            tasks=tasks,
            requires=tuple(header["requires"]),
            pytest_args=tuple(header["pytest_args"]),
            python=header["python"],
            made=header["made"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place} is no task file of repair_project: {type(error).__name__}: {error}") from error
    if project.digest != header["digest"] or any(task.get("digest") != header["digest"] for task in tasks):
        raise ConfigError(f"{place}: what is in it is not what its hash was made of; make it anew")
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if found.python != ours:
        raise ConfigError(
            f"{place}: its tasks were tried under Python {found.python}, this is {ours}: what fails and what passes "
            "may be otherwise; make it anew"
        )
    return found


def _text(content: bytes) -> str | dict[str, str]:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _bytes(content: Any) -> bytes:
    return content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])
