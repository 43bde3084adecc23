"""From a name to an environment: `repair`, `path/to/file.py:Class` or `package.module:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from askesis.types import AskesisError, ConfigError, Env, nearest

BUILT_IN = {"repair": "askesis.envs.repair:Repair"}


def load_env(name: str, **options: Any) -> Env:
    """Make the environment `name` with its `options`.

    Raises `ConfigError` with what was looked for, and the nearest known name, if there is none such or an option
    does not fit.
    """
    target = BUILT_IN.get(name, name)
    place, colon, attribute = target.partition(":")
    if not colon or not place or not attribute:
        known = ", ".join(BUILT_IN)
        raise ConfigError(
            f"no environment {name!r}{nearest(name, BUILT_IN)}: expected a built-in name ({known}), "
            "'path/to/file.py:Class' or 'package.module:Class'"
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place, name)
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"environment {name!r}: {place} has no {attribute!r}{nearest(attribute, public)}") from None
    try:
        env: Env = factory(**options)
    except AskesisError:
        raise
    except TypeError as error:
        raise ConfigError(f"environment {name!r}: options {sorted(options)} do not fit: {error}") from error
    except Exception as error:
        raise ConfigError(f"environment {name!r} could not be made: {type(error).__name__}: {error}") from error
    missing = [m for m in ("name", "tasks", "setup", "tools", "verify", "close") if not hasattr(env, m)]
    if missing:
        raise ConfigError(f"environment {name!r}: {attribute} lacks {', '.join(missing)}; see docs/environments.md")
    return env


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no environment file {path} (looked in {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(f"askesis_env_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up by name
    _importable(path.absolute().parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script that was not meant to be imported may exit
        del sys.modules[spec.name]
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        where = f" (line {own[-1]})" if own else ""
        raise ConfigError(f"{path} failed to import: {type(error).__name__}: {error}{where}") from error
    return module


def _from_package(place: str, name: str) -> ModuleType:
    _importable(Path.cwd())
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"environment {name!r}: cannot import {place}: {type(error).__name__}: {error}") from error


def _importable(folder: Path) -> None:
    """Let what lies in `folder` be imported, unless something of that name is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
