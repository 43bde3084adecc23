"""One policy, its tools, one conversation."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from askesis.chat import failure_text
from askesis.types import Message, Session, system, tool_result


class SoloAgent:
    """Speak, run the calls, hear the results; until the episode has ended or a turn makes no call.

    instructions: the system prompt, or None for no system message. It is part of what the harness is, so it shows in
    `name`: `solo@1` without one, `solo@1+<8 hex digits of its hash>` with one.
    """

    def __init__(self, *, instructions: str | None = None) -> None:
        self._instructions = instructions
        digest = "" if instructions is None else "+" + hashlib.sha256(instructions.encode()).hexdigest()[:8]
        self.name = f"solo@1{digest}"

    async def run(self, session: Session) -> None:
        """Play one episode."""
        session.add(*opening(session, self._instructions))
        while not session.ended:
            if not await step(session):
                return


def opening(session: Session, instructions: str | None) -> list[Message]:
    """What a conversation begins with: the system text, if there is one, and what the environment says: the task.

    A system message of the environment's own comes after `instructions`, in the same message.
    """
    given = session.opening
    if instructions is None:
        return [*given]
    if given[0].role == "system":
        return [system(f"{instructions}\n\n{given[0].text}"), *given[1:]]
    return [system(instructions), *given]


async def step(session: Session, *, together: Collection[str] = ()) -> bool:
    """A turn, and its calls or what the environment says to it; False if there is neither. Calls that did not parse are
    answered after those that did.

    together: tools of which neighbouring calls are run at the same time.
    """
    message = await session.turn()
    if not message.tool_calls and not message.failures:
        return await session.reply()
    await session.call(message.tool_calls, together=together)
    session.add(*(tool_result(failure_text(failure)) for failure in message.failures))
    return True
