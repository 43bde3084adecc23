"""Marks: what code leaves behind outside, if it is ever run where it should not be."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Marks:
    """A folder of this machine in which code that is run makes a folder of its own name, and does nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def fresh(self) -> Path:
        """A place for one mark."""
        self._count += 1
        return self.folder / f"m{self._count}"


@contextmanager
def marks() -> Iterator[Marks]:
    """Where marks are left while this lasts."""
    folder = Path(tempfile.mkdtemp(prefix="askesis-mark-"))
    folder.chmod(0o777)
    try:
        yield Marks(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_UNBOUND = (
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    ".__init__.__globals__['mkdir']({path!r})"
)
_PICKLE = "cos\nmkdir\n(S'{path}'\ntR."
EVALUATED: Mapping[str, Callable[[str], str]] = {
    "a Python expression": lambda path: f"__import__('os').mkdir({path!r})",
    "a Python expression without builtins": lambda path: _UNBOUND.format(path=path),
    "Python statements": lambda path: f"import os\nos.mkdir({path!r})",
    "YAML that makes an object": lambda path: f'!!python/object/apply:os.mkdir ["{path}"]',
    "a pickle": lambda path: _PICKLE.format(path=path),
    "a pickle in base64": lambda path: base64.b64encode(_PICKLE.format(path=path).encode()).decode(),
    "a template": lambda path: f"{{{{ cycler.__init__.__globals__.os.mkdir('{path}') }}}}",
    "a command in $()": lambda path: f"$(mkdir {path})",
    "a command in backquotes": lambda path: f"`mkdir {path}`",
    "a command after a double quote": lambda path: f'x"; mkdir {path}; echo "',
    "a command after a single quote": lambda path: f"x'; mkdir {path}; echo '",
    "a command after a semicolon": lambda path: f"0; mkdir {path}",
    "a command after a new line": lambda path: f"0\nmkdir {path}\n",
}
"""What makes a folder at a path where it is evaluated: eval, exec, a YAML loader, a pickle, a template, a shell."""
