"""One policy whose conversation is shortened when it grows long: it says itself what is worth keeping.

A compaction is two things in the trace: a turn in which the policy sums up (sampled as every other, so it carries loss
and is paid by what comes of it), and a branch that goes on from the task, the notes, that summary and the last turns.
What was sampled before stays where it is, with its tokens; repeated in the branch, it is an observation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from askesis.agents.solo import opening, step
from askesis.tools.notes import Notes, notes_tool
from askesis.types import ConfigError, Message, Session, Specialist, Text, ToolSpec, user

ASK = (
    "The conversation is about to be shortened. Sum up what you will need to go on: what was found, what was done, "
    "what is left to do. Call nothing."
)
_CUT = "[... {} characters left out: the conversation was full ...]"
_LEAST = 40  # characters of a result that stay when it is cut
_ROUNDS = 12


class CompactingAgent:
    """As `solo`, and when a conversation has taken a share `at` of the context, it goes on from a summary of it.

    keep: turns, with what they were answered, that stay as they are (fewer where there is no room). notes: offer a tool
    `notes`, whose texts stay too. ask: what the policy reads when it is to sum up. instructions: the system prompt.
    Options other than the defaults show in `name`, as a hash. Raises `ConfigError` for senseless ones.
    """

    def __init__(
        self,
        *,
        instructions: str | None = None,
        at: float = 0.75,
        keep: int = 2,
        notes: bool = True,
        ask: str = ASK,
    ) -> None:
        if isinstance(at, bool) or not isinstance(at, int | float) or not 0.1 <= at <= 0.95:
            raise ConfigError(f"agent compact: at={at!r}: expected a share of the context from 0.1 to 0.95")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise ConfigError(f"agent compact: keep={keep!r}: expected a number of turns, 0 or more")
        if not isinstance(ask, str) or not ask.strip():
            raise ConfigError(f"agent compact: ask={ask!r}: expected what the policy reads when it is to sum up")
        self._instructions, self._at, self._keep, self._notes, self._ask = instructions, at, keep, notes, ask
        told = json.dumps([instructions, at, keep, notes, ask])
        default = json.dumps([None, 0.75, 2, True, ASK])
        digest = "" if told == default else "+" + hashlib.sha256(told.encode()).hexdigest()[:8]
        self.name = f"compact@1{digest}"

    def offers(self, specialists: Sequence[Specialist]) -> Sequence[ToolSpec]:
        """What is offered beside the environment's tools."""
        return (notes_tool(Notes()).spec,) if self._notes else ()

    async def run(self, session: Session) -> None:
        """Play one episode. A turn that sums up counts as every other; what it calls is not run."""
        notes = Notes(most=2 * session.context_length)
        if self._notes:
            if any(tool.name == "notes" for tool in session.tools):
                raise ConfigError("agent compact: the environment has a tool `notes` of its own; give notes=false")
            session.use(notes_tool(notes))
        began = opening(session, self._instructions)
        session.add(*began)
        fresh = True  # nothing was said since the conversation began, or was shortened
        while not session.ended:
            if not fresh and session.used_tokens > self._at * session.context_length:
                await self._compact(session, began, notes)
                fresh = True
                continue
            fresh = False
            if not await step(session):
                return

    async def _compact(self, session: Session, began: Sequence[Message], notes: Notes) -> None:
        """began: what the conversation began with; of it, all but the last message stays as it is."""
        self._ask_for_summary(session)
        said = session.messages[len(began) : -1]
        summary = (await session.turn()).text.strip()
        turns = _turns(said)
        for kept in range(min(self._keep, len(turns)), -1, -1):
            tail = [message for turn in turns[len(turns) - kept :] for message in turn]
            session.restart([*began[:-1], _resumed(began[-1], notes, summary), *tail])
            if session.used_tokens <= self._at * session.context_length:
                return

    def _ask_for_summary(self, session: Session) -> None:
        """Where the last answers leave no room to sum up, in a branch of its own, with less of them."""
        session.add(user(self._ask))
        messages = [*session.messages[:-1]]
        most = session.context_length - min(
            session.limits.max_turn_tokens, int((1 - self._at) * session.context_length / 2)
        )
        last = max((n for n, one in enumerate(messages) if one.role == "assistant"), default=len(messages))
        kept, answers = messages[: last + 1], messages[last + 1 :]
        longest = max((len(one.text) for one in answers), default=0)
        for _ in range(_ROUNDS):
            if (used := session.used_tokens) <= most or longest <= _LEAST:
                return
            longest = max(_LEAST, int(0.8 * longest * most / used))
            session.restart([*kept, *(_cut(one, longest) for one in answers), user(self._ask)])


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Each assistant's message with what followed it; what stood before the first is a summary that there is anew."""
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "assistant":
            turns.append([message])
        elif turns:
            turns[-1].append(message)
    return turns


def _resumed(task: Message, notes: Notes, summary: str) -> Message:
    """The task, the notes and the summary as one message: many templates want none two of a user's in a row."""
    parts = [task.text]
    if shown := notes.shown():
        parts.append(f"Your notes:\n{shown}")
    parts.append(f"What was said before was shortened. Your summary of it:\n{summary or '(you gave none)'}")
    return user("\n\n".join(parts))


def _cut(message: Message, most: int) -> Message:
    if len(message.text) <= most:
        return message
    return replace(message, parts=(Text(text=message.text[:most] + "\n" + _CUT.format(len(message.text) - most)),))
