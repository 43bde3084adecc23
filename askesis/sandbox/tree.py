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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from askesis.types import ConfigError

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
        return resolve(path, self._entries.get)

    def paths(self) -> list[str]:
        """All regular files, sorted."""
        return sorted(path for path, entry in self._entries.items() if entry.kind == "file")

    def snapshot(self, lost: Sequence[str] = ()) -> TreeSnapshot:
        """What is here now; `lost` is what could not be kept of it."""
        return TreeSnapshot(dict(self._entries), self._size, tuple(lost))

    @classmethod
    def opened(cls, snapshot: TreeSnapshot, *, room: int, most: int) -> Tree:
        """A tree that begins as `snapshot`. Raises `ConfigError` if that is more than it may hold."""
        size, entries = snapshot.size
        if size > room or entries > most:
            raise ConfigError(
                f"sandbox: a snapshot of {size} bytes in {entries} files and folders does not fit into a tree of "
                f"{room} bytes and {most}; give the pool a larger `tree` or `files`"
            )
        tree = cls(room=room, most=most)
        tree._entries, tree._size = dict(snapshot.entries), size
        return tree

    # -- what a program left -----------------------------------------------------------------------------------------

    def collected(self, folder: int) -> tuple[Tree, list[str]]:
        """What lies in the folder with this descriptor, and the paths not kept. Programs may be at work in it.

        Files, folders and symlinks are kept, within the tree's bounds. No symlink is followed, not even one that is
        put in a folder's place meanwhile, and nothing is opened that would keep us waiting (a pipe, a leased file).
        """
        tree = Tree(room=self._room, most=self._most)
        lost: list[str] = []
        folders = [""]
        while folders:
            above = folders.pop()
            try:
                opened = descend(folder, above)
            except OSError:
                lost.append(above)
                continue
            try:
                for found in _listed(opened):
                    path = f"{above}/{found.name}" if above else found.name
                    try:
                        entry = tree._found(path, found, opened)
                    except FileNotFoundError:
                        continue
                    except OSError:
                        entry = None
                    if entry is None:
                        lost.append(path)
                        continue
                    before = self._entries.get(path)
                    tree._entries[path] = before if before is not None and before == entry else entry
                    tree._size += len(entry.data)
                    if entry.kind == "folder":
                        folders.append(path)
            finally:
                os.close(opened)
        return tree, lost

    def _found(self, path: str, found: os.DirEntry[str], folder: int) -> Entry | None:
        """What lies at `path`, in the folder with this descriptor, or None if it cannot be kept."""
        if len(os.fsencode(path)) > PATH_BYTES or len(self._entries) >= self._most:
            return None
        left = self._room - self._size
        if found.is_file(follow_symlinks=False):
            file = opened(found.name, folder)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode) or status.st_size > left:
                    return None
                data = content(file, status.st_size)
            finally:
                os.close(file)
            return Entry("file", status.st_mode & 0o777, status.st_mtime_ns, data)
        status = found.stat(follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None or kind == "file":
            return None
        data = os.fsencode(os.readlink(found.name, dir_fd=folder)) if kind == "link" else b""
        return Entry(kind, status.st_mode & 0o777, status.st_mtime_ns, data) if len(data) <= left else None


def resolve(path: str, look: Callable[[str], Entry | None]) -> str:
    """The place that `path` names in a tree, symlinks followed as strings; '' is the tree itself.

    look: what lies at a place of which nothing above is a symlink.
    """
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
        entry = look(step)
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


@dataclass(frozen=True, slots=True)
class TreeSnapshot:
    """See `Snapshot`. held: bytes of all contents."""

    entries: Mapping[str, Entry]
    held: int
    lost: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Bytes of all contents, and entries."""
        return self.held, len(self.entries)

    @property
    def paths(self) -> Sequence[str]:
        """See `Snapshot.paths`."""
        return tuple(sorted(path for path, entry in self.entries.items() if entry.kind == "file"))

    def read(self, path: str) -> bytes:
        """See `Snapshot.read`."""
        return Tree.opened(self, room=self.held, most=len(self.entries)).read(path)


# -- files in a folder in which programs may be at work --------------------------------------------------------------


def descend(root: int, path: str) -> int:
    """A descriptor of the folder at `path` below the folder `root`, no symlink followed. Raises `OSError`."""
    at = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    for name in path.split("/") if path else ():
        try:
            below = opened(name, at, os.O_DIRECTORY)
        finally:
            os.close(at)
        at = below
    return at


def opened(name: str, folder: int, flags: int = 0) -> int:
    """A descriptor of what `name` in a folder names, permissions overruled that forbid even its owner to look.

    A file gets them back at once. A folder does not: what is in it could not be looked at.
    """
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=folder)
    except PermissionError:
        file = -1
    if file >= 0 and not (flags & os.O_DIRECTORY and os.fstat(file).st_mode & 0o500 != 0o500):
        return file
    if file >= 0:
        os.close(file)
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status, link = os.fstat(place), f"/proc/self/fd/{place}"  # this very file, whatever its name names by now
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        os.chmod(link, 0o700)  # noqa: PTH101
        try:
            return os.open(link, flags & ~os.O_NOFOLLOW)
        finally:
            if not flags & os.O_DIRECTORY:
                os.chmod(link, stat.S_IMODE(status.st_mode))  # noqa: PTH101
    finally:
        os.close(place)


def content(file: int, size: int) -> bytes:
    """The first `size` bytes of an open file, or what there is."""
    parts = []
    while size and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _listed(folder: int) -> list[os.DirEntry[str]]:
    """What is in an open folder, by name; nothing, if the program removed the folder itself."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _above(path: str) -> list[str]:
    """The folders that lead to `path`, the outermost first."""
    names = path.split("/")[:-1]
    return ["/".join(names[: i + 1]) for i in range(len(names))]


def _outside(path: str) -> PermissionError:
    return PermissionError(errno.EPERM, "leads out of the sandbox's tree: expected a relative path without '..'", path)
