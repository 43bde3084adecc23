"""A working tree between two calls: plain data. No process and no mount belongs to it, and a symlink in it is a string.

Paths are relative, with `/` between names. What a program cannot do to its own file system raises the `OSError` that a
file system would: `FileNotFoundError`, `IsADirectoryError`, `NotADirectoryError`, `PermissionError` for what lies
outside the tree, and ENOSPC where it is full.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import Literal

ROOT = "/home/agent"  # where programs see the tree
PATH_BYTES = 1000  # of the longest path that is kept
_HOPS = 40  # symlinks in a row, as the kernel has it

Kind = Literal["file", "folder", "link"]
Row = tuple[str, Kind, int, int, bytes]  # path, kind, permissions, mtime in ns, content
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (data: its content), a folder, or a symlink (data: where it points). mode: permissions; mtime in ns."""

    kind: Kind
    mode: int
    mtime: int
    data: bytes = b""


class Tree:
    """Files by path. `room`: bytes of all contents together; `most`: entries."""

    def __init__(self, *, room: int, most: int) -> None:
        self._room, self._most = room, most
        self._entries: dict[str, Entry] = {}
        self._size = 0

    def read(self, path: str) -> bytes:
        """The content of a file."""
        place = self._resolve(path)
        entry = self._entries.get(place)
        if entry is None and place:
            raise FileNotFoundError(errno.ENOENT, "no such file in the sandbox", path)
        if entry is None or entry.kind == "folder":
            raise IsADirectoryError(errno.EISDIR, "is a folder in the sandbox", path)
        return entry.data

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a file, and the folders above it."""
        place = self._resolve(path)
        entry = self._entries.get(place)
        if not place or (entry is not None and entry.kind == "folder"):
            raise IsADirectoryError(errno.EISDIR, "is a folder in the sandbox", path)
        size = self._size + len(data) - (len(entry.data) if entry is not None else 0)
        above = [folder for folder in _above(place) if folder not in self._entries]
        if size > self._room or len(self._entries) + len(above) + (entry is None) > self._most:
            raise OSError(errno.ENOSPC, f"the sandbox holds {self._room} bytes and {self._most} files at most", path)
        now = time.time_ns()
        for folder in above:
            self._entries[folder] = Entry("folder", 0o755, now)
        self._entries[place] = Entry("file", entry.mode if entry is not None else 0o644, now, bytes(data))
        self._size = size

    @property
    def size(self) -> tuple[int, int]:
        """Bytes of all contents, and entries."""
        return self._size, len(self._entries)

    def rows(self) -> list[Row]:
        """Everything, folders before what is in them."""
        return [(path, e.kind, e.mode, e.mtime, e.data) for path, e in sorted(self._entries.items())]

    def _resolve(self, path: str) -> str:
        """The place that `path` names, symlinks followed as strings; '' is the tree itself."""
        if "\0" in path:
            raise ValueError(f"a path in the sandbox has a NUL in it: {path!r}")
        todo, place, hops = list(reversed(path.split("/"))), "", 0
        if path.startswith("/") or ".." in todo:
            raise _outside(path)
        if len(os.fsencode(path)) > PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"a path in the sandbox has at most {PATH_BYTES} bytes", path)
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":  # out of a symlink
                if not place:
                    raise _outside(path)
                place = place.rpartition("/")[0]
                continue
            step = f"{place}/{name}" if place else name
            entry = self._entries.get(step)
            if entry is not None and entry.kind == "link":
                hops += 1
                if hops > _HOPS:
                    raise OSError(errno.ELOOP, "too many symlinks in the sandbox", path)
                target = os.fsdecode(entry.data)
                if target.startswith("/"):
                    if target != ROOT and not target.startswith(ROOT + "/"):
                        raise _outside(path)
                    target, place = target.removeprefix(ROOT), ""
                todo += reversed(target.split("/"))
                continue
            if entry is not None and entry.kind == "file" and any(rest not in ("", ".") for rest in todo):
                raise NotADirectoryError(errno.ENOTDIR, f"{step!r} in the sandbox is a file", path)
            place = step
        return place

    # -- what a program left -----------------------------------------------------------------------------------------

    def collected(self, folder: int) -> tuple[Tree, list[str]]:
        """What lies in the folder with this descriptor, where nothing runs any more, and the paths not kept.

        Files, folders and symlinks are kept, within the tree's bounds; no symlink is followed.
        """
        tree = Tree(room=self._room, most=self._most)
        lost: list[str] = []
        folders = [""]
        while folders:
            above = folders.pop()
            with _Opened(above or ".", os.O_DIRECTORY, folder) as opened:
                names = _names(opened)
            for name in names:
                path = f"{above}/{name}" if above else name
                entry = tree._found(path, folder, self._entries.get(path))
                if entry is None:
                    lost.append(path)
                    continue
                tree._entries[path] = entry
                tree._size += len(entry.data)
                if entry.kind == "folder":
                    folders.append(path)
        return tree, lost

    def _found(self, path: str, folder: int, before: Entry | None) -> Entry | None:
        """What lies at `path`, or None if it cannot be kept; `before` itself where nothing changed."""
        if len(os.fsencode(path)) > PATH_BYTES or len(self._entries) >= self._most:
            return None
        status = os.stat(path, dir_fd=folder, follow_symlinks=False)
        kind, mode, data = stat.S_IFMT(status.st_mode), status.st_mode & 0o777, b""
        if kind not in _KINDS or (kind != stat.S_IFDIR and self._size + status.st_size > self._room):
            return None
        if kind == stat.S_IFLNK:
            data = os.fsencode(os.readlink(path, dir_fd=folder))
        elif kind == stat.S_IFREG and status.st_size:
            with _Opened(path, 0, folder) as opened, open(opened, "rb", closefd=False) as file:
                data = file.read(status.st_size)
        entry = Entry(_KINDS[kind], mode, status.st_mtime_ns, data)
        return before if before == entry else entry


class _Opened:
    """A descriptor of something in a tree, its permissions overruled where they forbid even its owner to look."""

    def __init__(self, path: str, flags: int, folder: int) -> None:
        flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, dir_fd=folder)
        except PermissionError:
            os.chmod(path, 0o700, dir_fd=folder)
            self._file = os.open(path, flags, dir_fd=folder)

    def __enter__(self) -> int:
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _names(folder: int) -> list[str]:
    """What is in an open folder; nothing, if the program removed the folder itself."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _above(path: str) -> list[str]:
    """The folders that lead to `path`, the outermost first."""
    names = path.split("/")[:-1]
    return ["/".join(names[: i + 1]) for i in range(len(names))]


def _outside(path: str) -> PermissionError:
    return PermissionError(errno.EPERM, "leads out of the sandbox's tree: expected a relative path without '..'", path)
