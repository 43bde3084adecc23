"""Questions of reasoning-gym, each named by its dataset, configuration, seed and place, and made again from these."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from askesis.types import ConfigError, EnvError, MissingExtra, nearest

INSTALL = "pip install 'askesis[reasoning]'"


def library() -> Any:
    """reasoning-gym. Raises `MissingExtra`."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingExtra(f"this needs the package reasoning-gym, which is not installed: {INSTALL}") from error
    return reasoning_gym


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset in one configuration. config: pairs of a key and a value, sorted; without `seed` and `size`."""

    name: str
    config: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> Source:
        """With lists as tuples, so that it can be a key."""
        return cls(name=name, config=tuple(sorted((key, _frozen(value)) for key, value in config.items())))

    def dataset(self, seed: int, size: int) -> Any:
        """Made once and kept. Raises `ConfigError` for a name or a configuration that there is not."""
        return _dataset(self, seed, size)

    def entry(self, seed: int, size: int, place: int) -> Mapping[str, Any]:
        """`question`, `answer`, `metadata`. Raises `EnvError` where reasoning-gym fails."""
        try:
            entry: Mapping[str, Any] = self.dataset(seed, size)[place]
            return {**entry, "question": str(entry["question"])}
        except ConfigError:
            raise
        except Exception as error:
            where = f"reasoning-gym, {self.name}: question {place} of seed {seed}"
            raise EnvError(f"{where} could not be made: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=512)
def _dataset(source: Source, seed: int, size: int) -> Any:
    gym = library()
    from reasoning_gym.factory import DATASETS

    if source.name not in DATASETS:
        raise ConfigError(f"reasoning-gym has no dataset {source.name!r}{nearest(source.name, DATASETS)}")
    config = {key: _thawed(value) for key, value in source.config}
    known = [*inspect.signature(DATASETS[source.name][1]).parameters]
    for key in config:
        if key not in known or key in ("seed", "size"):
            options = [one for one in known if one not in ("seed", "size")]
            raise ConfigError(
                f"reasoning-gym, {source.name}: no option {key!r}{nearest(key, options)} (known: {', '.join(options)})"
            )
    try:
        return gym.create_dataset(source.name, seed=seed, size=size, **config)
    except Exception as error:  # asserts in the main
        raise ConfigError(
            f"reasoning-gym, {source.name}: {config} is refused: {error or type(error).__name__}"
        ) from error


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ("{}", tuple(sorted((key, _frozen(one)) for key, one in value.items())))
    return tuple(_frozen(one) for one in value) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        if len(value) == 2 and value[0] == "{}":
            return {key: _thawed(one) for key, one in value[1]}
        return [_thawed(one) for one in value]
    return value


def known(entry: Mapping[str, Any]) -> str | None:
    """The answer that reasoning-gym knows, if it knows one: where many are right, it may only be among what it keeps
    for itself."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    kept = entry.get("metadata", {})
    found = next((kept[key] for key in ("possible_answer", "example_correct_answer") if kept.get(key)), None)
    return None if found is None else found if isinstance(found, str) else json.dumps(found)


def heldout(question: str) -> bool:
    """Whether a question is held out: one in eight, by a hash of nothing but its text."""
    return hashlib.sha256(" ".join(question.split()).encode()).digest()[0] % 8 == 0
