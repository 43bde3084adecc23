"""Figures in README and docs come from `bench/results`: what stands between two marks is written, never typed.

`<!-- bench agent:table -->` ... `<!-- /bench -->` holds what the function `table` of `bench/agent.py` makes of
`bench/results/agent.json`. `python -m bench.pages` writes all pages anew, and so does `--keep`.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

from bench.result import RESULTS

ROOT = Path(__file__).resolve().parent.parent
_MARKED = re.compile(r"(<!-- bench (\w+):(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def pages() -> list[Path]:
    """The pages that may hold figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "askesis").rglob("*.md"))]


def filled(text: str) -> str:
    """`text` with every marked place as the kept results have it; places without a result stay as they are."""

    def fill(match: re.Match[str]) -> str:
        opening, name, view, closing = match.groups()
        kept = RESULTS / f"{name}.json"
        if not kept.is_file():
            return match.group(0)
        written = getattr(importlib.import_module(f"bench.{name}"), view)(json.loads(kept.read_text(encoding="utf-8")))
        return f"{opening}{written.strip()}\n{closing}"

    return _MARKED.sub(fill, text)


def write() -> list[Path]:
    """Fill all pages; those that changed."""
    changed = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


if __name__ == "__main__":
    for changed_page in write():
        print(changed_page.relative_to(ROOT))
