"""From what a user names to entries: a folder of files, or an installed package by its name.

Packages are looked up by their metadata and read as files; nothing of them is imported or run.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from askesis.envs.research.corpus import pages, python_docs
from askesis.envs.research.corpus.entries import Entry
from askesis.types import ConfigError, nearest

PACKAGE = "package:"
_LARGEST = 2 * 2**20  # bytes of a file that is read
_SKIPPED = {"tests", "test", "testing", "_vendor", "vendor", "node_modules", "__pycache__", "site-packages", "examples"}
_LEGAL = re.compile(r"(licen[cs]e|copying|notice|authors|thirdparty)", re.IGNORECASE)
EDITION = "edition 2"  # the date of files in a folder, which have no version


def read(corpus: str | Sequence[str]) -> list[Entry]:
    """All documents of one or several sources, each `package:NAME` or the path of a folder or file.

    Raises `ConfigError` where there is no such package or folder, and where it holds nothing that can be read.
    """
    wanted = [corpus] if isinstance(corpus, str) else list(corpus)
    if not wanted:
        raise ConfigError("research: corpus is empty: expected a folder, `package:NAME`, or a list of them")
    found: list[Entry] = []
    for one in wanted:
        name = one.removeprefix(PACKAGE)
        entries = _package(name) if one.startswith(PACKAGE) else _folder(Path(one).expanduser())
        if not entries:
            raise ConfigError(
                f"research: corpus {one!r} holds nothing to read: expected Python files with docstrings or files that "
                f"end in {', '.join(pages.SUFFIXES)}"
            )
        found += entries
    (id, times), *_ = Counter(entry.document.id for entry in found).most_common(1)
    if times > 1:
        raise ConfigError(f"research: corpus: two documents have the name {id!r}; give each source once")
    return found


def _package(name: str) -> list[Entry]:
    """Docstrings and texts of an installed distribution."""
    try:
        installed = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        known = {str(one.metadata["Name"]) for one in metadata.distributions()}
        raise ConfigError(
            f"research: corpus: no package {name!r} is installed here{nearest(name, known)}: `pip install {name}`"
        ) from None
    told = installed.metadata
    called, version = re.sub(r"[-_.]+", "-", told["Name"]).lower(), told["Version"]
    drafts, texts = [], []
    for module, path in _sources(installed):
        drafts += _drafts(path, module=module, package=called, date=version)
    for text, relative in _texts(installed):
        texts.append(pages.page(text, name=f"{called}/{relative}", package=called, date=version))
    described = told.json.get("description")
    if described:
        suffix = "md" if "markdown" in str(told.json.get("description_content_type")) else "rst"
        texts.append(pages.page(str(described), name=f"{called}/README.{suffix}", package=called, date=version))
    return [*python_docs.resolved(drafts, called), *pages.resolved([text for text in texts if text is not None])]


def _sources(installed: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """(module, path) of the Python files that a distribution brought, in the order of their names."""
    listed = [file for file in installed.files or () if file.suffix == ".py" and ".." not in file.parts]
    if not any(len(file.parts) > 1 for file in listed):  # installed in place: a link to its sources is all there is
        yield from _in_place(installed)
        return
    for file in sorted(listed, key=str):
        if not _skipped(file.parts):
            yield _module(file.parts), Path(str(file.locate()))


def _in_place(installed: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    tops = [top for top, owners in metadata.packages_distributions().items() if installed.metadata["Name"] in owners]
    for top in sorted(tops) or [installed.metadata["Name"].replace("-", "_")]:
        try:
            spec = importlib.util.find_spec(top)  # of a top-level name: imports nothing
        except (ImportError, ValueError):
            continue
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                parts = (top, *path.relative_to(folder).parts)
                if not _skipped(parts):
                    yield _module(parts), path


def _module(parts: Sequence[str]) -> str:
    names = [*parts[:-1], parts[-1].removesuffix(".py")]
    return ".".join(names[:-1] if names[-1] == "__init__" and len(names) > 1 else names)


def _texts(installed: metadata.Distribution) -> Iterator[tuple[str, str]]:
    """(text, path) of the other files that can be read, but for what is legal or metadata."""
    for file in sorted(installed.files or (), key=str):
        if file.suffix.lower() not in pages.SUFFIXES or _skipped(file.parts) or ".." in file.parts:
            continue
        if _LEGAL.search(str(file)) or ".dist-info" in file.parts[0]:
            continue
        if (text := _text(Path(str(file.locate())))) is not None:
            yield text, str(file)


def _folder(path: Path) -> list[Entry]:
    """Everything below a folder that can be read, or one file."""
    if not path.exists():
        raise ConfigError(
            f"research: corpus: no file or folder {str(path)!r} (looked in {Path.cwd()}); "
            f"an installed package is `{PACKAGE}{path.name or 'NAME'}`"
        )
    root = path if path.is_dir() else path.parent
    called = (root.resolve().name or "corpus").lower()
    drafts, texts = [], []
    for file in sorted(_files(path), key=lambda one: one.relative_to(root).as_posix()):
        relative = file.relative_to(root)
        if file.suffix == ".py":
            module = _module(relative.parts) or called
            drafts += _drafts(file, module=module, package=called, date=EDITION)
        elif (text := _text(file)) is not None:
            texts.append(pages.page(text, name=relative.as_posix(), package=called, date=EDITION))
    return [*python_docs.resolved(drafts, called), *pages.resolved([text for text in texts if text is not None])]


def _files(path: Path) -> Iterator[Path]:
    """What can be read below a folder; hidden and generated folders are passed over, links not followed."""
    if path.is_file():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one not in _SKIPPED)
        for name in sorted(files):
            if Path(name).suffix.lower() in (".py", *pages.SUFFIXES) and not name.startswith("."):
                yield Path(folder) / name


def _skipped(parts: Sequence[str]) -> bool:
    last = parts[-1]
    return bool(_SKIPPED & set(parts)) or last.startswith(("test_", "conftest", "setup.")) or last.endswith("_test.py")


def _text(path: Path) -> str | None:
    """A file as text; None where it is none, or too large to be one for people."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text


def _drafts(path: Path, *, module: str, package: str, date: str) -> list[python_docs.Draft]:
    """The documents of a Python file."""
    text = _text(path)
    return [] if text is None else python_docs.drafts(text, module=module, package=package, date=date, group=module)
