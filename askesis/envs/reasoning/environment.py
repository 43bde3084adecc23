"""`reasoning`: math, logic and code out of reasoning-gym, at three levels. See README.md beside this file."""

from __future__ import annotations

import random
from collections.abc import Sequence

from askesis.envs.reasoning.datasets import DATASETS, LEVELS, SUBJECT_OF, SUBJECTS, source
from askesis.envs.reasoning.drawing import heldout
from askesis.envs.reasoning.episodes import Questions
from askesis.types import ConfigError, Split, Task, nearest

_SIZE = 2**31 - 1  # questions of one seed; each is made of its place alone
_BARREN = 5_000  # draws in a row that give nothing new


class Reasoning(Questions):
    """The environment. Options:

    subjects: math, logic, code, drawn evenly. datasets: only these (`DATASETS`), drawn evenly; None for all of the
    subjects. levels: drawn evenly. python: offer the tool `python`, in a sandbox. max_turns, max_turn_tokens: of an
    episode. workers: sandboxes at once. Raises `MissingExtra` without reasoning-gym, `ConfigError` for what cannot be.
    """

    def __init__(
        self,
        *,
        subjects: Sequence[str] = SUBJECTS,
        datasets: Sequence[str] | None = None,
        levels: Sequence[int] = LEVELS,
        python: bool = False,
        max_turns: int = 8,
        max_turn_tokens: int = 2048,
        workers: int = 16,
    ) -> None:
        super().__init__(
            name="reasoning", python=python, max_turns=max_turns, max_turn_tokens=max_turn_tokens, workers=workers
        )
        if not levels or set(levels) - set(LEVELS):
            raise ConfigError(f"reasoning: levels={list(levels)}: expected one or more of {list(LEVELS)}")
        for subject in subjects:
            if subject not in SUBJECTS:
                raise ConfigError(
                    f"reasoning: no subject {subject!r}{nearest(subject, SUBJECTS)} (known: {', '.join(SUBJECTS)})"
                )
        for name in datasets or ():
            if name not in SUBJECT_OF:
                raise ConfigError(
                    f"reasoning: dataset {name!r} is none of this family's{nearest(name, SUBJECT_OF)} "
                    f"(any of reasoning-gym's: the environment reasoning_gym:{name})"
                )
        names = {one: [n for n in DATASETS[one] if datasets is None or n in datasets] for one in SUBJECTS}
        self._names = [found for subject, found in names.items() if subject in subjects and found]
        if not self._names:
            raise ConfigError(f"reasoning: subjects={list(subjects)} and datasets={datasets}: nothing is left of both")
        self._levels = tuple(levels)

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000); fewer, where few datasets at a low level have no more different questions.

        A question's split follows from its text.
        """
        rng = random.Random(f"reasoning/{split}/{seed}")
        found: dict[str, Task] = {}
        barren = 0
        while len(found) < (1000 if limit is None else limit) and barren < _BARREN:
            name, level = rng.choice(rng.choice(self._names)), rng.choice(self._levels)
            place, drawn = rng.getrandbits(30), source(name, level)
            entry = drawn.entry(0, _SIZE, place)
            barren += 1
            if heldout(entry["question"]) == (split == "heldout") and entry["question"] not in found:
                barren, where = 0, {"seed": 0, "size": _SIZE, "place": place}
                found[entry["question"]] = self.task(drawn, split, entry, level=level, **where)
        return list(found.values())
