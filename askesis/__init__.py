"""Askesis trains agents: language models that think in order to act."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from askesis.loop import dry_run, evaluate, evaluate_policy, load, load_recipe, train

__all__ = ["__version__", "dry_run", "evaluate", "evaluate_policy", "load", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    """The public face, loaded at first use: importing Askesis is silent and loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from askesis import loop

    return getattr(loop, name)


class _Room(ModuleType):
    """`askesis.train` is a room of the house and the function that everybody calls: a module that can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `askesis.loop.train`."""
        from askesis import loop

        return loop.train(*args, **kwargs)


class _Package(ModuleType):
    """Where the import system puts the room `train`; it would hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
