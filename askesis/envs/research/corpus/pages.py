"""Text files as documents: Markdown, reStructuredText, HTML and plain text, a document a file.

The text stays as it stands in the file, but HTML, of which the text alone is kept, with its links as Markdown has them.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser

from askesis.envs.research.corpus.entries import Entry, Link, X
from askesis.envs.research.corpus.sentences import blanks
from askesis.tools.search import Document

SUFFIXES = (".md", ".markdown", ".rst", ".txt", ".html", ".htm")
_HEADING = {
    ".md": re.compile(r"^#{1,2}[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE),
    ".rst": re.compile(r"^(\S.*)\n([=\-~#*^])\2{2,}[ \t]*$", re.MULTILINE),
}
_LINKS = {
    ".md": re.compile(r"(?<!!)\[(?P<label>[^\[\]\n]{2,80})\]\((?P<target>[^()\s#:]+)(?:#[^()\s]*)?\)"),
    ".rst": re.compile(r":doc:`(?P<label>[^<`\n]{2,80}?)(?:\s*<(?P<target>[^>`\n]+)>)?`"),
}
_LINKS[".html"] = _LINKS[".md"]  # as the text of a page has them
_BLOCKS = set("p div section article li ul ol table tr h1 h2 h3 h4 h5 h6 pre blockquote dl dt dd br main".split())
_HIDDEN = {"script", "style", "head", "nav", "footer"}


def page(text: str, *, name: str, package: str, date: str) -> Entry | None:
    """One file as an entry whose links still lead to names of files; None where it has no text.

    name: its path below the corpus, which is its id.
    """
    suffix = _suffix(name)
    title = ""
    if suffix == ".html":
        reader = _Reader()
        reader.feed(text)
        reader.close()
        text, title = reader.text(), reader.title
    if not text.strip():
        return None
    if match := _HEADING[suffix].search(text) if suffix in _HEADING else None:
        title = match.group(1).strip()
    document = Document(id=name, body=text, title=title or name, source=package, date=date)
    return Entry(document=document, group=name, subject="", facts=blanks(text, package), links=list(_links(text, name)))


def resolved(found: Sequence[Entry]) -> list[Entry]:
    """Subjects that tell each page from all others, and links to what is there."""
    titles = Counter(entry.document.title for entry in found)
    ids = {_stem(entry.document.id): entry.document.id for entry in found}
    ids |= {entry.document.id: entry.document.id for entry in found}
    return [replace(entry, subject=_subject(entry, titles), links=_known(entry, ids)) for entry in found]


def _subject(entry: Entry, titles: Mapping[str, int]) -> str:
    document = entry.document
    alone = titles[document.title] == 1 and document.title != document.id and '"' not in document.title
    return f'the page "{document.title}"' if alone else f"the page `{document.id}`"


def _known(entry: Entry, ids: Mapping[str, str]) -> list[Link]:
    found = []
    for link in entry.links:
        target = ids.get(link.target) or ids.get(_stem(link.target))
        if target is not None and target != entry.document.id:
            found.append(replace(link, target=target))
    return found


def _links(text: str, name: str) -> Iterator[Link]:
    """Links with a label that is the only one of its kind there; targets as paths below the corpus."""
    pattern = _LINKS.get(_suffix(name))
    if pattern is None:
        return
    matches = list(pattern.finditer(text))
    labels = Counter(match["label"].strip().casefold() for match in matches)
    for match in matches:
        label = match["label"].strip()
        if labels[label.casefold()] == 1 and '"' not in label:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), match["target"] or label))
            yield Link(phrase=f'the page that {X} links to as "{label}"', target=target, text=match.group().strip())


def _suffix(name: str) -> str:
    suffix = posixpath.splitext(name)[1].lower()
    return {".markdown": ".md", ".htm": ".html"}.get(suffix, suffix)


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


class _Reader(HTMLParser):
    """The text of a page, blocks as paragraphs, links to files as Markdown has them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._parts: list[str] = []
        self._hidden = 0
        self._targets: list[str] = []
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _BLOCKS:
            self._parts.append("\n\n")
            self._heading = tag == "h1" and not self.title
        elif tag == "a":
            target = dict(attrs).get("href") or ""
            self._targets.append("" if re.match(r"[a-z]+:|#|//", target) else target)
            self._parts.append("[" if self._targets[-1] else "")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in _BLOCKS:
            self._parts.append("\n\n")
            self._heading = False
        elif tag == "a" and self._targets:
            target = self._targets.pop()
            self._parts.append(f"]({target})" if target else "")

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        self._parts.append(re.sub(r"\s+", " ", data))
        if self._heading:
            self.title += data.strip()

    def text(self) -> str:
        """All of it, a paragraph a block."""
        blocks = [" ".join(block.split()) for block in "".join(self._parts).split("\n\n")]
        return "\n\n".join(block for block in blocks if block)
