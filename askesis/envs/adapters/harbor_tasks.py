"""Harbor task folders as plain values: what is in one, and why one cannot be run here.

A folder holds `instruction.md`, `task.toml`, `environment/`, `tests/test.sh` and mostly `solution/solve.sh`. There are
no images here: programs are those of the host's /usr. So only folders are taken whose environment is files, from a base
that stands for nothing but an ordinary system. Format: https://www.harborframework.com/docs/tasks
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from askesis.types import ConfigError

ORDINARY = ("alpine", "bash", "busybox", "debian", "python", "scratch", "ubuntu")
WORKDIR = "/app"
_MOST = 64 * 2**20  # bytes of a folder
_HARMLESS = ("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "SHELL", "STOPSIGNAL", "USER")
_REFERENCE = re.compile(r"\$\{")


class Unfit(Exception):
    """A folder that cannot be run here, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarborTask:
    """One task folder, read.

    files: of the working tree at the beginning: path in it to (file, mode). workdir: the tree's name inside. env:
    variables of the agent's programs, of the tests and of the solution. times in seconds, memory in bytes.
    """

    name: str
    folder: Path
    digest: str
    instruction: str
    files: Mapping[str, Path]
    workdir: str
    env: Mapping[str, str]
    tests_env: Mapping[str, str]
    solution_env: Mapping[str, str]
    agent_s: float | None
    verifier_s: float
    memory: int | None

    @property
    def solved(self) -> bool:
        """Whether it comes with a solution."""
        return (self.folder / "solution" / "solve.sh").is_file()


def found(path: Path) -> list[Path]:
    """The task folders at `path`: itself, or those in it. Raises `ConfigError` where there are none."""
    if not path.is_dir():
        raise ConfigError(f"harbor: there is no folder {path} (looked in {Path.cwd()})")
    if (path / "task.toml").is_file():
        return [path]
    folders = sorted(one.parent for one in path.glob("*/task.toml"))
    if not folders:
        raise ConfigError(
            f"harbor: {path} is no task folder and has none in it: expected task.toml and instruction.md there, or "
            "folders with these"
        )
    return folders


def read(folder: Path, *, ordinary: Sequence[str] = ORDINARY) -> HarborTask:
    """Read a task folder. ordinary: base images that stand for no more than the host's /usr. Raises `Unfit`."""
    try:
        settings = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
        instruction = (folder / "instruction.md").read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise Unfit(f"{_said(error)}") from error
    if not (folder / "tests" / "test.sh").is_file():
        raise Unfit("it has no tests/test.sh, which decides the reward")
    if not instruction:
        raise Unfit("instruction.md is empty")
    environment = _table(settings, "environment")
    _needs(settings, environment)
    files, workdir, variables = _environment(folder / "environment", ordinary)
    agent, verifier = _table(settings, "agent"), _table(settings, "verifier")
    return HarborTask(
        name=str(_table(settings, "task").get("name") or folder.name),
        folder=folder,
        digest=digest(folder),
        instruction=instruction,
        files=files,
        workdir=str(environment.get("workdir") or workdir),
        env=variables | _variables(environment, "environment"),
        tests_env=_variables(verifier, "verifier"),
        solution_env=_variables(_table(settings, "solution"), "solution"),
        agent_s=_seconds(agent, "agent"),
        verifier_s=_seconds(verifier, "verifier") or 600.0,
        memory=_size(environment, "memory"),
    )


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename).name if error.filename else 'a file'}: {error.strerror}"
    return f"task.toml or instruction.md cannot be read: {error}"


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise Unfit(f"task.toml: {name} is a {type(table).__name__}, expected a table")
    return table


def _needs(settings: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Raise `Unfit` for what a task asks of its machine and is not to be had here."""
    verifier = _table(settings, "verifier")
    for there, what in (
        (settings.get("steps"), "it has several steps"),
        (environment.get("docker_image"), f"it needs the image {environment.get('docker_image')!r}"),
        (environment.get("mcp_servers"), "it needs MCP servers"),
        (environment.get("gpus") or environment.get("tpu"), "it needs an accelerator"),
        (environment.get("os") == "windows", "it needs Windows"),
        (environment.get("healthcheck"), "it waits for a service (healthcheck)"),
        (verifier.get("collect"), "its verifier collects from other services"),
        (_table(verifier, "environment"), "its verifier needs an environment of its own"),
    ):
        if there:
            raise Unfit(what)


def _variables(table: Mapping[str, Any], where: str) -> dict[str, str]:
    found = {str(key): str(value) for key, value in _table(table, "env").items()}
    for key, value in found.items():
        if _REFERENCE.search(value):
            raise Unfit(f"[{where}.env] {key} = {value!r} takes a variable of the host, of which a sandbox gets none")
    return found


def _seconds(table: Mapping[str, Any], where: str) -> float | None:
    value = table.get("timeout_sec")
    if value is None:
        return None
    if not isinstance(value, int | float) or not value > 0:
        raise Unfit(f"[{where}] timeout_sec = {value!r}: expected seconds above 0")
    return float(value)


def _size(environment: Mapping[str, Any], what: str) -> int | None:
    """`memory_mb = 2048`, or as older folders have it `memory = "2G"`, in bytes."""
    value = environment.get(f"{what}_mb")
    if value is not None:
        if not isinstance(value, int | float) or not value > 0:
            raise Unfit(f"[environment] {what}_mb = {value!r}: expected a number above 0")
        return int(value * 2**20)
    if (text := environment.get(what)) is None:
        return None
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", str(text), re.IGNORECASE)
    if parts is None:
        raise Unfit(f"[environment] {what} = {text!r}: expected a size such as '2G'")
    return int(float(parts[1]) * 1024 ** "KMGT".find(parts[2].upper() or "M") * 1024)


# -- environment/ ------------------------------------------------------------------------------------------------------


def _environment(folder: Path, ordinary: Sequence[str]) -> tuple[dict[str, Path], str, dict[str, str]]:
    """The files of the tree, its name inside, and variables."""
    for name in ("docker-compose.yaml", "docker-compose.yml"):
        if (folder / name).exists():
            raise Unfit(f"environment/{name}: it needs several containers")
    dockerfile = folder / "Dockerfile"
    if not dockerfile.is_file():
        return {path: folder / path for path in files_of(folder)}, WORKDIR, {}
    built = _Built(folder, ordinary)
    for word, rest in _instructions(dockerfile.read_text(encoding="utf-8", errors="replace")):
        try:
            built.add(word, rest)
        except ValueError as error:  # quotes that nothing closes
            raise Unfit(f"environment/Dockerfile: {word} {rest[:60]}: {error}") from error
    files = {}
    for path, source in built.files.items():
        place = PurePosixPath(path)
        if not place.is_relative_to(built.workdir):
            raise Unfit(f"environment/Dockerfile copies to {path}, outside of its WORKDIR {built.workdir}")
        files[str(place.relative_to(built.workdir))] = source
    return files, built.workdir, built.env


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\[ \t]*\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word.upper(), rest.strip()


class _Built:
    """What a Dockerfile without a program to run leaves: files by their place inside, the folder, variables."""

    def __init__(self, context: Path, ordinary: Sequence[str]) -> None:
        self._context, self._ordinary, self._bases = context, ordinary, 0
        self.files: dict[str, Path] = {}
        self.workdir, self.env = WORKDIR, dict[str, str]()

    def add(self, word: str, rest: str) -> None:
        """Raises `Unfit`."""
        if word == "FROM":
            self._base(rest)
        elif word == "WORKDIR":
            self.workdir = self._inside(rest.strip("'\""))
        elif word in ("COPY", "ADD"):
            self._copied(word, rest)
        elif word == "ENV":
            self._variable(rest)
        elif word not in (*_HARMLESS, "ARG"):
            shown = rest if len(rest) <= 60 else rest[:60] + "..."
            raise Unfit(f"environment/Dockerfile builds an image: {word} {shown}")

    def _base(self, rest: str) -> None:
        self._bases += 1
        image = next((part for part in rest.split() if not part.startswith("--")), "")
        name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
        if self._bases > 1:
            raise Unfit("environment/Dockerfile builds an image in several stages")
        if name not in self._ordinary:
            raise Unfit(
                f"environment/Dockerfile builds on {image!r}, which brings more than an ordinary system "
                f"({', '.join(self._ordinary)}); name it in options.ordinary if the host has all that it needs"
            )

    def _inside(self, path: str) -> str:
        if "$" in path:
            raise Unfit(f"environment/Dockerfile: {path!r} has a variable in it")
        return os.path.normpath(PurePosixPath(self.workdir) / path)

    def _variable(self, rest: str) -> None:
        if "=" not in rest.split(maxsplit=1)[0]:
            name, _, value = rest.partition(" ")
            pairs = [(name, value.strip())]
        else:
            pairs = [(name, value) for name, _, value in (part.partition("=") for part in shlex.split(rest))]
        for name, value in pairs:
            if "$" in value:
                raise Unfit(f"environment/Dockerfile: ENV {name}={value!r} has a variable in it")
            self.env[name] = value

    def _copied(self, word: str, rest: str) -> None:
        if rest.lstrip().startswith(("[", "<<")) or "<<" in rest:
            raise Unfit(f"environment/Dockerfile: {word} {rest[:60]}: only 'COPY files... folder' is understood")
        parts = shlex.split(rest)
        flags = [part for part in parts if part.startswith("--")]
        sources = [part for part in parts if not part.startswith("--")]
        if any(not flag.startswith(("--chown", "--chmod")) for flag in flags) or len(sources) < 2:
            raise Unfit(f"environment/Dockerfile: {word} {rest[:60]}: only 'COPY files... folder' is understood")
        *sources, target = sources
        place = self._inside(target)
        for source in self._matched(word, sources):
            if source.is_dir():
                for path in files_of(source):
                    self.files[f"{place}/{path}"] = source / path
            elif target.endswith(("/", "/.")) or target == "." or len(sources) > 1 or place == self.workdir:
                self.files[f"{place}/{source.name}"] = source
            else:
                self.files[place] = source

    def _matched(self, word: str, sources: Iterable[str]) -> Iterator[Path]:
        for pattern in sources:
            if "://" in pattern or (word == "ADD" and re.search(r"\.(tar|tgz|tar\.\w+)$", pattern)):
                raise Unfit(f"environment/Dockerfile: ADD {pattern} is more than a copy")
            if "$" in pattern:
                raise Unfit(f"environment/Dockerfile: {pattern!r} has a variable in it")
            plain = pattern.lstrip("/") or "."
            matches = sorted(self._context.glob(plain)) if re.search(r"[*?[]", plain) else [self._context / plain]
            for match in matches:
                inside = match.resolve().is_relative_to(self._context.resolve())
                if not match.exists() or not inside:
                    raise Unfit(f"environment/Dockerfile copies {pattern}, which is not in environment/")
                yield match
            if not matches:
                raise Unfit(f"environment/Dockerfile copies {pattern}, which is not in environment/")


def files_of(folder: Path) -> list[str]:
    """The regular files below a folder, sorted; without its own Dockerfile. Raises `Unfit` for other things."""
    paths, size = [], 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise Unfit(f"{path.relative_to(folder.parent)} is no regular file")
        for name in sorted(names):
            path = Path(place, name)
            if name in ("Dockerfile", ".dockerignore") and path.parent == folder:
                continue
            paths.append(path.relative_to(folder).as_posix())
            size += path.stat().st_size
    if size > _MOST:
        raise Unfit(f"{folder.name} holds {size} bytes: expected {_MOST} at most")
    return paths


def digest(folder: Path) -> str:
    """A hash of all that the folder holds."""
    found = hashlib.sha256()
    for path in files_of(folder):
        found.update(f"{path}\0{(folder / path).stat().st_size}\0".encode())
        found.update((folder / path).read_bytes())
    return found.hexdigest()[:16]
