"""`askesis envs new`: a folder with an environment that works, to be rewritten into one's own."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from askesis.envs import BUILT_IN
from askesis.types import ConfigError

_TEMPLATES = Path(__file__).parent / "template"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """What was made."""

    folder: Path
    environment: str
    files: tuple[str, ...]

    @property
    def told(self) -> str:
        """For the person who asked for it."""
        lines = [f"{self.folder}/", *(f"  {name}" for name in self.files), "", "next:", f"  cd {self.folder}"]
        for command in ("envs check", "envs play"):
            lines.append(f"  askesis {command} {self.environment}")
        return "\n".join([*lines, "  askesis train cold_start.toml", "  askesis train train.toml"])


def make(name: str, where: Path) -> Scaffold:
    """The folder `name` in `where`. Raises `ConfigError` for what cannot be a name, and for a folder that is there."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"environment name {name!r}: expected small letters, digits and _, as in my_task")
    if name in BUILT_IN:
        raise ConfigError(f"environment name {name!r} is taken by one that comes with Askesis; choose another")
    folder = where / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already; choose another name, or another place with --in")
    if not where.is_dir():
        raise ConfigError(f"no folder {where}")
    kind = "".join(part.capitalize() for part in name.split("_"))
    names = {"environment.py": f"{name}.py", "test.py": f"test_{name}.py"}
    folder.mkdir()
    files = []
    for template in sorted(_TEMPLATES.glob("*.tmpl")):
        file = names.get(template.stem, template.stem)
        text = template.read_text(encoding="utf-8").replace("@name@", name).replace("@Class@", kind)
        (folder / file).write_text(text, encoding="utf-8")
        files.append(file)
    return Scaffold(folder=folder, environment=f"{name}.py:{kind}", files=tuple(files))
