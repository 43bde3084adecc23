"""A table: facts to be looked up by filters, an order and pages. Nothing can be changed; what counts is the answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from askesis.envs.web.drawing import CITIES, Drawn, Step, company, hue, things
from askesis.envs.web.serving import Form, Site, number

CATEGORIES = ("Bath", "Bedroom", "Garden", "Kitchen", "Office")
COLUMNS = {"name": "Name", "category": "Category", "price": "Price", "stock": "Stock", "weight": "Weight (g)"}
EACH = 10  # rows of a page
_NUMBERS = ("price", "stock", "weight")

Item = Mapping[str, Any]


class Catalogue(Site):
    """Level 1 has all on one page; 2 has pages, a filter and columns to sort by; at 3 items have pages of their own."""

    host = "parts.test"
    links = (("Catalogue", "/"), ("About", "/about"))

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.level = int(content["level"])
        self.items: Sequence[Item] = content["items"]

    def state(self) -> Any:
        """Nothing can be changed."""
        return None

    def get(self, path: str, query: Form) -> Response:
        if path == "/":
            return self._table(query)
        if path == "/about":
            return self.page("message.html.jinja", title="About", text=f"{self.brand} lists {len(self.items)} items.")
        place = number(path.removeprefix("/item/"), 1, len(self.items)) if path.startswith("/item/") else None
        if self.level == 3 and place is not None:
            return self.page("catalogue_item.html.jinja", item=self.items[place - 1])
        return self.missing()

    def _table(self, query: Form) -> Response:
        category, sort = query.text("category"), query.text("sort")
        chosen = [(place, item) for place, item in enumerate(self.items, 1) if category in ("", item["category"])]
        column = sort.removeprefix("-")
        if column in COLUMNS:
            chosen.sort(key=lambda one: by(one[1], column), reverse=sort.startswith("-"))
        each = len(self.items) if self.level == 1 else EACH
        pages = max(1, -(-len(chosen) // each))
        page = number(query.text("page"), 1, pages) or 1
        return self.page(
            "catalogue.html.jinja",
            level=self.level,
            columns=COLUMNS,
            numbers=_NUMBERS,
            rows=chosen[(page - 1) * each : page * each],
            found=len(chosen),
            category=category if category in CATEGORIES else "",
            categories=CATEGORIES,
            sort=sort if column in COLUMNS else "",
            page=page,
            pages=pages,
        )


def by(item: Item, column: str) -> Any:
    """What a column is sorted by."""
    return float(item[column]) if column == "price" else item[column]


def catalogue(rng: random.Random, level: int) -> Drawn:
    """A question about the items of a catalogue."""
    while True:
        count = {1: rng.randint(7, 10), 2: rng.randint(30, 50), 3: rng.randint(50, 90)}[level]
        items = _items(rng, count)
        asked = (_ask_row if level == 1 else _ask_best)(rng, items, level)
        if asked is not None:
            break
    question, answer, steps = asked
    brand = company(rng)
    content = {"site": "catalogue", "level": level, "brand": brand, "hue": hue(rng), "items": items}
    return Drawn(
        prompt=f"Look it up in the catalogue at http://{Catalogue.host}/ and submit only the answer: {question}",
        content=content,
        check={"kind": "answer", "want": answer},
        solution=[("open", f"http://{Catalogue.host}/"), *steps, ("submit", answer)],
    )


def _items(rng: random.Random, count: int) -> list[dict[str, Any]]:
    prices = rng.sample(range(105, 9995), count)
    weights = rng.sample(range(50, 5000), count)
    return [
        {
            "name": name,
            "category": rng.choice(CATEGORIES),
            "price": f"{price / 100:.2f}",
            "stock": rng.choice((0, 0, *range(1, 60))),
            "weight": weight,
            "maker": company(rng),
            "made": rng.choice(CITIES),
            "warranty": f"{rng.choice((6, 12, 18, 24, 36))} months",
        }
        for name, price, weight in zip(things(rng, count), prices, weights, strict=True)
    ]


def _ask_row(rng: random.Random, items: list[dict[str, Any]], level: int) -> tuple[str, str, list[Step]] | None:
    kind = rng.choice(("value", "count", "cheapest"))
    if kind == "value":
        item, column = rng.choice(items), rng.choice(("price", "stock", "weight"))
        named = {"price": "the price", "stock": "the stock", "weight": "the weight in grams"}[column]
        return f"what is {named} of the {item['name']}?", str(item[column]), []
    category = rng.choice(CATEGORIES)
    inside = [item for item in items if item["category"] == category]
    if len(inside) < 2:
        return None
    if kind == "count":
        least = rng.randint(5, 40)
        count = sum(item["stock"] >= least for item in inside)
        if not count:
            return None
        return f"of how many items in {category} are there {least} or more in stock? Give a number.", str(count), []
    best = min(inside, key=lambda item: by(item, "price"))
    return f"which item in {category} costs least? Give its name.", best["name"], []


_BEST = {
    "price": ("cheapest", "most expensive"),
    "weight": ("lightest", "heaviest"),
}


def _ask_best(rng: random.Random, items: list[dict[str, Any]], level: int) -> tuple[str, str, list[Step]] | None:
    category, column, most = rng.choice(CATEGORIES), rng.choice(tuple(_BEST)), rng.random() < 0.5
    stocked = rng.random() < 0.7
    inside = [item for item in items if item["category"] == category]
    fit = [item for item in inside if item["stock"] or not stocked]
    if len(fit) < 4:
        return None
    ordered = sorted(inside, key=lambda item: by(item, column), reverse=most)
    best = next(item for item in ordered if item in fit)
    what = f"the {_BEST[column][most]} item in {category}{' that is in stock' if stocked else ''}"
    steps: list[Step] = [("select", 'combobox "Category"', category), ("click", 'button "Show"')]
    steps += [("click", f'link "Sort by {COLUMNS[column]}')] * (1 + most)
    steps += [("click", 'link "Next page"')] * (ordered.index(best) // EACH)
    if level == 2:
        return f"what is the name of {what}?", best["name"], steps
    detail = rng.choice(("maker", "made", "warranty"))
    asked = {"maker": f"who makes {what}?", "made": f"in which town is {what} made?"}
    said = asked.get(detail, f"how many months of warranty has {what}? Give a number.")
    answer = best[detail].removesuffix(" months")
    return said, answer, [*steps, ("click", f'link "{best["name"]}"')]
