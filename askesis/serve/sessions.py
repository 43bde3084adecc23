"""The sessions of a gateway: who answers under which name, and when conversations become traces in the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from askesis.rollout import Host, Recorder, TraceStore
from askesis.serve.faults import Fault
from askesis.serve.settings import Served, Settings
from askesis.types import ConfigError, Engine, StoreError, Trace

STORE = "traces.db"
LABEL = "serve"
_FORGET_S = 60.0
_ALIKE = 8  # stored conversations of one beginning that are looked through for a history
_log = logging.getLogger("askesis.serve")


def open_store(folder: Path | None) -> TraceStore | None:
    """The store in a folder; None for no folder."""
    return None if folder is None else TraceStore(folder / STORE)


class Sessions:
    """Hosts by name. Those that nobody attached are recorders, made when they are first asked for."""

    def __init__(
        self,
        engine: Engine,
        served: Served,
        settings: Settings,
        store: TraceStore | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._served, self._settings, self._store = engine, served, settings, store
        self._clock = clock
        self._recorders: dict[str, Recorder] = {}
        self._attached: dict[str, Host] = {}
        self._unkept: list[Trace] = []  # that could not be put into the store yet
        self.kept = 0  # traces in the store

    def attach(self, name: str, host: Host) -> None:
        """Let `host` answer the requests of session `name`. Raises `ConfigError` if somebody does already."""
        if name in self._attached:
            raise ConfigError(f"session {name!r} has a host already")
        self._attached[name] = host

    def detach(self, name: str) -> None:
        """The host of `name` answers no more. Unknown names are no error."""
        self._attached.pop(name, None)

    def attached(self, name: str) -> Host | None:
        """The host that somebody attached as `name`."""
        return self._attached.get(name)

    def of(self, name: str) -> Host:
        """The recorder of a session. Raises a 503 `Fault` where there are too many."""
        recorder = self._recorders.get(name)
        if recorder is None:
            if len(self._recorders) >= self._settings.sessions:
                raise Fault(503, f"{len(self._recorders)} sessions are open, no more", code="overloaded", retry_after=5)
            recorder = Recorder(
                name,
                engine=self._engine,
                renderer=self._served.renderer,
                clock=self._clock,
                data={"model": self._served.name, "checkpoint": self._served.checkpoint},
                past=self._past,
            )
            self._recorders[name] = recorder
        return recorder

    def _past(self, session: str, task_id: str) -> list[Trace]:
        """The newest few traces of a session's conversations that began alike, also those still waiting here."""
        waiting = [trace for trace in self._unkept if (trace.group, trace.task.id) == (session, task_id)]
        found = waiting[::-1]
        if self._store is not None:
            try:
                found += self._store.latest(group=session, task_id=task_id, most=_ALIKE)
            except StoreError as error:  # answered all the same, as a new conversation
                _log.error("%s", error)
        return found

    @property
    def open_sessions(self) -> int:
        """Sessions in memory."""
        return len(self._recorders)

    @property
    def conversations(self) -> int:
        """Conversations in memory."""
        return sum(recorder.conversations for recorder in self._recorders.values())

    @property
    def tokens(self) -> int:
        """Tokens in memory."""
        return sum(recorder.tokens for recorder in self._recorders.values())

    def seal(self, *, idle_s: float, reason: str) -> int:
        """Keep what nobody goes on with; how many traces. Raises `StoreError`: then they wait for the next time."""
        sealed: list[Trace] = []
        for name, recorder in list(self._recorders.items()):
            sealed += recorder.seal(idle_s=idle_s, most_tokens=self._settings.session_tokens, reason=reason)
            # a turn that was opened may not speak yet: an empty session is only forgotten a good while later
            if not recorder.conversations and self._clock() - recorder.touched_s > _FORGET_S:
                recorder.close()
                del self._recorders[name]
        return self._keep(sealed)

    def end(self, name: str) -> int:
        """A client says that its session is over; how many traces it left. Raises as `seal`."""
        recorder = self._recorders.get(name)
        return self._keep([] if recorder is None else recorder.seal(reason="ended by its client"))

    def _keep(self, traces: list[Trace]) -> int:
        """Put them into the store, and those that it did not take before: each alone, so that none keeps others out."""
        if self._store is None:
            return len(traces)
        waiting, self._unkept, failure = [*self._unkept, *traces], [], None
        for trace in waiting:
            try:
                self._store.add([trace], label=LABEL)
                self.kept += 1
            except Exception as error:  # a full disk, say: the recorder has forgotten the trace, so it must stay here
                self._unkept.append(trace)
                failure = error
        if failure is not None:
            raise StoreError(f"{len(self._unkept)} traces could not be kept: {failure}") from failure
        return len(traces)

    def close(self) -> None:
        """Keep all, and let go of the store. Raises `StoreError` if it does not take all."""
        try:
            self.seal(idle_s=0.0, reason="the gateway was stopped")
        finally:
            if self._store is not None:
                self._store.close()
