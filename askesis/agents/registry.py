"""From a name to a harness: `solo` is its newest version, `solo@1` exactly that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from askesis.agents.compacting import CompactingAgent
from askesis.agents.external import ExternalAgent
from askesis.agents.orchestrator import OrchestratorAgent
from askesis.agents.solo import SoloAgent
from askesis.types import Agent, ConfigError, Env, nearest

AGENTS: Mapping[str, Callable[..., Agent]] = {
    "solo@1": SoloAgent,
    "compact@1": CompactingAgent,
    "orchestrator@1": OrchestratorAgent,
    "external@1": ExternalAgent,
}
USUAL = "solo@1"


def load_agent(name: str = USUAL, **options: Any) -> Agent:
    """Make the harness `name` with its `options`.

    Raises `ConfigError`, with the nearest known name, if there is none such or an option does not fit.
    """
    newest = {known.partition("@")[0]: known for known in sorted(AGENTS, key=_version)}
    factory = AGENTS.get(newest.get(name, name))
    if factory is None:
        known = [*newest, *AGENTS]
        raise ConfigError(f"no agent {name!r}{nearest(name, known)}: expected one of {', '.join(AGENTS)}")
    try:
        return factory(**options)
    except TypeError as error:
        raise ConfigError(f"agent {name!r}: options {sorted(options)} do not fit: {error}") from error


def agent_for(env: Env, name: str = "", **options: Any) -> Agent:
    """The harness `name`; for no name the one that the environment wants (`harness`), `solo` where it wants none.

    Raises as `load_agent` does.
    """
    return load_agent(name or getattr(env, "harness", "") or USUAL, **options)


def _version(name: str) -> int:
    return int(name.partition("@")[2])
