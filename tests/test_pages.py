"""Figures on pages are those of the kept results, to the letter; and each that a page asks for exists."""

import json
import re

from bench import pages
from bench.result import RESULTS


def test_pages_say_what_was_measured():
    asked = set()
    for page in pages.pages():
        text = page.read_text(encoding="utf-8")
        assert pages.filled(text) == text, f"{page.name}: run python -m bench.pages"
        asked |= {name for name, _ in re.findall(r"<!-- bench (\w+):(\w+) -->", text)}
    assert {"agent", "engine", "sandbox", "step"} <= asked
    for name in asked:
        kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert kept["name"] == name
        assert {"command", "date", "machine", "goal", "ours", "peers", "ratio", "met"} <= kept.keys()
