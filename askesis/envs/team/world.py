"""A generated world: ships, and three offices whose cards tell of them. Of cards that disagree the latest is right.

No office has it all, and which one keeps what is drawn anew for each task. Names mean nothing outside of one world.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OFFICES = ("north", "south", "east")
SHIPS = (
    "alba argo bora cedar dawn echo falk flint gala hera iris juno lark luna mira nova opal orion perla quest rhea "
    "saga swan tara ursa vega vesta wren zora brio dora ella"
).split()
TIES = "escort relief tender sister".split()
TRAITS = {
    "port": "brest cadiz dover genoa kiel lagos malmo nantes oran porto riga split".split(),
    "cargo": "coal corn hemp iron jute lime oats rice salt silk tea wool".split(),
    "flag": "black blue brown gold green grey pink red teal violet white yellow".split(),
}
LEVELS = (1, 2, 3)
THAT = "that one"  # in a question: the ship that the part before it gives
_DAYS = range(10, 100)
_MOST_CARDS = 3  # of an office, on one relation of one ship

Fact = tuple[str, str]
"""Which ship, and what of it: `("juno", "port")`."""
Place = tuple[str, int]
"""A card: whose, and which of that office's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What an office wrote down on a day. Shown as `day 41: juno's port is riga.`"""

    ship: str
    relation: str
    value: str
    day: int

    @property
    def text(self) -> str:
        """As an office's own agent reads it."""
        return f"day {self.day}: {self.ship}'s {self.relation} is {self.value}."


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Cards, and a question over them.

    keeps: relations of each office. cards: of each office, in no order. asked: parts of the question, a ship (or
    `THAT`) and a relation each; values: what they come to. decides: the card that decides each part; contested: for
    each part that several offices keep and whose own latest cards disagree, these cards.
    """

    keeps: Mapping[str, Sequence[str]]
    cards: Mapping[str, Sequence[Card]]
    asked: Sequence[Fact]
    values: Sequence[str]
    decides: Sequence[Place]
    contested: Sequence[Sequence[Place]]

    @property
    def question(self) -> str:
        """All that an orchestrator is told."""
        kept = "; ".join(f"{office}: {', '.join(relations)}" for office, relations in self.keeps.items())
        parts = "; ".join(f"{ship}'s {relation}" for ship, relation in self.asked)
        return f"Offices keep cards on ships. {kept}.\nThe latest card is right. Answer in order, with commas: {parts}."


def draw(rng: random.Random, level: int, ships: int) -> World:
    """A world of a level.

    Level 1: two parts that have nothing to do with each other, each kept by an office of its own. Level 2: the second
    part is about the ship that the first one gives, and is another office's. Level 3: three parts in a row and one
    beside them; those in the row are kept by two offices each, which may contradict each other.
    """
    names = rng.sample(SHIPS, ships)
    ties, traits = rng.sample(TIES, len(TIES)), rng.sample(sorted(TRAITS), len(TRAITS))
    first, second = names[0], names[1]
    if level == 1:
        kept = [[traits[0], ties[0]], [traits[1], ties[1]], [traits[2]]]
        asked = [(first, traits[0]), (second, traits[1])]
    elif level == 2:
        kept = [[ties[0], traits[1]], [traits[0], ties[1]], [traits[2]]]
        asked = [(first, ties[0]), (THAT, traits[0])]
    else:
        kept = [[ties[0], traits[0]], [ties[0], ties[1]], [ties[1], traits[0], traits[1]]]
        asked = [(first, ties[0]), (THAT, ties[1]), (THAT, traits[0]), (second, traits[1])]
    offices = rng.sample(OFFICES, len(OFFICES))
    keeps = {office: sorted(kept[offices.index(office)]) for office in OFFICES}
    cards = _cards(rng, names, keeps)
    return _asked(keeps, cards, asked)


def _cards(rng: random.Random, names: Sequence[str], keeps: Mapping[str, Sequence[str]]) -> dict[str, list[Card]]:
    """One to three cards of each office on all that it keeps; no two on the same thing are of one day."""
    found: dict[str, list[Card]] = {office: [] for office in keeps}
    for relation in sorted({one for kept in keeps.values() for one in kept}):
        keepers = [office for office, kept in keeps.items() if relation in kept]
        for ship in names:
            values = TRAITS.get(relation) or [other for other in names if other != ship]
            days = rng.sample(_DAYS, _MOST_CARDS * len(keepers))
            for office in keepers:
                for _ in range(rng.randint(1, _MOST_CARDS)):
                    card = Card(ship=ship, relation=relation, value=rng.choice(values), day=days.pop())
                    found[office].append(card)
    for cards in found.values():
        rng.shuffle(cards)
    return found


def _asked(keeps: Mapping[str, Sequence[str]], cards: Mapping[str, Sequence[Card]], asked: Sequence[Fact]) -> World:
    """The world with what its question comes to."""
    values: list[str] = []
    decides: list[Place] = []
    contested: list[list[Place]] = []
    for ship, relation in asked:
        fact = (values[-1] if ship == THAT else ship, relation)
        latest = [_latest(office, cards[office], fact) for office, kept in keeps.items() if relation in kept]
        place = max(latest, key=lambda one: cards[one[0]][one[1]].day)
        values.append(cards[place[0]][place[1]].value)
        decides.append(place)
        if len({cards[office][number].value for office, number in latest}) > 1:
            contested.append(latest)
    return World(keeps=keeps, cards=cards, asked=asked, values=values, decides=decides, contested=contested)


def _latest(office: str, cards: Sequence[Card], fact: Fact) -> Place:
    own = [number for number, card in enumerate(cards) if (card.ship, card.relation) == fact]
    return office, max(own, key=lambda number: cards[number].day)
