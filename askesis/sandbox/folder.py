"""A live tree: the folder in which programs of a sandbox are at work while we read and write in it, from outside.

It is known by a descriptor alone. Every step below it is made from the descriptor of the one before and follows no
symlink; where one is met, it is followed here, as a string, and never out of the tree. So a program that exchanges a
folder for a symlink at the worst moment gets an error made, and nothing of the host's is touched. What could keep us
waiting (a pipe, a file with a lease) is not waited for. Errors are those of `tree`.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat

from askesis.sandbox import bubblewrap
from askesis.sandbox.tree import Entry, content, descend, opened, resolve


class Folder:
    """The folder with the descriptor `root`, which stays the caller's. room: bytes that a file may have.

    most: folders and files that are looked at.
    """

    def __init__(self, root: int, *, room: int, most: int) -> None:
        self._root, self._room, self._most = root, room, most

    def read(self, path: str) -> bytes:
        """The content of a file."""
        place = resolve(path, self._look)
        if not place:
            raise IsADirectoryError(errno.EISDIR, "is a folder in the sandbox", path)
        above, _, name = place.rpartition("/")
        try:
            folder = descend(self._root, above)
            try:
                file = opened(name, folder)
            finally:
                os.close(folder)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such file in the sandbox", path) from None
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a folder in the sandbox", path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is no file in the sandbox", path)
            if status.st_size > self._room:
                raise OSError(errno.EFBIG, f"is larger than {self._room} bytes", path)
            return content(file, status.st_size)
        finally:
            os.close(file)

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a file, at once and whole, and the folders above it."""
        place = resolve(path, self._look)
        entry = self._look(place) if place else None
        if not place or (entry is not None and entry.kind == "folder"):
            raise IsADirectoryError(errno.EISDIR, "is a folder in the sandbox", path)
        if len(data) > self._room:
            raise OSError(errno.ENOSPC, f"the sandbox holds {self._room} bytes at most", path)
        above, _, name = place.rpartition("/")
        folder = self._made(above)
        try:
            new = f".{secrets.token_hex(8)}.new"
            file = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
            try:
                self._given(file)
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fchmod(file, entry.mode if entry is not None else 0o644)
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(new, dir_fd=folder)
                raise
            finally:
                os.close(file)
        finally:
            os.close(folder)

    def paths(self) -> list[str]:
        """All regular files, sorted."""
        found, folders, seen = [], [""], 0
        while folders:
            above = folders.pop()
            try:
                folder = descend(self._root, above)
            except OSError:
                continue
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        seen += 1
                        path = f"{above}/{entry.name}" if above else entry.name
                        if entry.is_file(follow_symlinks=False):
                            found.append(path)
                        elif entry.is_dir(follow_symlinks=False) and seen <= self._most:
                            folders.append(path)
            except FileNotFoundError:
                continue
            finally:
                os.close(folder)
        return sorted(found[: self._most])

    def _look(self, place: str) -> Entry | None:
        """What lies at a place, without its content; None where nothing does."""
        above, _, name = place.rpartition("/")
        try:
            folder = descend(self._root, above)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return Entry("link", 0o777, 0, os.fsencode(os.readlink(name, dir_fd=folder)))
            return Entry("folder" if stat.S_ISDIR(status.st_mode) else "file", status.st_mode & 0o777, 0)
        except FileNotFoundError:
            return None
        finally:
            os.close(folder)

    def _made(self, path: str) -> int:
        """A descriptor of a folder, made where it is missing."""
        at = descend(self._root, "")
        for name in path.split("/") if path else ():
            try:
                try:
                    below = opened(name, at, os.O_DIRECTORY)
                except FileNotFoundError:
                    os.mkdir(name, 0o755, dir_fd=at)
                    below = opened(name, at, os.O_DIRECTORY)
                    self._given(below)
            finally:
                os.close(at)
            at = below
        return at

    @staticmethod
    def _given(file: int) -> None:
        """What root made is the sandbox's user's."""
        if os.geteuid() == 0:
            os.fchown(file, bubblewrap.NOBODY, bubblewrap.NOBODY)
