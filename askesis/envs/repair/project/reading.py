"""A project on disk, read once: the files that a sandbox is given, which of them may be broken, and which test them.

Only the packages, the tests and what is included by name come along. Whatever else lies in a checkout (version control,
build folders, caches) often holds a second copy of the sources, and a copy is the answer to every task.
"""

from __future__ import annotations

import email.parser
import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from askesis.types import ConfigError

MOST_BYTES = 32 * 2**20
MOST_FILES = 4000
_NO_PACKAGE = frozenset(
    "tests test testing docs doc examples example benchmarks benchmark bench scripts tools build dist".split()
)
_NO_MODULE = frozenset("setup conftest noxfile tasks versioneer fabfile".split())
_NEVER = frozenset("__pycache__ node_modules build dist venv env site-packages".split())
_SUFFIXES = (".pyc", ".pyo", ".orig", ".rej", ".bak", ".so", ".egg-info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """files: by their path in the sandbox's tree. roots: folders that its packages are imported from ('' is the top).

    sources: the files that may be broken and repaired. tests: the files that pytest is given.
    """

    name: str
    files: Mapping[str, bytes]
    roots: tuple[str, ...]
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def digest(self) -> str:
        """16 hex digits over the content of all files and what they are used for."""
        found = hashlib.sha256(repr((self.roots, self.sources, self.tests)).encode())
        for path, content in sorted(self.files.items()):
            found.update(f"\0{path}\0{len(content)}\0".encode() + content)
        return found.hexdigest()[:16]

    @property
    def packages(self) -> list[str]:
        """The first names of its modules."""
        return sorted({self.module(path).partition(".")[0] for path in self.sources})

    def source(self, path: str) -> str:
        """The text of a source file."""
        return self.files[path].decode()

    def module(self, path: str) -> str:
        """The name by which a source file is imported."""
        place = PurePosixPath(path)
        for root in sorted(self.roots, key=len, reverse=True):
            if not root or place.is_relative_to(root):
                inside = place.relative_to(root) if root else place
                parts = inside.with_suffix("").parts
                return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        raise ConfigError(f"{path} lies below none of the roots {self.roots}")


def read_project(
    path: str | Path,
    *,
    tests: Sequence[str] = (),
    packages: Sequence[str] = (),
    include: Sequence[str] = (),
    name: str = "",
) -> Project:
    """Read a project.

    tests: files and folders of its tests (default: `tests`, `test`, `PACKAGE/tests`, `test_*.py`). packages: folders
    or modules that may be broken (default: all packages at its top or below `src`). include: patterns of further files
    that its tests need. Raises `ConfigError` where there is no package, no test, or too much.
    """
    top = Path(path).expanduser()
    if not top.is_dir():
        raise ConfigError(f"no project folder {top} (looked in {Path.cwd()})")
    found_packages = [_inside(top, one) for one in packages] or _packages(top)
    if not found_packages:
        raise ConfigError(
            f"{top}: no package found at its top or below src/: expected a folder with __init__.py or a module; "
            "name it with --package"
        )
    found_tests = [_inside(top, one) for one in tests] or _tests(top, found_packages)
    tested = [file for place in found_tests for file in _below(top, place) if _is_test(file) or file == place]
    if not tested:
        looked = ", ".join(map(str, found_tests)) or "tests, test, PACKAGE/tests, test_*.py"
        raise ConfigError(f"{top}: no test files (test_*.py or *_test.py) in {looked}; name them with --tests")
    wanted = {file for place in (*found_packages, *found_tests) for file in _below(top, place)}
    wanted |= {file for file in _below(top, PurePosixPath()) for pattern in include if file.match(pattern)}
    wanted |= {PurePosixPath(one) for one in ("conftest.py",) if (top / one).is_file()}
    files = _contents(top, wanted)
    sources = [
        file
        for place in found_packages
        for file in _below(top, place)
        if file.suffix == ".py"
        and not any(file.is_relative_to(one) for one in found_tests)
        and not _is_test(file)
        and file.name != "conftest.py"
        and _is_text(files[str(file)])
    ]
    roots = dict.fromkeys("" if str(one.parent) == "." else str(one.parent) for one in found_packages)
    title, version = _titled(top)
    called = name or title or top.resolve().name
    if version:  # what `importlib.metadata` looks for
        metadata = f"Metadata-Version: 2.1\nName: {title}\nVersion: {version}\n"
        folder = f"{re.sub(r'[-_.]+', '_', title)}-{version}.dist-info"
        place = next(iter(roots))
        files[f"{place}/{folder}/METADATA" if place else f"{folder}/METADATA"] = metadata.encode()
    return Project(
        name=called,
        files=files,
        roots=tuple(roots),
        sources=tuple(sorted(map(str, sources))),
        tests=tuple(sorted({str(one) for one in tested})),
    )


def _inside(top: Path, path: str) -> PurePosixPath:
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts or not (top / place).exists():
        near = sorted(one.name for one in top.iterdir() if not one.name.startswith("."))[:20]
        raise ConfigError(f"{top} has no {path!r}: expected a path inside of it (it has {', '.join(near)})")
    return place


def _packages(top: Path) -> list[PurePosixPath]:
    for root in ("src", "."):
        folder = top / root
        if not folder.is_dir():
            continue
        found = [one for one in sorted(folder.iterdir()) if (one / "__init__.py").is_file()]
        found = [one for one in found if one.name not in _NO_PACKAGE]
        if not found:
            found = [
                one
                for one in sorted(folder.glob("*.py"))
                if one.stem not in _NO_MODULE and one.stem.isidentifier() and not _is_test(PurePosixPath(one.name))
            ]
        if found:
            return [PurePosixPath(one.relative_to(top).as_posix()) for one in found]
    return []


def _tests(top: Path, packages: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    places = [PurePosixPath(one) for one in ("tests", "test")]
    places += [package / one for package in packages for one in ("tests", "test")]
    places += [PurePosixPath(one.name) for one in sorted(top.glob("*.py")) if _is_test(PurePosixPath(one.name))]
    return [one for one in places if (top / one).exists()]


def _is_test(file: PurePosixPath) -> bool:
    return file.suffix == ".py" and (file.name.startswith("test_") or file.stem.endswith("_test"))


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode() and "\r" not in content.decode()
    except UnicodeDecodeError:
        return False


def _below(top: Path, place: PurePosixPath) -> list[PurePosixPath]:
    """The files at a place, without links, caches, hidden ones and copies."""
    start = top / place
    if start.is_file():
        return [place]
    found, todo = [], [start]
    while todo:
        folder = todo.pop()
        for one in sorted(folder.iterdir()):
            if one.is_symlink() or one.name.startswith(".") or one.name.endswith(_SUFFIXES):
                continue
            if one.is_dir():
                if one.name not in _NEVER and not (one / "pyvenv.cfg").exists():
                    todo.append(one)
            elif one.is_file():
                found.append(PurePosixPath(one.relative_to(top).as_posix()))
    return found


def _contents(top: Path, wanted: set[PurePosixPath]) -> dict[str, bytes]:
    if len(wanted) > MOST_FILES:
        raise ConfigError(f"{top}: {len(wanted)} files, at most {MOST_FILES}; name fewer with --package and --tests")
    files, size = {}, 0
    for file in sorted(wanted):
        size += (top / file).stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(f"{top}: more than {MOST_BYTES} bytes; name fewer with --package and --tests")
        files[str(file)] = (top / file).read_bytes()
    return files


def _titled(top: Path) -> tuple[str, str]:
    """The project's name and version, as far as they are written down; empty where not."""
    try:
        if (top / "PKG-INFO").is_file():
            found = email.parser.Parser().parsestr((top / "PKG-INFO").read_text(encoding="utf-8"))
            return str(found.get("Name", "")), str(found.get("Version", ""))
        if (top / "pyproject.toml").is_file():
            project = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            return str(project.get("name", "")), str(project.get("version", ""))
    except (ValueError, OSError):
        pass
    return "", ""
