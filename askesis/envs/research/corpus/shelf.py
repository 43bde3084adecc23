"""A corpus with its index and its questions: made once, used by all episodes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from askesis.envs.research.corpus import given
from askesis.envs.research.corpus.planting import Planted, plant
from askesis.envs.research.corpus.questions import LEVELS, PASSAGE, Maker, Passages, Question
from askesis.envs.research.corpus.reading import read
from askesis.tools.search import Document, Index
from askesis.types import ConfigError, Split

_SMALL = 500  # documents; a smaller index is made faster than it is worth keeping
RULES = (
    "Answer from the corpus, and quote what decides, word for word, from the document that says so. Documents are to "
    "be trusted, and of two versions of one the later; forums and blogs are not."
)
GIVEN_RULES = "Answer from the corpus, and quote what decides, word for word, from the document that says so."


class Shelf:
    """Raises `ConfigError` where there is no such corpus, or nothing in it can be asked."""

    def __init__(self, corpus: str | Sequence[str], *, questions: str, levels: Sequence[int]) -> None:
        entries = {entry.document.id: entry for entry in read(corpus)}
        planted = Planted() if questions else plant(list(entries.values()))
        documents = [*(entry.document for entry in entries.values()), *planted.documents]
        passages = Passages(documents)
        self._given: dict[Split, list[Question]] = {}
        self._maker: Maker | None = None
        self.levels: tuple[int, ...] = LEVELS
        self.rules = GIVEN_RULES if questions else RULES
        if questions:
            files = {id: entry.group for id, entry in entries.items()}
            self._given = given.load(Path(questions).expanduser(), passages, files)
        else:
            self._maker = Maker(entries, planted, passages)
            self.levels = self._chosen(self._maker, levels, corpus, len(entries))
        self.index = _index(documents)

    @staticmethod
    def _chosen(maker: Maker, levels: Sequence[int], corpus: str | Sequence[str], documents: int) -> tuple[int, ...]:
        """The levels that are asked for and can be had. Raises `ConfigError` if one cannot."""
        if not maker.levels:
            raise ConfigError(
                f"research: corpus={corpus!r}: no question can be made of these {documents} documents, for training "
                "and to hold out; give more documents, or questions of your own (questions=FILE.jsonl)"
            )
        if lacking := sorted(set(levels) - set(maker.levels)):
            raise ConfigError(
                f"research: corpus={corpus!r} has no questions of levels {lacking}, for training and to hold out: its "
                f"documents do not lead to each other; expected levels of {list(maker.levels)}"
            )
        return tuple(levels) or maker.levels

    def questions(self, split: Split, rng: random.Random) -> Iterator[Question]:
        """All questions of a split, each once, in an order that `rng` decides."""
        if self._maker is not None:
            return self._maker.questions(split, self.levels, rng)
        found = self._given[split]
        return iter(rng.sample(found, len(found)))


def _index(documents: Sequence[Document]) -> Index:
    """In memory where it is small, else in the user's cache."""
    if len(documents) < _SMALL:
        return Index.of(documents, passage=PASSAGE)
    return Index.cached(documents, passage=PASSAGE)
