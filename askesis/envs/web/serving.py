"""The server side of a site: what its pages are and what becomes of a form. Its state is in this process, in no page.

A site is an ASGI application that lives as long as its episode. It answers every request with a page: what makes no
sense is told on it, and never an exception, since those would count as the machinery's fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from askesis.tools.browser.network import Receive, Scope, Send

MOST_FIELDS, MOST_VALUE, MOST_RECORDS = 60, 500, 50  # fields of a form, characters of one, things that can be made
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("pages")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

Fields = Mapping[str, str]


class Form(dict[str, str]):
    """Fields as they were sent, without blanks around them; of several values the last. every: all of them."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.every = [(name[:MOST_VALUE], value.strip()[:MOST_VALUE]) for name, value in pairs]
        super().__init__(self.every)

    def all(self, name: str) -> list[str]:
        """All values of one field."""
        return [value for one, value in self.every if one == name]

    def text(self, name: str) -> str:
        """A field's value, empty where it is missing."""
        return self.get(name, "")


class Site:
    """One site. host: where it is. content: as the task has it; a site changes only what it copies of it."""

    host: ClassVar[str]
    brand: str = ""
    links: tuple[tuple[str, str], ...] = ()

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.brand = str(content.get("brand", self.brand))
        self.requests = 0
        self.notice = ""  # told on the next page

    def state(self) -> Any:
        """What decides the reward, as plain data."""
        raise NotImplementedError

    def get(self, path: str, query: Form) -> Response:
        """The page at a path."""
        raise NotImplementedError

    def post(self, path: str, form: Form) -> Response:
        """What becomes of a form."""
        return self.missing()

    def page(self, template: str, status: int = 200, /, **values: Any) -> Response:
        """A template as a page."""
        notice, self.notice = self.notice, ""
        common = {"brand": self.brand, "links": self.links, "hue": int(self.content.get("hue", 210)), "notice": notice}
        return HTMLResponse(
            _TEMPLATES.get_template(template).render(common | values),
            status_code=status,
            headers={"cache-control": "no-store"},
        )

    def missing(self) -> Response:
        """There is no such page."""
        return self.page("message.html.jinja", 404, title="Not found", text="There is no such page.")

    def sent_to(self, path: str, notice: str = "") -> Response:
        """On to another page, with a word on it."""
        self.notice = notice
        return RedirectResponse(path, status_code=303)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests += 1
        try:
            if request.method == "POST":
                pairs = parse_qsl(
                    (await request.body()).decode("utf-8", "replace"),
                    keep_blank_values=True,
                    max_num_fields=MOST_FIELDS,
                )
                response = self.post(request.url.path, Form(pairs))
            elif request.method in ("GET", "HEAD"):
                query = request.url.query
                response = self.get(
                    request.url.path, Form(parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_FIELDS))
                )
            else:
                response = self.page("message.html.jinja", 405, title="Not allowed", text="That is not allowed.")
        except ValueError:  # more fields than any form has
            response = self.page("message.html.jinja", 400, title="Bad request", text="Too many fields.")
        await response(scope, receive, send)


def number(text: str, low: int, high: int) -> int | None:
    """A whole number from `low` to `high` in plain digits, or None."""
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        return None
    value = int(text)
    return value if low <= value <= high else None
