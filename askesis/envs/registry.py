"""From a name to an environment: `repair`, `gymnasium:Taxi-v3`, `path/to/file.py:Class` or `package.module:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from askesis.types import AskesisError, ConfigError, Env, nearest

BUILT_IN = {
    "repair": "askesis.envs.repair:Repair",
    "repair_project": "askesis.envs.repair.project:RepairProject",
    "research": "askesis.envs.research:Research",
    "reasoning": "askesis.envs.reasoning:Reasoning",
    "team": "askesis.envs.team:Team",
    "terminal": "askesis.envs.terminal:TerminalTasks",
    "web": "askesis.envs.web:Web",
}

# Other libraries' environments, `prefix:rest`: the class gets the rest as its first argument, then the options. Its
# module loads without that library, its docstring begins with the form of the name, and `package` is what it needs.
ADAPTERS: dict[str, str] = {
    "gymnasium": "askesis.envs.adapters.gymnasium:GymnasiumEnv",
    "harbor": "askesis.envs.adapters.harbor:HarborEnv",
    "openenv": "askesis.envs.adapters.openenv:OpenEnvironment",
    "reasoning_gym": "askesis.envs.adapters.reasoning_gym:ReasoningGym",
    "verifiers": "askesis.envs.adapters.verifiers:Verifiers",
}


def load_env(name: str, **options: Any) -> Env:
    """Make the environment `name` with its `options`.

    Two options are every environment's: `mcp`, a list of servers whose tools are offered too (`envs.with_mcp`), and
    `perturb`, a table of faults (`envs.perturbed`); `perturb.fail` is a key of that table.

    Raises `ConfigError` with what was looked for, and the nearest known name, if there is none such or an option
    does not fit.
    """
    options, servers, faults = _common(options)
    env = _made(name, options)
    if servers:
        from askesis.envs.with_mcp import WithMCP

        env = WithMCP(env, servers)
    if faults is not None:
        from askesis.envs.perturbed import Perturbed

        env = Perturbed(env, faults)
    return env


def _common(options: dict[str, Any]) -> tuple[dict[str, Any], list[Any], Any]:
    """The environment's own options, the servers, and the faults (None for no such option)."""
    own = {key: value for key, value in options.items() if key not in ("mcp", "perturb")}
    servers, faults = options.get("mcp", []), options.get("perturb")
    for key in [key for key in own if key.startswith("perturb.")]:
        faults = {**(faults or {}), key.removeprefix("perturb."): own.pop(key)}
    return own, list(servers) if isinstance(servers, list | tuple) else [servers], faults


def _made(name: str, options: dict[str, Any]) -> Env:
    prefix, colon, rest = name.partition(":")
    adapted = prefix in ADAPTERS
    if adapted and not rest.strip():
        raise ConfigError(f"no environment {name!r}: expected '{prefix}:...', with what to load; see docs/adapters.md")
    target = ADAPTERS[prefix] if adapted else BUILT_IN.get(name, name)
    place, colon, attribute = target.partition(":")
    if not colon or not place or not attribute:
        forms = ", ".join(f"'{one}:...'" for one in ADAPTERS)
        raise ConfigError(
            f"no environment {name!r}{nearest(prefix, [*BUILT_IN, *ADAPTERS])}: expected a built-in name "
            f"({', '.join(BUILT_IN)}), one of another library ({forms}), 'path/to/file.py:Class' or "
            "'package.module:Class'"
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place, name)
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"environment {name!r}: {place} has no {attribute!r}{nearest(attribute, public)}") from None
    try:
        env: Env = factory(*([rest] if adapted else ()), **options)
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
        hint = nearest(place, ADAPTERS)
        raise ConfigError(
            f"environment {name!r}: cannot import {place}: {type(error).__name__}: {error}{hint}"
        ) from error


def _importable(folder: Path) -> None:
    """Let what lies in `folder` be imported, unless something of that name is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
