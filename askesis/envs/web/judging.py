"""Whether a page is as it was asked for: what the browser told of it, compared with the task's own list."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from askesis.envs.web.looking import Box, Element, Seen, View

SLACK = 2.0  # pixels
LINED_UP = 6.0  # pixels by which things in a row or a column may be off
LEAST_CONTRAST, LEAST_SIZE, LEAST_OPACITY = 3.0, 10.0, 0.9
MOST_FAULTS = 10
_PAINTED = ("heading", "link", "button", "text")
_WHOLE = ("navigation", "main", "complementary", "list")  # what holds other things


def faults(check: Mapping[str, Any], seen: Seen) -> list[str]:
    """What is wrong; empty where nothing is."""
    found = []
    if " ".join(seen.title.split()) != check["title"]:
        found.append(f"the title is {seen.title[:80]!r}")
    found += [f"an error in the console: {error[:80]}" for error in seen.errors[:1]]
    for view, relations in ((seen.wide, check["wide"]), (seen.narrow, check["narrow"])):
        found += [f"{fault}, {view.width} wide" for fault in _of_view(check, view, relations)]
    toggle = check.get("toggle")
    if toggle and not found:
        found += _toggled(check, seen, toggle)
    return found[:MOST_FAULTS]


def _of_view(check: Mapping[str, Any], view: View, relations: Sequence[Sequence[Any]]) -> list[str]:
    found = []
    if view.needs > view.width + SLACK:
        found.append(f"the page takes {view.needs:.0f} pixels")
    places: dict[str, int] = {}
    for id, wanted in check["elements"].items():
        at, fault = _matched(view, wanted)
        if fault:
            found.append(f"{_told(wanted)} {fault}")
        else:
            places[id] = at
    if found:
        return found
    boxes = {id: view.elements[at].box for id, at in places.items()}
    for name, *ids in relations:
        if name == "inside":
            right = places[ids[1]] in view.elements[places[ids[0]]].inside
        else:
            right = RELATIONS[name](*(box for id in ids if (box := boxes[id]) is not None))
        if not right:
            named = " and ".join(_told(check["elements"][id]) for id in ids)
            found.append(f"{named} are not as asked for ({name})")
    single = [id for id, wanted in check["elements"].items() if wanted["role"] not in _WHOLE]
    for one, other in itertools.combinations(single, 2):
        if _overlap(boxes[one], boxes[other]):
            found.append(f"{_told(check['elements'][one])} and {_told(check['elements'][other])} lie over each other")
    return found


def _told(wanted: Mapping[str, Any]) -> str:
    return f"{wanted['role']} {wanted['name']!r}" if wanted["name"] else str(wanted["role"])


def _matched(view: View, wanted: Mapping[str, Any]) -> tuple[int, str]:
    """The one element that is meant, and what is wrong with it."""
    role = "StaticText" if wanted["role"] == "text" else wanted["role"]
    fits = [
        at
        for at, one in enumerate(view.elements)
        if one.role == role
        and (not wanted["name"] or one.name == wanted["name"])
        and (not wanted["level"] or one.level == wanted["level"])
    ]
    if len(fits) != 1:
        return -1, "is missing" if not fits else f"is there {len(fits)} times"
    return fits[0], _unseen(view, view.elements[fits[0]], wanted)


def _unseen(view: View, one: Element, wanted: Mapping[str, Any]) -> str:
    """Why a person would not see or read an element; empty where one would."""
    box = one.box
    if box is None or box.width < 4 or box.height < 4:
        return "takes no room"
    if box.x < -SLACK or box.right > view.width + SLACK or box.y < -SLACK:
        return "is not in the window"
    if one.opacity < LEAST_OPACITY:
        return "cannot be seen"
    if not one.on_top:
        return "has something over it"
    if wanted["role"] == "textbox":
        labels = [label for label in view.elements if label.role == "StaticText" and label.name == wanted["name"]]
        return (
            ""
            if any(not _unseen(view, label, {"role": "text", "name": label.name}) for label in labels)
            else ("has no label to be read")
        )
    if wanted["role"] not in _PAINTED:
        return ""
    if wanted["name"].casefold() not in one.text.casefold():
        return "is not painted as it is named"
    return "" if one.contrast >= LEAST_CONTRAST and one.size >= LEAST_SIZE else "is hard to read"


def _toggled(check: Mapping[str, Any], seen: Seen, toggle: Mapping[str, str]) -> list[str]:
    button = check["elements"][toggle["button"]]["name"]
    wanted = {"role": "text", "name": toggle["text"], "level": 0}
    if any(one.role == "StaticText" and one.name == toggle["text"] for one in seen.wide.elements):
        return [f"the text {toggle['text']!r} is there before the button {button!r} is clicked"]
    view = seen.pressed.get(button)
    fault = "is not there" if view is None else _matched(view, wanted)[1]
    return [f"the text {toggle['text']!r} {fault} after a click on {button!r}"] if fault else []


def _above(one: Box, other: Box) -> bool:
    return one.bottom <= other.y + SLACK


def _left(one: Box, other: Box) -> bool:
    return one.right <= other.x + SLACK and one.y < other.bottom and other.y < one.bottom


def _row(*boxes: Box) -> bool:
    return all(_left(*pair) and abs(pair[0].y - pair[1].y) <= LINED_UP for pair in itertools.pairwise(boxes))


def _column(*boxes: Box) -> bool:
    return all(_above(*pair) and abs(pair[0].x - pair[1].x) <= LINED_UP for pair in itertools.pairwise(boxes))


def _overlap(one: Box | None, other: Box | None) -> bool:
    if one is None or other is None:
        return False
    across = min(one.right, other.right) - max(one.x, other.x)
    down = min(one.bottom, other.bottom) - max(one.y, other.y)
    return across > SLACK and down > SLACK


RELATIONS: Mapping[str, Callable[..., bool]] = {"above": _above, "left": _left, "row": _row, "column": _column}
