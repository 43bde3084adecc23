"""Figures as a reader wants them: a few digits, a real minus, a dash for what is not there."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["share", "count", "number", "seconds"]
"""How a figure is written: `share` as per cent; `count` and `seconds` begin at zero on an axis, `number` need not."""

NOTHING = "–"
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_DIRECTIONS = {code: f"[U+{code:04X}]" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_SHOWN: dict[int, int | str] = {**_CONTROLS, **_DIRECTIONS}


def written(value: float, kind: Kind = "number") -> str:
    """A figure in three digits or so: `61.3%`, `1,204`, `0.0123`, `3.1e-6`; nan is a dash."""
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else "∞" if value > 0 else "−∞"
    if kind == "share":
        return _minus(f"{100 * value:.1f}%")
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000 or (kind == "count" and value == int(value)):
        return _minus(f"{value:,.0f}")
    if size < 1e-3:
        return _minus(f"{value:.1e}".replace("e-0", "e-"))
    return _minus(f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}")


def points(change: float) -> str:
    """A change of a share in percentage points, with its sign: `+12.3`."""
    if not math.isfinite(change):
        return NOTHING
    rounded = round(100 * change, 1)
    return _minus(f"{rounded:+.1f}") if rounded else "0.0"


def _minus(text: str) -> str:
    return "−" + text[1:] if text.startswith("-") else text


def visible(text: str) -> str:
    """Text with its control characters, and those that turn the direction of writing, made visible."""
    return text.replace("\r\n", "\n").translate(_SHOWN)


def mode_name(mode: str) -> str:
    """A thinking mode in words: `thinking`, `no thinking`, `thinking up to 64 tokens`, `... 90 an episode`."""
    if mode.startswith("think:"):
        turn, _, whole = mode.removeprefix("think:").partition("/")
        bounds = [f"{turn} tokens" if turn else "", f"{whole} an episode" if whole else ""]
        return f"thinking up to {', '.join(filter(None, bounds))}"
    return {"think": "thinking", "no_think": "no thinking"}.get(mode, mode)
