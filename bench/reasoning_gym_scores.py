"""reasoning-gym's datasets paid as reasoning-gym itself pays, for `bench audited`: its scorer, asked in this process.

`reasoning_gym:DATASET`, as Askesis loads it, judges more strictly; this is how the library comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from askesis.envs.adapters.reasoning_gym import ReasoningGym
from askesis.types import Reward, State, Trace


class TheirScores(ReasoningGym):
    """One dataset, paid by its `score_answer`; full pay is a success. Options: `dataset`, and those of `ReasoningGym`.

    What the scorer evaluates, it evaluates here: for audits, whose processes are made for that, and for nothing else.
    """

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` where the score is 1 or more; the score is paid. Raises what the scorer raises."""
        state, score = self._own(state), 0.0
        if state.answer is not None and trace.outcome.reason == "submitted":
            entry, dataset = self._again(trace.task)
            score = float(dataset.score_answer(state.answer, entry))
        return [Reward(name="success", value=float(score >= 1.0), weight=0.0), Reward(name="score", value=score)]
