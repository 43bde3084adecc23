"""One policy, its tools, one conversation."""

from __future__ import annotations

import hashlib

from askesis.chat import failure_text
from askesis.types import Session, system, tool_result, user


class SoloAgent:
    """Speak, run the calls, hear the results; until the episode has ended or a turn makes no call.

    instructions: the system prompt, or None for no system message. It is part of what the harness is, so it shows in
    `name`: `solo@1` without one, `solo@1+<8 hex digits of its hash>` with one.
    """

    def __init__(self, *, instructions: str | None = None) -> None:
        self._opening = () if instructions is None else (system(instructions),)
        digest = "" if instructions is None else "+" + hashlib.sha256(instructions.encode()).hexdigest()[:8]
        self.name = f"solo@1{digest}"

    async def run(self, session: Session) -> None:
        """Play one episode. Calls that did not parse are answered, after those that did, with what was wrong."""
        session.add(*self._opening, user(session.task.prompt))
        while not session.ended:
            message = await session.turn()
            if not message.tool_calls and not message.failures:
                return
            await session.call(message.tool_calls)
            session.add(*(tool_result(failure_text(failure)) for failure in message.failures))
