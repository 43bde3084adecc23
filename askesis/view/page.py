"""Pages: templates with everything escaped, one file each, which asks the network for nothing.

The page's policy lets only our own script and style run, by their hashes: were something of a model's ever to slip
through the escaping, the browser would still not run it.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from askesis.view.charts import draw, ends, interval_bar, readings
from askesis.view.figures import points, visible, written

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"written": written, "points": points, "visible": visible}
_TEMPLATES.globals |= {"draw": draw, "ends": ends, "interval_bar": interval_bar, "readings": readings}


def render_page(template: str, **content: Any) -> str:
    """A template of this room as HTML, in valid UTF-8 whatever `content` holds."""
    style, script = (_TEMPLATES.get_template(f"page.{kind}.jinja").render() for kind in ("css", "js"))
    html = _TEMPLATES.get_template(template).render(
        style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script), **content
    )
    return html.encode(errors="replace").decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
