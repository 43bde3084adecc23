"""A generated world: people, ties, traits, and documents that tell of them, some of which are wrong.

Registers are right, though an older one may have been overtaken by a later one; blogs and forums say what they like.
What is written, and who wrote it when, is all that an agent can go by: names mean nothing outside of one world.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from askesis.tools.search import Document

PEOPLE = (
    "ada bob cal dot eva fay gus hal ida jon kay leo mia ned oda pam ray sue ted una vic wes xia yan zoe abe bea cid "
    "don eli flo gil"
).split()
TIES = "boss friend rival tutor".split()
TRAITS = {
    "home": "rome oslo lima bern cork nice riga kiel pisa graz york bath".split(),
    "pet": "crow hare lynx mole newt pony toad wolf seal goat duck frog".split(),
    "trade": "baker cook clerk diver guard judge miner nurse pilot smith tailor vet".split(),
}
REGISTER, WEAK = "register", ("blog", "forum")
LEVELS = (1, 2, 3)
_IDS = [f"d{number}" for number in range(10, 50)]
_YEARS = [str(year) for year in range(2015, 2023)]
_PEOPLE, _REGISTERS, _SENTENCES = 5, 5, 3  # of a world; of a world; of a blog or forum

Fact = tuple[str, str]
"""Whose, and what: `("ada", "boss")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One link of a question: what to look for, the sentence that decides it, and the document that has it."""

    query: str
    sentence: str
    document: str


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Documents, a question over them, and how it is answered. weak: (document, sentence) of sources not to trust."""

    documents: Sequence[Document]
    question: str
    answer: str
    hops: Sequence[Hop]
    weak: Sequence[tuple[str, str]]


def phrase(fact: Fact) -> str:
    """What is looked for: `ada's boss`."""
    return f"{fact[0]}'s {fact[1]}"


def sentence(fact: Fact, value: str) -> str:
    """How every document puts it."""
    return f"{phrase(fact)} is {value}."


def draw(rng: random.Random, level: int) -> World:
    """A world of a level: so many links from the question to the answer, and what makes them harder to tell.

    Level 1: one weak source contradicts. Level 2: one does, for each link. Level 3: one or two do, and half of the
    links were otherwise once, as an older register says.
    """
    people = rng.sample(PEOPLE, _PEOPLE)
    asked = [*rng.sample(TIES, level - 1), rng.choice(list(TRAITS))]
    beside = rng.choice([one for one in (*TIES, *TRAITS) if one not in asked])  # nobody asks for it
    true = {fact: value for relation in (*asked, beside) for fact, value in _facts(rng, people, relation).items()}
    chain = [(people[0], asked[0])]
    for relation in asked[1:]:
        chain.append((true[chain[-1]], relation))
    library = _Library(rng)
    for fact, value in true.items():
        rivals = [other for other in _values(people, fact[1]) if other not in (value, fact[0])]
        overtaken = level == 3 and rng.random() < 0.5
        library.record(fact, value, rng.choice(rivals) if overtaken else None)
        for number in range(rng.randint(int(fact in chain), 2 if level == 3 else 1)):
            right = number > 0 and rng.random() < 0.25  # a weak source may be right, and is no evidence all the same
            library.claim(fact, value if right else rng.choice(rivals))
    return World(
        documents=library.documents(),
        question="What is " + "'s ".join((people[0], *asked)) + "?",
        answer=true[chain[-1]],
        hops=[
            Hop(query=phrase(fact), sentence=sentence(fact, true[fact]), document=library.right[fact]) for fact in chain
        ],
        weak=sorted(one for fact in chain for one in library.wrong.get(fact, ())),
    )


def _values(people: Sequence[str], relation: str) -> Sequence[str]:
    """What a sentence of that relation may say."""
    return TRAITS.get(relation, people)


def _facts(rng: random.Random, people: Sequence[str], relation: str) -> dict[Fact, str]:
    """What is so: a value for everybody, of a trait no two the same, of a tie nobody himself."""
    if relation in TRAITS:
        drawn = rng.sample(TRAITS[relation], len(people))
        return {(one, relation): value for one, value in zip(people, drawn, strict=True)}
    return {(one, relation): rng.choice([other for other in people if other != one]) for one in people}


@dataclass(slots=True)
class _Library:
    """Documents on their way. right: which one decides a fact; wrong: what is said of it that decides nothing."""

    rng: random.Random
    right: dict[Fact, str] = field(default_factory=dict)
    wrong: dict[Fact, list[tuple[str, str]]] = field(default_factory=dict)
    _ids: list[str] = field(init=False)
    _registers: list[tuple[str, str]] = field(init=False)  # id and year, the oldest first
    _others: list[tuple[str, str, str]] = field(default_factory=list)  # id, source and year
    _texts: dict[str, list[tuple[Fact, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ids = self.rng.sample(_IDS, len(_IDS))
        years = sorted(self.rng.sample(_YEARS, _REGISTERS))
        self._registers = [(self._ids.pop(), year) for year in years]

    def record(self, fact: Fact, value: str, before: str | None) -> None:
        """Enter a fact in a register. before: what an older register has in its place."""
        if before is None:
            document, _ = self.rng.choice(self._registers)
        else:
            (old, _), (document, _) = sorted(self.rng.sample(self._registers, 2), key=lambda one: one[1])
            self._write(old, fact, before)
        self.right[fact] = document
        self._write(document, fact, value)

    def claim(self, fact: Fact, value: str) -> None:
        """Have a blog or a forum say it: one that has room and has said nothing of it."""
        room = [
            id
            for id, *_ in self._others
            if len(self._texts[id]) < _SENTENCES and fact not in [said for said, _ in self._texts[id]]
        ]
        if not room:
            self._others.append((self._ids.pop(), self.rng.choice(WEAK), self.rng.choice(_YEARS)))
            room = [self._others[-1][0]]
        self._write(self.rng.choice(room), fact, value)

    def _write(self, document: str, fact: Fact, value: str) -> None:
        self._texts.setdefault(document, []).append((fact, sentence(fact, value)))
        if self.right.get(fact) != document:
            self.wrong.setdefault(fact, []).append((document, sentence(fact, value)))

    def documents(self) -> list[Document]:
        """All of them, in no order."""
        made = []
        for id, source, year in [(id, REGISTER, year) for id, year in self._registers] + self._others:
            texts = [text for _, text in self._texts.get(id, ())]
            if texts:
                body = "\n\n".join(self.rng.sample(texts, len(texts)))
                made.append(Document(id=id, body=body, source=source, date=year))
        self.rng.shuffle(made)
        return made
