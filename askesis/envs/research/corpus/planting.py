"""Sources that are not to be trusted, made of a corpus: what somebody says in a forum, and older versions of documents.

A corpus of documentation agrees with itself. So that there is something to weigh, every fact and link that can be asked
about is told again by a forum or a blog, mostly wrongly, and half of the documents have an older version in which some
values differ. All follows from the corpus alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from askesis.envs.research.corpus.entries import Entry, Fact, V, X, normal, plain, rank
from askesis.tools.search import Document

WEAK = ("forum", "blog")
_TOGETHER = 4  # things that one post tells of
_RIGHT = 0.2  # share of posts' claims that happen to be right: evidence they are none
_OLDER, _CHANGED = 0.5, 0.7  # share of documents with an older version; of their values that differ in it

Key = tuple[str, str]
"""What is told of: a document and the text in it that decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a source that is not to be trusted says: its words, and the value that it has."""

    document: str
    text: str
    value: str


@dataclass(slots=True)
class Planted:
    """The documents that were made, and what they claim of each fact and link."""

    documents: list[Document] = field(default_factory=list)
    claims: dict[Key, list[Claim]] = field(default_factory=dict)

    def add(self, key: Key, claim: Claim) -> None:
        """One more claim."""
        self.claims.setdefault(key, []).append(claim)


def plant(entries: Sequence[Entry]) -> Planted:
    """Make them for all that the entries say. Raises nothing: where no other value is known, nothing is claimed."""
    made = Planted()
    pools = _pools(entries)
    subjects = {entry.document.id: entry.subject for entry in entries}
    targets = _targets(entries)
    groups: dict[str, list[tuple[Key, str, str]]] = {}
    for entry in entries:
        rng = random.Random(f"planted/{entry.document.id}")
        told = groups.setdefault(entry.group, [])
        told += _of_facts(entry, pools, rng)
        told += _of_links(entry, subjects, targets, rng)
        if rng.random() < _OLDER:
            _add_older(entry, pools, rng, made)
    dates = {entry.group: entry.document.date for entry in entries}
    for group, told in groups.items():
        _add_posts(group, told, dates[group], made)
    return made


def _pools(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """The values of each pool, each once, in an order that is the same everywhere."""
    found: dict[str, dict[str, None]] = {}
    for entry in entries:
        for fact in entry.facts:
            found.setdefault(fact.pool, {})[fact.value] = None
    return {pool: list(values) for pool, values in found.items()}


def _rival(fact: Fact, pools: Mapping[str, Sequence[str]], rng: random.Random) -> str | None:
    """Another value that could stand there."""
    if fact.value in ("True", "False"):
        return str(fact.value != "True")
    values = pools[fact.pool]
    for _ in range(20):
        other = rng.choice(values)
        if plain(other) not in plain(fact.text) and plain(fact.value) not in plain(other):
            return other
    return None


def _of_facts(entry: Entry, pools: Mapping[str, Sequence[str]], rng: random.Random) -> Iterator[tuple[Key, str, str]]:
    """(of what, words, value) of what a post says of each fact."""
    for fact in entry.facts:
        rival = _rival(fact, pools, rng)
        if rival is not None:
            value = fact.value if rng.random() < _RIGHT else rival
            said = fact.claim.replace(X, entry.subject).replace(V, value)
            yield (entry.document.id, fact.text), said[:1].upper() + said[1:], value


def _targets(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What anything of a source leads to."""
    found: dict[str, dict[str, None]] = {}
    for entry in entries:
        found.setdefault(entry.document.source, {}).update((link.target, None) for link in entry.links)
    return {source: list(targets) for source, targets in found.items()}


def _of_links(
    entry: Entry, subjects: Mapping[str, str], targets: Mapping[str, Sequence[str]], rng: random.Random
) -> Iterator[tuple[Key, str, str]]:
    """(of what, words, document) of what a post says of each link."""
    for link in entry.links:
        target = rng.choice(targets[entry.document.source])
        if target in (link.target, entry.document.id):
            continue
        said = f"{link.phrase.replace(X, entry.subject)} is {subjects[target]}."
        yield (entry.document.id, link.text), said[:1].upper() + said[1:], target


def _add_posts(group: str, told: Sequence[tuple[Key, str, str]], date: str, made: Planted) -> None:
    """Posts of a few claims each, in no order."""
    ordered = sorted(told, key=lambda one: rank("post", group, *one[0], one[1]))
    for at in range(0, len(ordered), _TOGETHER):
        few = ordered[at : at + _TOGETHER]
        digest = rank("post", group, str(at))
        source = WEAK[int(digest[:4], 16) % len(WEAK)]
        id = f"{source}/{digest[:10]}"
        body = "\n\n".join(said for _, said, _ in few)
        made.documents.append(Document(id=id, body=body, title=id, source=source, date=date))
        for key, said, value in few:
            made.add(key, Claim(document=id, text=said, value=value))


def _add_older(entry: Entry, pools: Mapping[str, Sequence[str]], rng: random.Random, made: Planted) -> None:
    """An older version of a document, in which some values were others; none where nothing can differ."""
    document, body = entry.document, entry.document.body
    date = older(document.date)
    if date is None:
        return
    claims = []
    for fact in entry.facts:
        rival = _rival(fact, pools, rng)
        place = _place(body, fact)
        if rival is None or place is None or rng.random() > _CHANGED:
            continue
        changed = body[place[0] : place[1]].replace(fact.value, rival)
        body = body[: place[0]] + changed + body[place[1] :]
        claims.append(((document.id, fact.text), normal(changed), rival))
    if not claims:
        return
    id = f"{document.id}@{date}"
    made.documents.append(Document(id=id, body=body, title=document.title, source=document.source, date=date))
    for key, text, value in claims:
        made.add(key, Claim(document=id, text=text, value=value))


def _place(body: str, fact: Fact) -> tuple[int, int] | None:
    """Where the text that decides stands, if it stands there once and holds the value once."""
    found = list(re.finditer(r"\s+".join(map(re.escape, fact.text.split())), body))
    if len(found) != 1 or found[0].group().count(fact.value) != 1:
        return None
    return found[0].span()


def older(date: str) -> str | None:
    """A version before this one, which also sorts before it as text; None where there is none."""
    match = re.search(r"\d+", date)
    if match is None or int(match.group()) < 1:
        return None
    found = date[: match.start()] + str(int(match.group()) - 1) + date[match.end() :]
    return found if found < date else None
