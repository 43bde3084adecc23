"""Any environment with the tools of MCP servers beside its own: the option `mcp` of every environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from askesis.envs.wrapping import WrappedEnv, WrappedState, inner_state
from askesis.tools.mcp import MCPEpisode, MCPServer, MCPTools
from askesis.types import Env, State, Task, Tool


class _MCPState(WrappedState):
    def __init__(self, inner: State, served: MCPEpisode) -> None:
        super().__init__(inner)
        self.served = served

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            await self.served.close()


class WithMCP(WrappedEnv):
    """`inner`, and the tools of `servers` (see `MCPServer.of`); one whose name is taken gets its server's before it."""

    def __init__(self, inner: Env, servers: Iterable[MCPServer | str | Mapping[str, Any]]) -> None:
        super().__init__(inner)
        self._mcp = MCPTools(servers)

    async def setup(self, task: Task) -> State:
        """The environment's, and the connections."""
        served = await self._mcp.open()
        try:
            return _MCPState(await self.inner.setup(task), served)
        except BaseException:
            await served.close()
            raise

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """The environment's, then the servers'."""
        assert isinstance(state, _MCPState)
        own = self.inner.tools(task, inner_state(state))
        return [*own, *state.served.tools([tool.spec.name for tool in own])]

    async def close(self) -> None:
        """Close the environment, and what connections are shared."""
        try:
            await self.inner.close()
        finally:
            await self._mcp.close()
