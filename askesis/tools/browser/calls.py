"""The browser's tools: open, read, click, type, select, press, back and, where pages ask for it, dialog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from askesis.tools.browser.live import LiveBrowser, Refused, Shown
from askesis.types import Session, Tool, ToolResult, ToolSpec

KEYS = (
    *("Enter", "Escape", "Tab", "Shift+Tab", "Space", "Backspace", "Delete"),
    *("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown"),
)
_TEXT = {"type": "string"}
_REF = {"type": "string", "pattern": "^(f[0-9]+)?e[0-9]+$"}
_Do = Callable[[LiveBrowser, Mapping[str, Any]], Awaitable[Shown]]

_CALLS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], _Do]] = {
    "open": ("Open an address.", {"address": _TEXT}, ("address",), lambda b, a: b.open(str(a["address"]))),
    "read": (
        "Show the page as it is now; of a long one, another part.",
        {"part": {"type": "integer", "minimum": 1}},
        (),
        lambda b, a: b.read(int(a.get("part", 1))),
    ),
    "click": ("Click an element.", {"ref": _REF}, ("ref",), lambda b, a: b.click(str(a["ref"]))),
    "type": (
        "Fill a field; submit presses Enter.",
        {"ref": _REF, "text": _TEXT, "submit": {"type": "boolean"}},
        ("ref", "text"),
        lambda b, a: b.type(str(a["ref"]), str(a["text"]), submit=bool(a.get("submit", False))),
    ),
    "select": (
        "Choose an option of a list by its text.",
        {"ref": _REF, "option": _TEXT},
        ("ref", "option"),
        lambda b, a: b.select(str(a["ref"]), str(a["option"])),
    ),
    "press": ("Press a key.", {"key": {"enum": list(KEYS)}}, ("key",), lambda b, a: b.press(str(a["key"]))),
    "back": ("Go back to the page before.", {}, (), lambda b, a: b.back()),
    "dialog": (
        "Answer a dialog that the page has opened.",
        {"accept": {"type": "boolean"}, "text": _TEXT},
        ("accept",),
        lambda b, a: b.answer(bool(a["accept"]), str(a.get("text", ""))),
    ),
}


def browser_tools(browser: LiveBrowser) -> tuple[Tool, ...]:
    """All of them, on one episode's browser. Its `Limits.tool_s` should be three times the browser's `timeout_s`."""
    return tuple(
        _BrowserTool(
            ToolSpec(
                name=name,
                description=description,
                parameters={"type": "object", "properties": properties, "required": list(required)},
            ),
            browser,
            do,
        )
        for name, (description, properties, required, do) in _CALLS.items()
    )


@dataclass(frozen=True, slots=True)
class _BrowserTool:
    spec: ToolSpec
    browser: LiveBrowser
    do: _Do

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        try:
            shown = await self.do(self.browser, args)
        except Refused as refused:
            return ToolResult(text=str(refused), error=True)
        return ToolResult(text=shown.text, artifacts=() if shown.picture is None else (shown.picture,))
