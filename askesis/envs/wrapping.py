"""An environment around another: what is not changed is the other's, also what only that one has (its oracle, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from askesis.types import Env, Reward, Specialist, Split, State, Task, Tool, Trace


class WrappedState:
    """The state of an episode around another's; everything that it has not itself is the other's (its sandbox, ...)."""

    def __init__(self, inner: State) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    async def close(self) -> None:
        """Close the other's."""
        await self.inner.close()


class WrappedEnv:
    """Its tasks are the other's, with their ids: what is measured with and without can be paired."""

    def __init__(self, inner: Env) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        value = getattr(self.inner, name)
        if name in ("opening", "respond", "specialists", "stops"):  # the second argument is the other's state
            return lambda one, state: value(one, inner_state(state))
        return value

    @property
    def name(self) -> str:
        """The other's."""
        return self.inner.name

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """The other's."""
        return self.inner.tasks(split, seed=seed, limit=limit)

    async def setup(self, task: Task) -> State:
        """The other's state in one of ours."""
        return WrappedState(await self.inner.setup(task))

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """The other's."""
        return self.inner.tools(task, inner_state(state))

    def specialists(self, task: Task, state: State) -> Sequence[Specialist]:
        """The other's; none where it foresees none."""
        foresees = getattr(self.inner, "specialists", None)
        return () if foresees is None else tuple(foresees(task, inner_state(state)))

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """The other's."""
        return await self.inner.verify(trace, inner_state(state))

    async def close(self) -> None:
        """Close the other."""
        await self.inner.close()


def inner_state(state: State) -> State:
    """The other's state."""
    assert isinstance(state, WrappedState)
    return state.inner
