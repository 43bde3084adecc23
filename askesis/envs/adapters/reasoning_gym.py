"""`reasoning_gym:DATASET`: any dataset of reasoning-gym, its questions answered through a tool and judged strictly.

The options are the dataset's own configuration, besides those of `ReasoningGym`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from askesis.envs.reasoning.drawing import Source, heldout, known
from askesis.envs.reasoning.episodes import Questions
from askesis.envs.reasoning.scoring import EXACT
from askesis.types import ConfigError, EnvError, Split, Task

_BARREN = 20  # datasets in a row that give nothing new


class ReasoningGym(Questions):
    """One dataset. Options, beside the dataset's own:

    size: questions that are made by one seed of reasoning-gym before the next is taken. python, max_turns,
    max_turn_tokens, workers: as `Questions`. Raises `ConfigError` for a dataset or an option that there is not.
    """

    package = "reasoning_gym"
    extra = "reasoning"

    def __init__(
        self,
        dataset: str,
        *,
        size: int = 500,
        python: bool = False,
        max_turns: int = 8,
        max_turn_tokens: int = 2048,
        workers: int = 16,
        **config: Any,
    ) -> None:
        super().__init__(
            name=f"reasoning_gym:{dataset}",
            python=python,
            max_turns=max_turns,
            max_turn_tokens=max_turn_tokens,
            workers=workers,
        )
        if size < 1:
            raise ConfigError(f"reasoning_gym:{dataset}: size={size}: expected at least 1")
        self._size = size
        self._source = Source.of(dataset, config)
        entry = self._source.entry(0, size, 0)  # what is wrong with the options is said now
        self.solved = known(entry) is not None
        if dataset in EXACT and not self.solved:
            raise ConfigError(
                f"reasoning_gym:{dataset}: reasoning-gym gives no answer to its questions, and its scorer pays for "
                "what is not one; choose another dataset"
            )

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000); fewer, where the dataset has no more different questions.

        A question's split follows from its text. Raises `EnvError` where there is none at all.
        """
        most, found, barren, chunk = 1000 if limit is None else limit, dict[str, Task](), 0, 0
        while len(found) < most and barren < _BARREN:
            before = len(found)
            for place in range(self._size):
                where = {"seed": _seed(seed, chunk), "size": self._size, "place": place}
                entry = self._source.entry(**where)
                question = entry["question"]
                if heldout(question) == (split == "heldout") and question not in found:
                    found[question] = self.task(self._source, split, entry, **where)
                if len(found) >= most:
                    break
            chunk, barren = chunk + 1, 0 if len(found) > before else barren + 1
        if not found:
            raise EnvError(f"{self.name}: none of {_BARREN * self._size} questions belongs into the split {split!r}")
        return list(found.values())


def _seed(seed: int, chunk: int) -> int:
    """Far enough apart that no two chunks overlap: reasoning-gym adds the place to the seed."""
    return (seed * 1_000_003 + chunk) * 100_003 % 2**31
