"""What docs/twins.md shows of `bench twins`: tables, and a picture in SVG beside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.training import percent
from bench.twins_variants import ARMS, PAIRS, VARIANTS

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "twins.svg"
_WIDE, _HIGH, _LEFT, _TOP, _GAP = 200, 110, 118, 44, 44
_PAID, _TRUE, _INK, _GRID = "#c2410c", "#1d4ed8", "#6b7280", "#9ca3af55"
_ARM_NAMES = {"alarm": "only an alarm", "quarantine": "quarantine", "fixed": "mended"}


def table(kept: Mapping[str, Any]) -> str:
    """The pairs: what is paid and what is true, first and last, by arm."""
    found = kept["peers"]
    lines = ["| | " + " | ".join(_ARM_NAMES.values()) + " |", "|---|---|---|---|"]
    for name, variant in PAIRS.items():
        have = [found.get(f"{name}: {arm}") for arm in ARMS]
        if not any(have):
            continue
        seeds = max(int(one["seeds"]) for one in have if one)
        lines.append(f"| **{name}**: {variant.about} (seeds: {seeds}) | | | |")
        for label, key in {"paid": "paid", "true": "true", "paid, not true": "exploit"}.items():
            cells = [
                f"{percent(one[f'{key}_first'])} to {_spread(kept, name, arm, key)}" if one else ""
                for arm, one in zip(ARMS, have, strict=True)
            ]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("| onset, step | " + " | ".join(_onset(kept, name, arm) for arm in ARMS) + " |")
    return "\n".join([*lines, "", f"{kept['notes'][0]} ({kept['date']}, `{kept['command']}`)."])


def _spread(kept: Mapping[str, Any], name: str, arm: str, key: str) -> str:
    """The mean of the last steps and, over several seeds, the least and the most."""
    one = kept["peers"][f"{name}: {arm}"]
    least, most = kept["spread"][f"{name}: {arm}"][f"{key}_last"]
    beside = f" ({percent(least)} to {percent(most)})" if one["seeds"] > 1 else ""
    return percent(one[f"{key}_last"]) + beside


def _onset(kept: Mapping[str, Any], name: str, arm: str) -> str:
    if f"{name}: {arm}" not in kept["peers"]:
        return ""
    never = len(kept["spread"][f"steps of {name}: {arm}"]["paid"]) + 1
    values = sorted({*kept["spread"][f"{name}: {arm}"]["onset_step"]})
    return " to ".join("never" if value >= never else f"{value:.0f}" for value in values)


def variants(kept: Mapping[str, Any]) -> str:
    """All variants: what was predicted, and what came, the greatest prediction first."""
    found = kept["peers"]
    rows = {name: found[f"{name}: before"] for name in VARIANTS if f"{name}: before" in found}
    lines = [
        "| variant | the hole | predicted | exploited by the checkpoint | exploited at the end | onset, step "
        "| true, first to last |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, before in sorted(rows.items(), key=lambda row: -row[1]["predicted"]):
        after = found.get(f"{name}: alarm")
        came = ["", "", ""]
        if after:
            true = f"{percent(after['true_first'])} to {percent(after['true_last'])}"
            came = [percent(after["exploit_last"]), _onset(kept, name, "alarm"), true]
        then = f" ({before['predicted_then']:.2f})" if "predicted_then" in before else ""
        cells = [
            name,
            VARIANTS[name].about,
            f"{before['predicted']:.2f}{then}",
            f"{before['first_exploit']:.1%}",
            *came,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def predicted(kept: Mapping[str, Any]) -> str:
    """The correlations, and what the audits found."""
    ours = kept["ours"]
    lines = [
        "| rank correlation of | variants | with the final exploit rate | with the onset step |",
        "|---|---|---|---|",
    ]
    rows = {
        "the prediction": "predicted",
        "the prediction by the probes as they were at first": "predicted_then",
        "what the checkpoint exploits before training": "first_exploit",
    }
    for label, predictor in rows.items():
        cells = [_correlation(ours, f"{predictor}_{outcome}") for outcome in ("exploit_last", "onset_step")]
        lines.append(f"| {label} | {ours[f'{predictor}_variants']:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", "What the audits found of validity:", "", *(f"- {note}" for note in kept["notes"][1:])]
    )


def _correlation(ours: Mapping[str, float], key: str) -> str:
    rho, low, high = (ours[f"{key}{which}"] for which in ("", "_low", "_high"))
    return f"{rho:+.2f} [{low:+.2f}, {high:+.2f}]" if (low, high) != (0, 0) else "cannot be told: all are alike"


def picture(kept: Mapping[str, Any]) -> str:
    """Writes the picture beside the page, and names it there."""
    new = drawn(kept)
    if not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != new:
        PICTURE.write_text(new, encoding="utf-8")
    return f"![Paid and true success of the pairs by step and arm; the prediction against what came]({PICTURE.name})"


def drawn(kept: Mapping[str, Any]) -> str:
    """SVG: a row for each pair and a column for each arm, paid and true by step; below, the prediction against the
    final exploit rate of each variant."""
    found, parts = kept["peers"], []
    for column, arm in enumerate(ARMS):
        parts.append(_text(_x(column) + _WIDE / 2, 20, _ARM_NAMES[arm], "middle"))
    for row, name in enumerate(PAIRS):
        parts.append(_text(8, _y(row) + _HIGH / 2, name, "start"))
        for column, arm in enumerate(ARMS):
            parts += _panel(_x(column), _y(row), kept["spread"].get(f"steps of {name}: {arm}", {}))
    below = _y(len(PAIRS)) + 22
    rows = [
        (name, found[f"{name}: before"]["predicted"], found[f"{name}: alarm"]["exploit_last"])
        for name in VARIANTS
        if f"{name}: before" in found and f"{name}: alarm" in found
    ]
    parts += _scatter(_x(0), below, rows)
    width, height = _x(len(ARMS)), below + 2 * _HIGH + 48
    key = _text(_x(0), 36, "paid", "start", _PAID) + _text(_x(0) + 34, 36, "true", "start", _TRUE)
    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, key, *parts, "</svg>", ""])


def _x(column: int) -> int:
    return _LEFT + column * (_WIDE + _GAP)


def _y(row: int) -> int:
    return _TOP + row * (_HIGH + _GAP)


def _text(x: float, y: float, text: str, anchor: str, colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _frame(x: float, y: float, wide: float, high: float) -> list[str]:
    """Lines at 0, 50 and 100%."""
    found = []
    for share in (0.0, 0.5, 1.0):
        at = y + high * (1 - share)
        found.append(f'<line x1="{x}" y1="{at}" x2="{x + wide}" y2="{at}" stroke="{_GRID}"/>')
        found.append(_text(x - 4, at + 4, percent(share), "end"))
    return found


def _panel(x: float, y: float, steps: Mapping[str, Sequence[float]]) -> list[str]:
    parts = _frame(x, y, _WIDE, _HIGH)
    for key, colour in (("paid", _PAID), ("true", _TRUE)):
        values = steps.get(key, ())
        step = _WIDE / max(1, len(values) - 1)
        points = " ".join(f"{x + place * step:.1f},{y + _HIGH * (1 - v):.1f}" for place, v in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if values and key == "paid":
            parts.append(_text(x + _WIDE, y + _HIGH + 13, f"step {len(values)}", "end"))
    return parts


def _scatter(x: float, y: float, rows: Sequence[tuple[str, float, float]]) -> list[str]:
    wide, high = 2 * _WIDE + _GAP, 2 * _HIGH
    parts = [*_frame(x, y, wide, high), _text(x, y - 8, "paid and not true at the end", "start")]
    parts.append(_text(x + wide, y + high + 28, "predicted by the audit", "end"))
    parts += [_text(x + wide * share, y + high + 14, f"{share:g}", "middle") for share in (0.0, 0.5, 1.0)]
    for name, predicted_, came in rows:
        at, up = x + wide * predicted_, y + high * (1 - came)
        parts.append(f'<circle cx="{at:.1f}" cy="{up:.1f}" r="3.5" fill="{_PAID}"/>')
        parts.append(_text(at + 6, up - 3, name, "start"))
    return parts
