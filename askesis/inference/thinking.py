"""Thinking budgets, for all rows of a batch at once.

A request thinks from the first opening tag (in its prompt, where `ThinkingLimit.open` says so, or sampled) to the
first closing tag; only sampled tokens in between count, whatever the context holds. At the budget one more token is
drawn: if it closes the thinking or ends the turn, that is the model's own end, and stands; any other is thrown away
and the closing text is put in its place. Budget 0 closes without drawing. Outside that one stretch nothing is forced,
so nothing can land in a tool call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from askesis.inference.batch import Array
from askesis.types import ThinkingLimit

_BEFORE, _INSIDE, _AFTER = 0, 1, 2


class Budgets:
    """Budgets of `count` rows. Rows without a limit cost nothing."""

    def __init__(self, count: int) -> None:
        self.limits: dict[int, ThinkingLimit] = {}
        self._open = np.full(count, -1, dtype=np.int32)
        self._close = np.full(count, -1, dtype=np.int32)
        self._budget = np.zeros(count, dtype=np.int64)
        self._spent = np.zeros(count, dtype=np.int64)
        self._phase = np.full(count, _AFTER, dtype=np.int8)

    def begin(self, row: int, limit: ThinkingLimit | None) -> tuple[int, ...]:
        """Start a request; gives the tokens to force before anything is drawn (thinking is open, budget 0)."""
        if limit is None:
            self.limits.pop(row, None)
            self._phase[row] = _AFTER
            return ()
        self.limits[row] = limit
        self._open[row], self._close[row], self._budget[row] = limit.open_id, limit.close_id, limit.budget
        self._spent[row] = 0
        self._phase[row] = _INSIDE if limit.open else _BEFORE
        if limit.open and limit.budget == 0:
            self._phase[row] = _AFTER
            return limit.closing
        return ()

    @property
    def watching(self) -> bool:
        """Whether some row's thinking may still be cut off."""
        return bool(self.limits) and bool((self._phase != _AFTER).any())

    def end(self, row: int) -> None:
        """The request in `row` is over."""
        self.limits.pop(row, None)
        self._phase[row] = _AFTER

    def observe(
        self, rows: Array, tokens: Array, stopped: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], list[int]]:
        """Tokens [m] were drawn in `rows` [m], some of which end their request.

        Gives (which of them are thrown away [m], rows in which the closing text follows).
        """
        phase = self._phase[rows]
        closes = tokens == self._close[rows]
        inside = phase == _INSIDE
        opens = (phase == _BEFORE) & (tokens == self._open[rows])
        thrown = inside & ~closes & ~stopped & (self._spent[rows] >= self._budget[rows])
        forced = thrown | (opens & (self._budget[rows] == 0))
        self._spent[rows] += inside & ~closes & ~thrown
        phase[opens] = _INSIDE
        phase[(closes & (phase != _AFTER)) | forced] = _AFTER
        self._phase[rows] = phase
        return thrown, rows[forced].tolist()
