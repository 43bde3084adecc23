"""A page as a reader has it: what is well formed, which elements there are, what text is seen."""

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """Parses strictly: every element is closed in its place, or the parser raises."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open, self.inside = [], [], [], {"script": [], "style": []}
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]].append(data)
        else:
            self.texts.append(data)

    @property
    def text(self):
        return "\n".join(self.texts)

    def all(self, tag, cls=None):
        return [
            attrs for name, attrs in self.elements if name == tag and (not cls or cls in attrs.get("class", "").split())
        ]

    @property
    def readings(self):
        return [json.loads(attrs["data-readings"]) for _, attrs in self.elements if "data-readings" in attrs]
