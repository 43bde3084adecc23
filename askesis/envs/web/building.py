"""Pages to be built: what is on them, how it lies at two widths, and one that is as it should be."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from html import escape
from typing import Any

from askesis.envs.web.drawing import CITIES, Drawn, company, listed, things

PAGE_HOST = "page.test"
WIDE, NARROW = 1200, 400
_PAGES = ("Home", "Products", "Prices", "News", "About", "Jobs", "Team", "Visit", "Help")
_VERBS = ("Order", "Book", "Try", "See", "Get")
_NOTES = (
    "Open every day from nine to six.",
    "Made by hand since 1952.",
    "Delivered within two days.",
    "All prices include tax.",
    "Write to us at any hour.",
    "Now in a second size.",
)
_FIELDS = ("Name", "E-mail", "City", "Phone", "Company", "Street")
_STYLE = """* { box-sizing: border-box }
body { margin: 0; padding: 16px; font: 16px/1.5 sans-serif; color: #111; background: #fff }
.row { display: flex; gap: 16px }
.row > * { flex: 1 }
label, input, button { display: block; margin: 4px 0 }
@media (max-width: 700px) { .row { flex-direction: column } .row.swap { flex-direction: column-reverse } }"""


@dataclass(slots=True)
class _Plan:
    """A page as it grows. elements, wide, narrow: what is checked; told: lines of the prompt; lines: of the body."""

    elements: dict[str, dict[str, Any]] = field(default_factory=dict)
    wide: list[list[Any]] = field(default_factory=list)
    narrow: list[list[Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    script: str = ""
    toggle: dict[str, str] | None = None

    def element(self, id: str, role: str, name: str = "", level: int = 0) -> str:
        self.elements[id] = {"role": role, "name": name, "level": level}
        return id

    def both(self, *relation: Any) -> None:
        self.wide.append(list(relation))
        self.narrow.append(list(relation))


def build(rng: random.Random, level: int) -> Drawn:
    """A page of a small company."""
    brand, plan = company(rng), _Plan()
    names = things(rng, 8)
    if level > 1:
        _navigation(rng, plan)
    heading = f"{brand} in {rng.choice(CITIES)}"
    plan.element("head", "heading", heading, 1)
    plan.lines.append(f"<h1>{escape(heading)}</h1>")
    plan.told.append(f"the heading (level 1) {heading!r}")
    if level > 1:
        plan.both("above", "nav", "head")
    notes = rng.sample(_NOTES, len(_NOTES))
    below = _note(plan, "note", notes.pop(), "head")
    if level == 1:
        below = _listing(rng, plan, names, below)
    elif level == 2:
        below = _cards(rng, plan, names, notes, below)
    else:
        below = _columns(rng, plan, names, below)
        _toggle(rng, plan, notes.pop(), below)
    if level < 3:
        action = f"{rng.choice(_VERBS)} {rng.choice(names)}"
        plan.element("action", "button", action)
        plan.lines.append(f"<button>{escape(action)}</button>")
        plan.told.append(f"the button {action!r}")
        plan.both("above", below, "action")
    title = f"{rng.choice(_PAGES)} - {brand}"
    check = {
        "kind": "page",
        "title": title,
        "elements": plan.elements,
        "wide": plan.wide,
        "narrow": plan.narrow,
        "toggle": plan.toggle,
    }
    return Drawn(
        prompt=_prompt(title, plan, level),
        content={"site": "build", "level": level},
        check=check,
        solution=[("write", "index.html", _html(title, plan)), ("open", f"http://{PAGE_HOST}/"), ("submit",)],
    )


def _navigation(rng: random.Random, plan: _Plan) -> None:
    names = rng.sample(_PAGES, rng.randint(3, 4))
    plan.element("nav", "navigation")
    ids = [plan.element(f"link{at}", "link", name) for at, name in enumerate(names)]
    links = "".join(f'<a href="#{at}">{name}</a>' for at, name in enumerate(names))
    plan.lines.append(f'<nav class="row">{links}</nav>')
    plan.told.append(
        f"a navigation with the links {listed(names)}, side by side when wide, below each other when narrow"
    )
    plan.wide.append(["row", *ids])
    plan.narrow.append(["column", *ids])
    plan.wide += [["inside", id, "nav"] for id in ids]


def _note(plan: _Plan, id: str, text: str, below: str) -> str:
    plan.element(id, "text", text)
    plan.lines.append(f"<p>{escape(text)}</p>")
    plan.told.append(f"the text {text!r}")
    plan.both("above", below, id)
    return id


def _listing(rng: random.Random, plan: _Plan, names: list[str], below: str) -> str:
    chosen = names[: rng.randint(3, 5)]
    ids = [plan.element(f"item{at}", "link", name) for at, name in enumerate(chosen)]
    items = "".join(f'<li><a href="#{at}">{escape(name)}</a></li>' for at, name in enumerate(chosen))
    plan.element("list", "list")
    plan.lines.append(f"<ul>{items}</ul>")
    plan.told.append(f"a list of the links {listed(chosen)}")
    plan.both("above", below, ids[0])
    plan.both("column", *ids)
    plan.wide += [["inside", id, "list"] for id in ids]
    return ids[-1]


def _cards(rng: random.Random, plan: _Plan, names: list[str], notes: list[str], below: str) -> str:
    chosen, heads, links = names[: rng.randint(2, 3)], [], []
    cards, said = [], []
    for at, name in enumerate(chosen):
        text, action = notes[at], f"{rng.choice(_VERBS)} the {name}"
        heads.append(plan.element(f"card{at}", "heading", name, 2))
        plan.element(f"cardtext{at}", "text", text)
        links.append(plan.element(f"cardlink{at}", "link", action))
        plan.both("above", f"card{at}", f"cardtext{at}")
        plan.both("above", f"cardtext{at}", f"cardlink{at}")
        cards.append(f'<article><h2>{escape(name)}</h2><p>{escape(text)}</p><a href="#">{escape(action)}</a></article>')
        said.append(f"{name!r} with the text {text!r} and the link {action!r}")
    plan.lines.append(f'<div class="row">{"".join(cards)}</div>')
    plan.told.append(
        f"cards, side by side when wide and below each other when narrow, each a heading (level 2) over a text over a "
        f"link: {'; '.join(said)}"
    )
    plan.wide.append(["row", *heads])
    plan.narrow.append(["column", *heads])
    plan.both("above", below, heads[0])
    return links[-1]


def _columns(rng: random.Random, plan: _Plan, names: list[str], below: str) -> str:
    """A form in the main part, and beside it an aside."""
    fields = rng.sample(_FIELDS, rng.randint(2, 4))
    send, aside = f"{rng.choice(_VERBS)} now", f"About the {names[0]}"
    plan.element("main", "main")
    plan.element("aside", "complementary")
    ids = [plan.element(f"field{at}", "textbox", name) for at, name in enumerate(fields)]
    plan.element("send", "button", send)
    plan.element("side", "heading", aside, 2)
    inputs = "".join(f"<label>{name} <input></label>" for name in fields)
    plan.lines.append(
        f'<div class="row swap"><aside><h2>{escape(aside)}</h2></aside>'
        f"<main><form>{inputs}<button>{send}</button></form></main></div>"
    )
    plan.told.append(
        f"an aside with the heading (level 2) {aside!r} on the left of the main part when wide, below it when narrow; "
        f"in the main part a form with the labelled text fields {listed(fields)}, below each other, and under them the "
        f"button {send!r}"
    )
    plan.wide.append(["left", "aside", "main"])
    plan.narrow.append(["above", "main", "aside"])
    plan.both("column", *ids)
    plan.both("above", ids[-1], "send")
    plan.both("above", below, "main")
    plan.wide += [["inside", id, "main"] for id in (*ids, "send")] + [["inside", "side", "aside"]]
    return "side"


def _toggle(rng: random.Random, plan: _Plan, text: str, below: str) -> None:
    name = f"More about {rng.choice(CITIES)}"
    plan.element("more", "button", name)
    plan.lines.append(f'<button id="more">{escape(name)}</button>')
    plan.lines.append(f'<p id="hidden" hidden>{escape(text)}</p>')
    plan.script = (
        'document.getElementById("more").addEventListener("click", () => {\n'
        '  const hidden = document.getElementById("hidden");\n  hidden.hidden = !hidden.hidden;\n});'
    )
    plan.told.append(f"the button {name!r}; a click on it shows the text {text!r}, which is not there before")
    plan.both("above", "main", "more")
    plan.wide.append(["above", "aside", "more"])
    plan.narrow.append(["above", below, "more"])
    plan.toggle = {"button": "more", "text": text}


def _prompt(title: str, plan: _Plan, level: int) -> str:
    lines = "\n".join(f"- {line}" for line in plan.told)
    return (
        f"Build the page index.html; open http://{PAGE_HOST}/ shows it. It must be right {WIDE} (wide) and {NARROW} "
        "(narrow) pixels wide, with all of it in the window's width, nothing over anything else, everything easy to "
        "read, no errors in the console, and nothing from elsewhere.\n"
        f"Title: {title!r}. From top to bottom:\n{lines}"
    )


def _html(title: str, plan: _Plan) -> str:
    body = "\n".join(plan.lines)
    script = f"\n<script>\n{plan.script}\n</script>" if plan.script else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n{body}{script}\n</body>\n</html>\n"
    )
