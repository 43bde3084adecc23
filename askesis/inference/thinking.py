"""Thinking budgets, for all rows of a batch at once.

A request thinks from an opening tag (in its prompt, where `ThinkingLimit.open` says so, or sampled) to the next closing
tag; only sampled tokens in between count, whatever the context holds. At the budget one more token is drawn: if it
closes the thinking or ends the turn, that is the model's own end, and stands; any other is thrown away and the closing
text is put in its place, once. A model that opens its thinking again thinks on what is left of the same budget; where
nothing is left, the closing text follows the opening tag at once, as it does for budget 0. Between the tags of a tool
call that was begun outside of thinking nothing opens and nothing is forced: a think tag in an argument is text. A call
that is drafted while thinking is thought, and no shelter from the budget.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from askesis.inference.batch import Array, Ints
from askesis.types import ThinkingLimit

_OUTSIDE, _THINKING, _CALLING = 0, 1, 2
_NO_TOKEN = -1


class Budgets:
    """Budgets of `count` rows. Rows without a limit cost nothing."""

    def __init__(self, count: int) -> None:
        self.limits: dict[int, ThinkingLimit] = {}
        self._tags = np.full((count, 4), _NO_TOKEN, dtype=np.int32)  # think, its end, call, its end
        self._budget = np.zeros(count, dtype=np.int64)
        self._spent = np.zeros(count, dtype=np.int64)
        self._state = np.full(count, _OUTSIDE, dtype=np.int8)

    def begin(self, row: int, limit: ThinkingLimit | None) -> tuple[int, ...]:
        """Start a request; gives the tokens to force before anything is drawn (thinking is open, budget 0)."""
        self.end(row)
        if limit is None:
            return ()
        self.limits[row] = limit
        self._tags[row] = limit.open_id, limit.close_id, limit.call_open_id, limit.call_close_id
        self._budget[row], self._spent[row] = limit.budget, 0
        if limit.open and limit.budget == 0:
            return limit.closing
        self._state[row] = _THINKING if limit.open else _OUTSIDE
        return ()

    def end(self, row: int) -> None:
        """The request in `row` is over."""
        if self.limits.pop(row, None) is not None:
            self._tags[row] = _NO_TOKEN
        self._state[row] = _OUTSIDE

    def thinking(self, row: int) -> bool:
        """Whether the request in `row` thinks."""
        return bool(self._state[row] == _THINKING)

    def watch(self, rows: Array) -> Ints:
        """The tokens [m, 4] that `observe` must see as the last of a stride, by row; -1 for none."""
        tags: Ints = self._tags[rows]
        return tags

    def stride(self, rows: Array) -> int:
        """Most tokens that may be drawn in one go as long as no watched one is: the last may be one too many."""
        thinking = rows[self._state[rows] == _THINKING]
        return int((self._budget[thinking] - self._spent[thinking]).min()) + 1 if len(thinking) else 2**30

    def passed(self, rows: Array, count: int) -> None:
        """`count` tokens a row [m] were drawn within the stride, none of them watched."""
        self._spent[rows] += np.where(self._state[rows] == _THINKING, count, 0)

    def observe(
        self, rows: Array, tokens: Array, stopped: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], list[int]]:
        """Tokens [m] were drawn in `rows` [m], some of which end their request.

        Gives (which of them are thrown away [m], rows in which the closing text follows).
        """
        state = self._state[rows]
        opens, closes, calls, answers = (self._tags[rows] == tokens[:, None]).T
        outside, thinking = state == _OUTSIDE, state == _THINKING
        used_up = self._spent[rows] >= self._budget[rows]
        thrown = thinking & ~closes & ~stopped & used_up
        forced = thrown | (outside & opens & used_up)
        self._spent[rows] += thinking & ~closes & ~thrown
        state[outside & opens] = _THINKING
        state[outside & calls] = _CALLING
        state[((state == _CALLING) & answers) | (thinking & closes) | forced] = _OUTSIDE
        self._state[rows] = state
        return thrown, rows[forced].tolist()
