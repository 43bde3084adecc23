"""`verifiers:NAME`: an environment or a taskset of verifiers, installed as a package or a module of that name.

One that has `load_environment` (verifiers before 0.4) is played by its own rollout, in which our policy is the model; a
taskset (`verifiers.v1`) by its own hooks. Either way what pays is theirs, and tokens, limits and failures are ours.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from askesis.types import ConfigError, MissingExtra

INSTALL = "pip install 'askesis[verifiers]'"


def load(name: str, **options: Any) -> Any:
    """See `Verifiers`."""
    try:
        version = importlib.metadata.version("verifiers")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtra(
            f"verifiers:{name} needs the package verifiers, which is not installed: {INSTALL}"
        ) from error
    module = _module(name)
    if hasattr(module, "load_environment"):
        if importlib.util.find_spec("verifiers.legacy") is None and not version.startswith(("0.1.", "0.2.")):
            raise ConfigError(
                f"verifiers:{name}: {module.__name__} is an environment for verifiers before 0.4, and {version} is "
                "installed: pip install 'verifiers<0.4'"
            )
        from askesis.envs.adapters.verifiers_legacy import LegacyVerifiers

        return LegacyVerifiers(name, **options)
    if importlib.util.find_spec("verifiers.v1") is None:
        raise ConfigError(
            f"verifiers:{name}: {module.__name__} has no load_environment, and verifiers {version} no tasksets"
        )
    from askesis.envs.adapters.verifiers_tasksets import VerifiersTaskset

    return VerifiersTaskset(name, **options)


class Verifiers:
    """Makes `LegacyVerifiers` or `VerifiersTaskset`, whichever the name stands for, with its options.

    Raises `MissingExtra` without verifiers, `ConfigError` for a name that cannot be imported.
    """

    package = "verifiers"

    def __new__(cls, name: str, **options: Any) -> Any:
        """One of the two."""
        return load(name, **options)


def _module(name: str) -> Any:
    """The module that verifiers itself would import."""
    plain = name.rsplit("/", 1)[-1].split("@", 1)[0].replace("-", "_")
    tried = [f"verifiers.v1.tasksets.{plain.lower()}", plain, plain.lower()]
    for place in dict.fromkeys(tried):
        try:
            if importlib.util.find_spec(place) is None:
                continue
        except ModuleNotFoundError:
            continue
        try:
            return importlib.import_module(place)
        except Exception as error:
            raise ConfigError(f"verifiers:{name}: cannot import {place}: {type(error).__name__}: {error}") from error
    raise ConfigError(
        f"verifiers:{name}: no module {plain!r} is installed; an environment of verifiers is a package of that name "
        "(a folder with it may be on PYTHONPATH)"
    )
