"""What a task is made of, and the names and words that tasks are drawn from."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Step = Sequence[str]
"""What the oracle does: `("open", address)`, `("click", element)`, `("type", element, text)`, `("select", element,
option)`, `("dialog", "yes")`, `("write", path, content)`, `("submit",)`, `("submit", answer)`. An element is told by
its line of the page: `button "Save"`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A task. content: of its site; check: what is wanted; solution: how the oracle does it."""

    prompt: str
    content: Mapping[str, Any]
    check: Mapping[str, Any]
    solution: Sequence[Step]


Template = Callable[[random.Random, int], Drawn]

FIRST = (
    "Ada Ben Cleo Dan Eva Finn Gita Hugo Iris Jon Kira Leo Mina Nils Olga Paul Quin Rosa Sam Tara Uma Viktor Wanda Yan "
    "Zoe"
).split()
LAST = (
    "Abel Berg Cole Dorn Eklund Fuchs Grant Holm Ivers Jansen Kent Lund Moreau Novak Olsen Prior Quist Reyes Stone "
    "Tamm Unger Vogt Weber Yilmaz Zander"
).split()
STREETS = (
    "Mill Lane|Harbour Road|Oak Street|Church Hill|Station Road|Park Row|River Walk|Castle Street|Elm Grove".split("|")
)
CITIES = "Ashford Brookton Carlow Dunmore Eastby Farley Glenn Hilltop Ivybridge Kenton Langley Marlow".split()
COLOURS = "red blue green black white grey yellow".split()
THINGS = (
    "lamp mug kettle blanket basket clock stool mirror vase tray shelf cushion rug bowl jug candle frame bottle brush "
    "board"
).split()
MATERIALS = "oak steel wool glass linen bamboo copper cotton ceramic cork".split()
COMPANIES = "Alder|Birch|Cedar|Dune|Ember|Fjord|Grove|Haven|Isle|Juniper|Kelp|Larch|Meadow|North".split("|")
TRADES = "Supplies|Works|Trading|Goods|Partners|House".split("|")
MONTHS = ("January February March April May June July August September October November December").split()


def person(rng: random.Random) -> str:
    """A first and a last name."""
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def email(rng: random.Random, name: str) -> str:
    """An address that goes with a name."""
    return f"{name.lower().replace(' ', '.')}@{rng.choice(('post', 'mail', 'letter'))}.test"


def company(rng: random.Random) -> str:
    """A company's name."""
    return f"{rng.choice(COMPANIES)} {rng.choice(TRADES)}"


def things(rng: random.Random, count: int) -> list[str]:
    """So many names of products, all different."""
    every = [f"{material} {thing}" for material in MATERIALS for thing in THINGS]
    return rng.sample(every, count)


def hue(rng: random.Random) -> int:
    """A site's colour."""
    return rng.randrange(0, 360, 15)


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
