"""What a browser makes of a page that somebody else wrote: told by the browser itself, and by nothing in the page.

Roles and names are those of the browser's accessibility tree, places and colours those of its layout, what lies on top
is what its hit test says: all of it comes over the browser's own protocol, and no script runs in the page for it. While
it is looked at, the page's scripts stand still; if it changes all the same, that is a fault of the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from askesis.envs.web.building import NARROW, PAGE_HOST, WIDE
from askesis.envs.web.files import Files
from askesis.tools.browser import BrowserPool
from askesis.tools.browser.pool import Profile
from askesis.types import Snapshot, ToolError

if TYPE_CHECKING:
    from playwright.async_api import CDPSession, Page

HEIGHT = 2400  # of the window, so that the whole of a page that is asked for is in it
MOST_NODES = 4_000
MOST_ERRORS = 20
_LOAD_S, _CALL_S, _LOOK_S = 10.0, 10.0, 25.0
_AROUND_S = 100.0  # for a browser to start, and to close what it holds
LONGEST_S = 3 * (_LOOK_S + _AROUND_S)  # the page shared, the page alone, and a page of ours
_OURS = b"<!doctype html><title>ours</title><h1>ours</h1>"
_REST_S, _WATCHED_S = 0.3, 0.15  # what a page does by itself when it has come; after that it has to be still
_CHANGES = ("childNodeInserted", "childNodeRemoved", "attributeModified", "attributeRemoved", "characterDataModified")
_STYLES = ("opacity", "visibility", "color", "font-size")
_IGNORED = ("none", "generic", "InlineTextBox", "LineBreak", "RootWebArea")


@dataclass(frozen=True, slots=True)
class Box:
    """A place in CSS pixels from the top left of the page."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A node of the accessibility tree. text: what is painted of it and in it; box: None where it has no place.

    on_top: whether the middle of it shows it, and not something else. opacity: of it and what it is in. contrast: of
    its least readable text to what is behind it (21 at most); size: of its smallest letters, in pixels. inside: the
    numbers of the elements that it is in.
    """

    role: str
    name: str
    level: int
    text: str
    box: Box | None
    on_top: bool
    opacity: float
    contrast: float
    size: float
    inside: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A page at one width. needs: pixels that it would take to show all of it without scrolling sideways."""

    width: int
    needs: float
    elements: Sequence[Element]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A page at two widths. pressed: the wide one after each button of it was clicked, by the button's name."""

    title: str
    errors: Sequence[str]
    wide: View
    narrow: View
    pressed: Mapping[str, View] = field(default_factory=dict)


class Unfit(Exception):
    """A page that cannot be looked at; the message says why. slow: it may have been the machine's doing."""

    def __init__(self, why: str, *, slow: bool = False) -> None:
        super().__init__(why)
        self.slow = slow


async def look(pool: BrowserPool, snapshot: Snapshot, *, press: str = "") -> Seen | str:
    """Open a tree's index.html in a fresh profile; or why that cannot be done, which is the page's fault.

    press: the name of a button to be clicked. A page with which a shared browser dies or is at a loss is looked at once
    more in one of its own. What goes wrong there is the page's doing if a page of ours is seen in the same way; raises
    `ToolError` where it is not, for then it is the machine's.
    """

    async def read(path: str) -> bytes:
        return snapshot.read(path)

    for alone in (False, True):
        found = await _looked(pool, read, press, alone=alone)
        if not isinstance(found, Unfit):
            return found
        if not found.slow:
            return str(found)
    ours = await _looked(pool, _read_ours, "", alone=True)
    if isinstance(ours, Unfit):
        raise ToolError(f"the browser shows no page in time: {ours}")
    return str(found)


async def _looked(pool: BrowserPool, read: Any, press: str, *, alone: bool) -> Seen | Unfit:
    """The page, or why it could not be looked at."""
    async with pool.profile({PAGE_HOST: Files(read)}, alone=alone) as profile:
        try:
            return await asyncio.wait_for(_seen(profile, press), _LOOK_S)
        except Unfit as unfit:
            return unfit
        except Exception as error:
            if not _browsers(error):
                raise
            return Unfit(f"the page brought the browser down ({type(error).__name__})", slow=True)


async def _read_ours(path: str) -> bytes:
    if path != "index.html":
        raise FileNotFoundError(path)
    return _OURS


def _browsers(error: Exception) -> bool:
    """Whether it came from the browser."""
    from playwright.async_api import Error

    return isinstance(error, Error | TimeoutError | ToolError)


async def _seen(profile: Profile, press: str) -> Seen:
    errors: list[str] = []
    title, wide, pressed = await _at(profile, WIDE, errors, press)
    _, narrow, _ = await _at(profile, NARROW, errors, "")
    return Seen(title=title, errors=errors, wide=wide, narrow=narrow, pressed=pressed)


async def _at(profile: Profile, width: int, errors: list[str], press: str) -> tuple[str, View, dict[str, View]]:
    """The page at one width, loaded anew."""
    from playwright.async_api import Error

    page = await profile.context.new_page()
    opened: list[Page] = []

    def note(window: Page) -> None:
        opened.append(window)

    profile.context.on("page", note)
    try:
        await page.set_viewport_size({"width": width, "height": HEIGHT})
        session = await profile.context.new_cdp_session(page)
        await _listen(session, errors)
        try:
            await page.goto(f"http://{PAGE_HOST}/", wait_until="load", timeout=1000 * _LOAD_S)
        except Error as error:
            slow = "Timeout" in str(error)
            what = "it takes too long" if slow else str(error).partition("\n")[0][:200]
            raise Unfit(f"the page did not open: {what}", slow=slow or not profile.alive) from error
        await asyncio.sleep(_REST_S)
        await _demand_rest(session)
        title, view = await _still(session, width)
        pressed: dict[str, View] = {}
        button = next((one for one in view.elements if one.role == "button" and one.name == press), None)
        if press and button is not None and button.box is not None:
            x, y = button.box.x + button.box.width / 2, button.box.y + button.box.height / 2
            for kind in ("mousePressed", "mouseReleased"):
                await _ask(session, "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
            await asyncio.sleep(_REST_S)
            pressed[press] = (await _still(session, width))[1]
        if opened and any(one is not page for one in opened):
            raise Unfit("the page opens windows")
        return title, view, pressed
    finally:
        profile.context.remove_listener("page", note)
        await asyncio.wait_for(asyncio.gather(*(one.close() for one in {page, *opened})), _CALL_S)


async def _demand_rest(session: CDPSession) -> None:
    """Raises `Unfit` for a page that goes on changing: what was seen of it would be a matter of the moment."""
    changed: list[Any] = []

    def note(event: Any) -> None:
        changed.append(event)

    for event in _CHANGES:
        session.on(f"DOM.{event}", note)
    await _ask(session, "DOM.getDocument", depth=-1, pierce=True)
    changed.clear()
    await asyncio.sleep(_WATCHED_S)
    await _ask(session, "DOM.getDocument", depth=0)
    if changed:
        raise Unfit("the page does not stand still")


async def _listen(session: CDPSession, errors: list[str]) -> None:
    """Write errors down as the browser tells of them."""

    def note(text: str) -> None:
        if len(errors) < MOST_ERRORS:
            errors.append(text[:200])

    def called(event: Mapping[str, Any]) -> None:
        if event.get("type") in ("error", "assert"):
            note(" ".join(str(one.get("value", one.get("description", ""))) for one in event.get("args", ())))

    def entered(event: Mapping[str, Any]) -> None:
        if event.get("entry", {}).get("level") == "error":
            note(str(event["entry"].get("text", "")))

    session.on("Runtime.consoleAPICalled", called)
    session.on("Log.entryAdded", entered)
    session.on("Runtime.exceptionThrown", lambda event: note(_thrown(event)))
    for domain in ("Runtime", "Log", "DOM", "Accessibility"):
        await _ask(session, f"{domain}.enable")


def _thrown(event: Mapping[str, Any]) -> str:
    details = event.get("exceptionDetails", {})
    return str(details.get("exception", {}).get("description", details.get("text", "an exception")))


async def _ask(session: CDPSession, method: str, **arguments: Any) -> Any:
    try:
        return await asyncio.wait_for(session.send(method, arguments or None), _CALL_S)
    except TimeoutError as error:
        raise Unfit("the page is busy and cannot be looked at", slow=True) from error


async def _still(session: CDPSession, width: int) -> tuple[str, View]:
    """The page with its scripts stopped: its title, and what there is of it."""
    await _ask(session, "Emulation.setScriptExecutionDisabled", value=True)
    try:
        told = await _ask(session, "Accessibility.getFullAXTree")
        document, strings, view = await _view(session, width, told["nodes"])
        again = await _ask(session, "Accessibility.getFullAXTree")
        if _outline(told["nodes"]) != _outline(again["nodes"]):
            raise Unfit("the page does not stand still")
        address = strings[document["documentURL"]].partition("#")[0]
        if address not in (f"http://{PAGE_HOST}/", f"http://{PAGE_HOST}/index.html"):
            raise Unfit(f"the page went elsewhere: {address[:100]}")
        return strings[document["title"]] if document.get("title", -1) >= 0 else "", view
    finally:
        await _ask(session, "Emulation.setScriptExecutionDisabled", value=False)


def _outline(nodes: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [(_value(node, "role"), _value(node, "name"), node.get("parentId")) for node in nodes]


def _value(node: Mapping[str, Any], key: str) -> Any:
    return node.get(key, {}).get("value", "")


async def _view(
    session: CDPSession, width: int, nodes: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], Sequence[str], View]:
    snapshot = await _ask(
        session,
        "DOMSnapshot.captureSnapshot",
        computedStyles=list(_STYLES),
        includeBlendedBackgroundColors=True,
    )
    document, strings = snapshot["documents"][0], snapshot["strings"]
    if len(nodes) > MOST_NODES or len(document["nodes"]["backendNodeId"]) > MOST_NODES:
        raise Unfit(f"the page has more than {MOST_NODES} nodes")
    layout = _Layout(document, strings)
    metrics = await _ask(session, "Page.getLayoutMetrics")
    by_id = {node["nodeId"]: node for node in nodes}
    kept = [node for node in nodes if not node.get("ignored") and _value(node, "role") not in _IGNORED]
    numbers = {node["nodeId"]: at for at, node in enumerate(kept)}
    elements = [await _element(session, node, layout, width, frozenset(_above(node, by_id, numbers))) for node in kept]
    return document, strings, View(width=width, needs=float(metrics["cssContentSize"]["width"]), elements=elements)


def _above(node: Mapping[str, Any], by_id: Mapping[str, Any], numbers: Mapping[str, int]) -> list[int]:
    found = []
    at = by_id.get(node.get("parentId", ""))
    while at is not None:
        if at["nodeId"] in numbers:
            found.append(numbers[at["nodeId"]])
        at = by_id.get(at.get("parentId", ""))
    return found


async def _element(
    session: CDPSession, node: Mapping[str, Any], layout: _Layout, width: int, inside: frozenset[int]
) -> Element:
    dom = int(node.get("backendDOMNodeId", 0))
    box, painted = layout.box(dom), layout.painted(dom)
    on_top = False
    if box is not None and 0 <= box.x + box.width / 2 < width and 0 <= box.y + box.height / 2 < HEIGHT:
        on_top = layout.shows(dom, await _hit(session, box))
    level = next((one["value"]["value"] for one in node.get("properties", ()) if one["name"] == "level"), 0)
    return Element(
        role=str(_value(node, "role")),
        name=" ".join(str(_value(node, "name")).split()),
        level=int(level),
        text=painted.text,
        box=box,
        on_top=on_top,
        opacity=layout.opacity(dom),
        contrast=painted.contrast,
        size=painted.size,
        inside=inside,
    )


async def _hit(session: CDPSession, box: Box) -> int:
    """The DOM node that is seen in the middle of a box."""
    from playwright.async_api import Error

    x, y = round(box.x + box.width / 2), round(box.y + box.height / 2)
    try:
        return int((await _ask(session, "DOM.getNodeForLocation", x=x, y=y))["backendNodeId"])
    except Error:  # nothing there
        return 0


@dataclass(frozen=True, slots=True)
class _Painted:
    text: str
    contrast: float
    size: float


class _Layout:
    """The places and styles of a snapshot, by the browser's own number of a DOM node."""

    def __init__(self, document: Mapping[str, Any], strings: Sequence[str]) -> None:
        nodes, layout = document["nodes"], document["layout"]
        ids = nodes["backendNodeId"]
        self._parent = {
            id: ids[above] if above >= 0 else 0 for id, above in zip(ids, nodes["parentIndex"], strict=True)
        }
        self._children: dict[int, list[int]] = {}
        for id in ids:
            self._children.setdefault(self._parent[id], []).append(id)
        blended = layout.get("blendedBackgroundColors", [-1] * len(layout["nodeIndex"]))
        self._boxes: dict[int, Box] = {}
        self._texts: dict[int, str] = {}
        self._styles: dict[int, dict[str, str]] = {}
        for at, index in enumerate(layout["nodeIndex"]):
            id, bounds, text = ids[index], layout["bounds"][at], layout["text"][at]
            self._boxes.setdefault(id, Box(*bounds))
            styles = [strings[one] if one >= 0 else "" for one in layout["styles"][at]]
            self._styles.setdefault(id, dict(zip(_STYLES, styles, strict=False)))
            if text >= 0:
                self._texts[id] = strings[text]
                behind = strings[blended[at]] if blended[at] >= 0 else "rgb(255, 255, 255)"
                self._styles[id] = self._style_of_text(id) | {"behind": behind}

    def _style_of_text(self, id: int) -> dict[str, str]:
        own = self._styles.get(id, {})
        return own if own.get("color") else self._styles.get(self._parent.get(id, 0), {})

    def box(self, id: int) -> Box | None:
        """Where a node is."""
        return self._boxes.get(id)

    def shows(self, id: int, seen: int) -> bool:
        """Whether what is seen at a place is a node, or in it; of a text the browser only names what it is in."""
        if id in self._texts:
            return seen in (id, self._parent.get(id))
        while seen and seen != id:
            seen = self._parent.get(seen, 0)
        return seen == id

    def opacity(self, id: int) -> float:
        """Of a node with all that it is in; 0 where it is hidden."""
        product = 1.0
        while id:
            style = self._styles.get(id, {})
            if style.get("visibility") in ("hidden", "collapse"):
                return 0.0
            product *= float(style.get("opacity") or 1.0)
            id = self._parent.get(id, 0)
        return product

    def painted(self, id: int) -> _Painted:
        """The text in a node as it is painted, with its least contrast and size."""
        pieces: list[str] = []
        contrast, size = 21.0, 1_000.0
        for one in self._below(id):
            text = self._texts.get(one, "")
            box, style = self._boxes.get(one), self._styles.get(one, {})
            if not text.strip() or box is None or box.width <= 0 or box.height <= 0:
                continue
            pieces.append(text)
            contrast = min(contrast, _contrast(style.get("color", ""), style.get("behind", "")))
            size = min(size, float(style.get("font-size", "0").removesuffix("px") or 0))
        return _Painted(" ".join(" ".join(pieces).split()), contrast, size)

    def _below(self, id: int) -> list[int]:
        found, waiting = [], [id]
        while waiting:
            one = waiting.pop()
            found.append(one)
            waiting += reversed(self._children.get(one, []))
        return found


def _contrast(one: str, other: str) -> float:
    """The ratio of two colours' luminances (WCAG 2): from 1, which nobody can read, to 21."""
    lights = sorted((_luminance(one), _luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue, alpha = _colour(colour)
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (alpha * one + (1 - alpha) for one in (red, green, blue))  # a clear one counts as on white
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _colour(text: str) -> tuple[float, float, float, float]:
    if text.startswith("#"):
        digits = text[1:].ljust(8, "f")
        red, green, blue, alpha = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4, 6))
        return red, green, blue, alpha
    numbers = [float(one) for one in text[text.find("(") + 1 :].rstrip(")").replace("/", ",").split(",") if one.strip()]
    if len(numbers) < 3:
        return 1.0, 1.0, 1.0, 1.0
    return numbers[0] / 255, numbers[1] / 255, numbers[2] / 255, numbers[3] if len(numbers) > 3 else 1.0
