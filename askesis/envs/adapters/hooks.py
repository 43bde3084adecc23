"""Functions that an option names: `package.module:function` or `path/to/file.py:function`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from askesis.envs.registry import _from_file, _from_package
from askesis.types import ConfigError, Message, Policy, Task, Thinking, ToolCall, assistant, nearest


def hook(target: str, option: str) -> Callable[..., Any]:
    """The function. Raises `ConfigError` where there is none."""
    place, colon, attribute = target.partition(":")
    if not (colon and place and attribute):
        raise ConfigError(f"{option}={target!r}: expected 'package.module:function' or 'path/to/file.py:function'")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place, f"{option}={target}")
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{option}={target!r}: {place} has no function {attribute!r}{nearest(attribute, names)}")
    called: Callable[..., Any] = found
    return called


def scripted(target: str, option: str) -> Callable[..., Policy]:
    """A function of a task that gives a policy: what it gives as a list is taken as the actions, in order."""
    made = hook(target, option)

    def policy(task: Task, **options: Any) -> Policy:
        given = made(task, **options)
        if isinstance(given, Sequence | Iterator) and not isinstance(given, str):
            return Actions(given)
        if not hasattr(given, "act"):
            raise ConfigError(
                f"{option}={target!r} gave a {type(given).__name__}, expected a policy (`act`) or a list of actions"
            )
        found: Policy = given
        return found

    return policy


class Actions(Policy):
    """Takes the given actions in order, by the tool `step`, then stops. One that is a mapping with `tool` and
    `arguments` is a call of that tool."""

    def __init__(self, actions: Sequence[Any] | Iterator[Any]) -> None:
        self._actions = iter(actions)

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next one."""
        try:
            action = next(self._actions)
        except StopIteration:
            return assistant()
        if isinstance(action, Mapping) and set(action) == {"tool", "arguments"}:
            call = ToolCall(id="call_0", name=str(action["tool"]), arguments=dict(action["arguments"]))
        else:
            call = ToolCall(id="call_0", name="step", arguments={"action": action})
        return assistant(tool_calls=(call,))
