"""Questions over a corpus: made of its facts and links, or given by the user; each is shown to be answerable.

A question is a chain: it names a document, follows links from it, and asks for a fact of the last one. Level 1 asks for
a fact of a document that is named; level 2 follows a link; level 3 follows two, or begins with a document that is told
by what it says of itself alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.envs.research.corpus.entries import MOST_TEXT, Entry, Fact, Link, X, names, normal, rank
from askesis.envs.research.corpus.planting import Planted
from askesis.tools.passages import spans
from askesis.tools.search import Document
from askesis.types import Split

PASSAGE = 600  # characters of a passage of the index
LEVELS = (1, 2, 3)
_HELDOUT = 0.25  # share of the facts
FEWEST = 12  # files that are dealt out whole; with fewer, documents are


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of an answer: what to look for, and the text that decides, in its document's passage (from 1)."""

    query: str
    document: str
    text: str
    passage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that can be answered from the corpus. weak: (document, text, value) of what contradicts or is weak.

    exact: whether capitals matter, as they do in code.
    """

    level: int
    kind: str
    text: str
    answers: Sequence[str]
    hops: Sequence[Hop]
    weak: Sequence[tuple[str, str, str]]
    exact: bool = True

    def data(self) -> dict[str, Any]:
        """As a task holds it."""
        return {
            "level": self.level,
            "kind": self.kind,
            "answer": self.answers[0],
            "also": list(self.answers[1:]),
            "exact": self.exact,
            "hops": [
                {"query": hop.query, "passage": hop.passage, "accept": [[hop.document, hop.text]]} for hop in self.hops
            ],
            "weak": [[document, text] for document, text, _ in self.weak],
            "claimed": [value for *_, value in self.weak],
        }


Chain = tuple[Entry, tuple[Link, ...], Fact, bool]
"""Where a question begins, the links that it follows, what it asks for, and whether its beginning is not named."""


class Passages:
    """Which passage of a document holds a text, as the index cuts it."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._bodies = {document.id: document.body for document in documents}
        self._cut: dict[str, list[str]] = {}

    def __contains__(self, document: str) -> bool:
        return document in self._bodies

    def of(self, document: str) -> Sequence[str]:
        """The passages, white space as one space each."""
        if document not in self._cut:
            body = self._bodies[document]
            self._cut[document] = [normal(body[start:stop]) for start, stop in spans(body, PASSAGE)]
        return self._cut[document]

    def holding(self, document: str, text: str) -> int | None:
        """The number of the one passage with this text; None where there is none, or it stands there more than once."""
        counts = [passage.count(text) for passage in self.of(document)]
        return counts.index(1) + 1 if sum(counts) == 1 else None


@dataclass(slots=True)
class Maker:
    """Makes the questions of one corpus."""

    entries: Mapping[str, Entry]
    planted: Planted
    passages: Passages
    _chains: dict[tuple[Split, int], dict[str, list[Chain]]] = field(init=False)

    def __post_init__(self) -> None:
        heldout = dealt_out({id: (entry.group, len(entry.facts)) for id, entry in self.entries.items()})
        once = _Once(self.entries.values())
        self._chains = {}
        for chain in self._all():
            start, links, fact, _ = chain
            splits = {self._split(id, heldout) for id in (start.document.id, *(link.target for link in links))}
            if len(splits) == 1 and once.told(chain):
                level = 3 if chain[3] else len(links) + 1
                kinds = self._chains.setdefault((splits.pop(), level), {})
                kinds.setdefault(fact.kind, []).append(chain)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that have questions in both splits."""
        return tuple(one for one in LEVELS if all((split, one) in self._chains for split in ("train", "heldout")))

    def questions(self, split: Split, levels: Sequence[int], rng: random.Random) -> Iterator[Question]:
        """All there are, each once, levels and kinds of facts drawn evenly."""
        left = {
            level: {kind: rng.sample(chains, len(chains)) for kind, chains in self._chains[split, level].items()}
            for level in levels
        }
        while left:
            level = rng.choice(list(left))
            kind = rng.choice(list(left[level]))
            question = self._question(left[level][kind].pop(), level)
            if not left[level][kind]:
                del left[level][kind]
                if not left[level]:
                    del left[level]
            if question is not None:
                yield question

    @staticmethod
    def _split(id: str, heldout: frozenset[str]) -> Split:
        return "heldout" if id in heldout else "train"

    def _all(self) -> Iterator[Chain]:
        """Every chain of at most two links."""
        for entry in self.entries.values():
            for fact in entry.facts:
                yield entry, (), fact, False
            for link in entry.links:
                target = self.entries[link.target]
                for fact in target.facts:
                    if X in fact.question:
                        yield entry, (link,), fact, False
                        if entry.described:
                            yield entry, (link,), fact, True
                for second in target.links:
                    last = self.entries[second.target]
                    if last.document.id not in (entry.document.id, target.document.id):
                        for fact in last.facts:
                            if X in fact.question:
                                yield entry, (link, second), fact, False

    def _question(self, chain: Chain, level: int) -> Question | None:
        """A chain as a question; None where it cannot be shown to be answerable."""
        start, links, fact, untold = chain
        source = start.document.source
        subject = f'what {source} describes as "{start.described}"' if untold else start.subject
        way = [subject]
        hops: list[Hop | None] = []
        weak: list[tuple[str, str, str]] = []
        if untold:
            hops.append(self._hop(start, start.described, start.described))
        at = start
        for link in links:
            way.append(link.phrase.replace(X, "it"))
            hops.append(self._hop(at, link.text, at.document.title))
            weak += self._weak(at, link.text)
            at = self.entries[link.target]
        hops.append(self._hop(at, fact.text, f"{at.document.title} {fact.kind}"))
        weak += self._weak(at, fact.text)
        text = fact.question.replace(X, "it" if links else subject)
        if links:
            text = f"Take {', then '.join(way)}. {text}"
        if None in hops or names(text, fact.value) or not weak:
            return None
        return Question(
            level=level,
            kind=fact.kind,
            text=text,
            answers=(fact.value, *fact.also),
            hops=[hop for hop in hops if hop is not None],
            weak=weak,
        )

    def _hop(self, entry: Entry, text: str, query: str) -> Hop | None:
        passage = self.passages.holding(entry.document.id, text)
        if passage is None or len(text) > MOST_TEXT:
            return None
        return Hop(query=query, document=entry.document.id, text=text, passage=passage)

    def _weak(self, entry: Entry, text: str) -> list[tuple[str, str, str]]:
        claims = self.planted.claims.get((entry.document.id, text), ())
        return [(claim.document, claim.text, claim.value) for claim in claims]


class _Once:
    """Whether what a question goes by is said of one document alone."""

    def __init__(self, entries: Any) -> None:
        self._described: dict[str, int] = {}
        self._owned: dict[str, set[str]] = {}
        self._sentences: dict[str, int] = {}
        for entry in entries:
            self._described[entry.described] = self._described.get(entry.described, 0) + 1
            for fact in entry.facts:
                if X not in fact.question:
                    self._owned.setdefault(fact.question, set()).add(fact.value)
                    self._sentences[fact.text] = self._sentences.get(fact.text, 0) + 1

    def told(self, chain: Chain) -> bool:
        """Whether there is one answer, and one place that has it."""
        start, _, fact, untold = chain
        if untold and self._described[start.described] != 1:
            return False
        return X in fact.question or (len(self._owned[fact.question]) == 1 and self._sentences[fact.text] == 1)


def dealt_out(sizes: Mapping[str, tuple[str, int]]) -> frozenset[str]:
    """The documents that are held out, of (file, facts) by document: whole files, or documents where files are few.

    Which ones follows from their names: they are taken in an order without favour until a quarter of the facts is held
    out.
    """
    files = {file for file, facts in sizes.values() if facts}
    unit = {id: file if len(files) >= FEWEST else id for id, (file, _) in sizes.items()}
    weights: dict[str, int] = {}
    for id, (_, facts) in sizes.items():
        weights[unit[id]] = weights.get(unit[id], 0) + facts
    total, taken, chosen = sum(weights.values()), 0, set()
    for name in sorted(weights, key=lambda one: rank("heldout", one)):
        if taken >= _HELDOUT * total:
            break
        if taken + weights[name] <= 0.4 * total:  # no file so large that hardly anything is left
            chosen.add(name)
            taken += weights[name]
    return frozenset(id for id in sizes if unit[id] in chosen)
