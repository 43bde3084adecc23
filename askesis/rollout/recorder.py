"""The record of a session that nobody started: whoever uses an API key or a URL prefix is answered and recorded.

Each conversation, told from others by its opening (tools and messages before the first answer), is a tree of its own
and becomes a trace when nobody has gone on with it for a while, or at the end. Traces of one session share `group`.

A client that goes on with a conversation after that gets its recorded tokens back: the stored trace is read again, and
what comes makes a new one that says which it continues. What the earlier trace masks in is masked out there: what was
sampled carries loss once, in the trace that it was first kept in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from askesis.rollout.heard import Halt, Heard
from askesis.rollout.hosting import Answer, Ask, Continuity, Finish, HostClosed, Listener
from askesis.rollout.record import check_completion, thought_tokens
from askesis.rollout.tree import ROOT, Place, TokenTree, opening
from askesis.types import (
    Completion,
    ContextOverflow,
    Engine,
    EngineError,
    Message,
    Node,
    Outcome,
    Renderer,
    Sampling,
    Task,
    Thinking,
    Timing,
    Trace,
)

HARNESS = "serve@1"
Past = Callable[[str, str], Iterable[Trace]]
"""(session, id of a task) -> the traces that were kept of it, the newest first."""


@dataclass(slots=True, kw_only=True, eq=False)
class Conversation:
    """One tree on its way to a trace. voices: the engine's session in which a sampled node's cache may be.

    continues: the trace that it was read from again, and known: how many of its nodes are from there.
    """

    id: str
    tree: TokenTree
    ask: Ask
    started_s: float
    touched_s: float
    busy: int = 0
    sealed: bool = False
    engine_s: float = 0.0
    voices: dict[int, str] = field(default_factory=dict)
    opened: int = 0
    continues: str = ""
    known: int = 0

    def voice(self, anchor: int) -> str:
        """The engine's session for a turn after `anchor`: its own again, unless another turn goes on from there."""
        self.opened += 1
        return self.voices.pop(anchor, None) or f"{self.id}/{self.opened}"


class Recorder:
    """A `Host` on an engine. name: of the session. data: what else each trace's task says (JSON).

    past: where conversations that are traces already are found again. clock: seconds. Nothing that was sampled is
    lost: a turn that is cancelled, or fails, is recorded as far as it came.
    """

    def __init__(
        self,
        name: str,
        *,
        engine: Engine,
        renderer: Renderer,
        clock: Callable[[], float],
        data: Mapping[str, Any] | None = None,
        past: Past | None = None,
    ) -> None:
        self.name, self.engine, self.renderer, self.clock = name, engine, renderer, clock
        self._data, self._past = dict(data or {}), past
        self._conversations: dict[object, Conversation] = {}
        self._closed = False
        self.touched_s = clock()  # when a turn was last opened

    def open(self, ask: Ask) -> RecordedTurn:
        """Find the request's place. Raises `TemplateError`, `ContextOverflow`, and `HostClosed` once closed."""
        if self._closed:
            raise HostClosed(f"session {self.name!r} is closed")
        key, now = opening(ask.messages, ask.tools), self.clock()
        self.touched_s = now
        conversation = self._conversations.get(key)
        if conversation is None:
            conversation = self._revived(ask, now) or self._begun(ask, now)
        conversation.touched_s = now
        place = conversation.tree.place(ask.messages, tools=ask.tools, thinking=ask.thinking)
        room = self.engine.context_length - len(place.tokens)
        if room < 1:
            raise ContextOverflow(
                f"this conversation has {len(place.tokens)} tokens; the model takes {self.engine.context_length}, "
                "the answer included"
            )
        sampling = replace(
            ask.sampling,
            max_tokens=room if ask.max_tokens is None else min(room, ask.max_tokens),
            stop=self.renderer.stop_ids,
            thinking=self.renderer.thinking_limit(ask.thinking),
        )
        self._conversations[key] = conversation  # now that it is known to be in order
        return RecordedTurn(self, conversation, place, ask, sampling)

    def _begun(self, ask: Ask, now: float) -> Conversation:
        tree = TokenTree(renderer=self.renderer)
        return Conversation(id=secrets.token_hex(8), tree=tree, ask=ask, started_s=now, touched_s=now)

    def _revived(self, ask: Ask, now: float) -> Conversation | None:
        """The stored conversation whose record reaches farthest into the history, if any does."""
        if self._past is None or not any(message.role == "assistant" for message in ask.messages):
            return None
        best: Conversation | None = None
        reach = 0
        for trace in self._past(self.name, self._task(ask).id):
            one = self._begun(ask, now)
            one.tree.revive(trace.nodes, ask.tools)
            one.continues, one.known = trace.id, len(trace.nodes)
            place = one.tree.place(ask.messages, tools=ask.tools, thinking=ask.thinking)
            if place.anchor != ROOT and place.recorded > reach:
                best, reach = one, place.recorded
        return best

    @property
    def tokens(self) -> int:
        """Tokens held in memory."""
        return sum(conversation.tree.size for conversation in self._conversations.values())

    @property
    def conversations(self) -> int:
        """Conversations that are no traces yet."""
        return len(self._conversations)

    @property
    def busy(self) -> int:
        """Turns that are being spoken."""
        return sum(conversation.busy for conversation in self._conversations.values())

    def seal(self, *, idle_s: float = 0.0, most_tokens: int | None = None, reason: str = "idle") -> list[Trace]:
        """Traces of the conversations that nobody goes on with: idle for so long; the idlest, where there are more
        than `most_tokens`. They are forgotten here; one that is being spoken in stays."""
        now, held, sealed = self.clock(), self.tokens, []
        for key, one in sorted(self._conversations.items(), key=lambda item: item[1].touched_s):
            crowded = most_tokens is not None and held > most_tokens
            if one.busy or not (crowded or now - one.touched_s >= idle_s):
                continue
            held -= one.tree.size
            one.sealed = True
            del self._conversations[key]
            for voice in one.voices.values():
                self.engine.release(voice)
            if len(one.tree.nodes) > one.known:
                sealed.append(self._trace(one, "crowded" if crowded else reason))
        return sealed

    def close(self) -> None:
        """Take no further turn; what is recorded stays until it is sealed."""
        self._closed = True

    def _trace(self, one: Conversation, reason: str) -> Trace:
        sampled = [node for node in one.tree.nodes if node.sampled]
        try:
            one.tree.check()
            continued = f"; continues {one.continues}" if one.continues else ""
            outcome = _outcome(sampled[-1].finish_reason, reason + continued)
        except EngineError as error:
            outcome = Outcome(by="engine", reason="invariant", detail=str(error))
        return Trace(
            id=one.id,
            task=self._task(one.ask),
            harness=HARNESS,
            nodes=(*(_given(node) for node in one.tree.nodes[: one.known]), *one.tree.nodes[one.known :]),
            rewards=(),
            outcome=outcome,
            timing=Timing(engine_s=one.engine_s, total_s=one.touched_s - one.started_s),
            thinking=one.ask.thinking,
            temperature=one.ask.sampling.temperature,
            group=self.name,
        )

    def _task(self, ask: Ask) -> Task:
        """What a conversation is about: the same for each that begins with these words, in this session."""
        first = next((message.text for message in ask.messages if message.role == "user"), "")
        tools = [tool.as_json() for tool in ask.tools]
        data = self._data | {"session": self.name} | ({"tools": tools} if tools else {})
        return Task(env="serve", prompt=first, data=data)


def _given(node: Node) -> Node:
    """A node of the trace that is continued: an observation here, with its tokens."""
    return replace(node, sampled=False, mask=np.zeros_like(node.mask))


def _outcome(finish: str, reason: str) -> Outcome:
    """Who ended a conversation: its last turn says it."""
    if finish == "cancelled":
        return Outcome(by="cancelled", reason="cancelled", detail=f"the last turn was cut off; {reason}")
    if finish == "failed":
        return Outcome(by="engine", reason="error", detail=f"the last turn failed; {reason}")
    if finish == "length":
        return Outcome(by="limit", reason="max_tokens", detail=reason)
    return Outcome(by="policy", reason="stopped", detail=reason)


class RecordedTurn:
    """A turn of a `Recorder`; see `hosting.Turn`."""

    def __init__(
        self, recorder: Recorder, conversation: Conversation, place: Place, ask: Ask, sampling: Sampling
    ) -> None:
        self._recorder, self._conversation = recorder, conversation
        self._place, self._ask, self._sampling = place, ask, sampling

    @property
    def trace_id(self) -> str:
        """Of the trace that the conversation will be."""
        return self._conversation.id

    @property
    def thinking(self) -> Thinking:
        """The mode that was asked for."""
        return self._ask.thinking

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the context."""
        return len(self._place.tokens)

    @property
    def recorded_tokens(self) -> int:
        """How many of them were on record before."""
        return self._place.recorded

    @property
    def continuity(self) -> Continuity:
        """How the request's history stands to the record."""
        return self._place.continuity

    async def speak(self, listener: Listener | None = None) -> Answer:
        """Sample the answer and put it on record. Cancelled or failed, what was sampled so far is recorded."""
        recorder, one = self._recorder, self._conversation
        if one.sealed:  # since it was opened
            return await recorder.open(self._ask).speak(listener)
        one.busy += 1
        voice, begun = one.voice(self._place.anchor), recorder.clock()
        heard = Heard(listener)
        finish: str = "cancelled"
        try:
            try:
                completion = await recorder.engine.generate(
                    self._place.tokens, self._sampling, session=voice, on_tokens=heard
                )
                check_completion(completion, self._sampling)
                finish = completion.finish_reason
            except Halt:
                completion, finish = heard.completion(), "halted"
            except Exception:
                finish = "failed"
                raise
            return self._answer(completion, finish, listener, begun, voice)
        except BaseException:
            if heard.something and finish in ("cancelled", "failed"):
                self._answer(heard.completion(), finish, listener, begun, voice)
            raise
        finally:
            one.busy -= 1
            one.touched_s = recorder.clock()

    def _answer(
        self, completion: Completion, finish: str, listener: Listener | None, begun: float, voice: str
    ) -> Answer:
        recorder, one = self._recorder, self._conversation
        failure, told = None, None
        try:
            message = recorder.renderer.parse(completion.token_ids, thinking=self._ask.thinking, tools=self._ask.tools)
            thought = thought_tokens(recorder.renderer, completion, self._ask.thinking)
            told = None if listener is None else listener.told()
        except Exception as error:  # nothing that was sampled is lost, whatever becomes of reading it
            message, thought, failure = Message(role="assistant"), 0, error
        now = recorder.clock()
        one.engine_s += now - begun
        node = one.tree.commit(
            self._place,
            message,
            completion,
            told=told,
            finish=finish,
            thinking_tokens=thought,
            temperature=self._sampling.temperature,
            started_s=begun - one.started_s,
            ended_s=now - one.started_s,
        )
        one.voices[node] = voice
        if failure is not None:
            raise EngineError(f"what was sampled cannot be read: {failure!r}") from failure
        ended: Finish = "halted" if finish == "halted" else "length" if finish == "length" else "stop"
        return Answer(node=node, message=message, completion=completion, finish=ended, thinking_tokens=thought)
