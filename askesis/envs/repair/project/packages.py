"""The packages that tests need, in a folder of their own that a sandbox can read: pytest and what the project requires.

They are copied from the environment that Askesis runs in. Nothing else that is installed there, or beside an
interpreter of the system, is shown to an agent: the project itself may be, and that would be the answer to every task.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from askesis.envs.repair.project.reading import Project
from askesis.sandbox import LazyPool
from askesis.types import ConfigError, MissingExtra, RunLimits

INSTALL = "pip install 'askesis[repair]'"


def site_folder(requires: Sequence[str], *, without: Project | None = None) -> Path:
    """A folder with pytest and `requires`, and with what they require; made once, under the user's cache.

    requires: as in a package's metadata (`text-unidecode>=1.3`). without: the project: no distribution of
    its name, or with a file of its sources, comes along. Raises `MissingExtra`
    where pytest is not installed, `ConfigError` where another one is not, or where no folder can be made.
    """
    found = _closure(requires, without)
    wanted = sorted(f"{name}=={one.version}" for name, one in found.items())
    digest = hashlib.sha256("\n".join((*wanted, sys.version)).encode()).hexdigest()[:16]
    place = _cache() / f"site-{digest}"
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _visible(place.parent)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / "site"
            made.mkdir()
            for one in found.values():
                _copy(one, made)
            compileall.compile_dir(made, quiet=2)
            for folder, _, files in os.walk(made):
                Path(folder).chmod(0o755)
                for name in files:
                    (Path(folder) / name).chmod(0o644)
            try:
                made.rename(place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise
    except OSError as error:
        raise ConfigError(
            f"repair_project: the packages for the sandbox could not be copied to {place}: {error}; "
            "set XDG_CACHE_HOME to a folder that can be written, or give site=FOLDER"
        ) from error
    return place


def _visible(folder: Path) -> None:
    """Raise `ConfigError` where no sandbox could see it: before anything is copied, and with the cure."""
    try:
        LazyPool(size=1, limits=RunLimits(), mounts=[folder])
    except ConfigError as error:
        raise ConfigError(
            f"repair_project: packages for the sandbox are kept in {folder}, where it cannot see them ({error}); set "
            "XDG_CACHE_HOME to a folder elsewhere, or give site=FOLDER (--site FOLDER)"
        ) from error


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "askesis" / "repair_project"


def _closure(requires: Sequence[str], without: Project | None) -> dict[str, importlib.metadata.Distribution]:
    """The distributions by name, those of pytest first."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name
    except ImportError as error:
        raise MissingExtra(f"repair_project needs pytest and packaging, which are not installed: {INSTALL}") from error

    todo: list[tuple[str, tuple[str, ...], str]] = [("pytest", (), "")]
    for text in requires:
        try:
            wanted = Requirement(text)
        except InvalidRequirement as error:
            raise ConfigError(f"repair_project: {text!r} is no requirement: {error}") from error
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            todo.append((wanted.name, tuple(wanted.extras), text))
    own = _modules(without) if without is not None else frozenset()
    found: dict[str, importlib.metadata.Distribution] = {}
    passed_over = {canonicalize_name(without.name)} if without is not None else set()
    while todo:
        name, extras, text = todo.pop()
        key = canonicalize_name(name)
        if key in found or key in passed_over:
            continue
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "pytest":
                raise MissingExtra(
                    f"repair_project runs tests with pytest, which is not installed: {INSTALL}"
                ) from None
            raise ConfigError(
                f"repair_project: the project's tests need {text}, which is not installed here: "
                f"pip install '{text}', or give site=FOLDER (pip install --target FOLDER pytest '{text}')"
            ) from None
        if any(file.as_posix() in own for file in found[key].files or ()):  # the project by another name
            passed_over.add(key)
            del found[key]
            continue
        for line in found[key].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((needed.name, tuple(needed.extras), line))
    return found


def _modules(project: Project) -> frozenset[str]:
    """The project's sources, by the paths at which they are installed."""
    found = set()
    for path in project.sources:
        root = max((root for root in project.roots if not root or path.startswith(f"{root}/")), key=len, default="")
        found.add(path.removeprefix(f"{root}/") if root else path)
    return frozenset(found)


def _copy(one: importlib.metadata.Distribution, folder: Path) -> None:
    files = one.files
    if not files:
        raise ConfigError(f"repair_project: {one.name} is installed without a list of its files (editable?)")
    for file in files:
        if ".." in file.parts or "__pycache__" in file.parts or file.suffix in (".pyc", ".pth"):
            continue
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)
