"""Search over a local corpus: SQLite's FTS5, passages with stable names, and two tools that are never at a loss.

An index is made once of documents (in memory, or kept in a file named by a hash of its content), and from then on only
read: one object serves all episodes. Passages are ranked by BM25, a match in the title counting
four times; those of equal rank come in the order of the corpus.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from askesis.tools.passages import spans
from askesis.types import AskesisError, ConfigError, Session, ToolError, ToolResult, ToolSpec, nearest

T = TypeVar("T")
FORMAT = 1  # of the index file: another one is another name
SECONDS = 2.0  # of one query
MOST_QUERY, MOST_TERMS = 400, 24  # characters, words and phrases of one query
MOST_TEXT = 4000  # characters of one answer
_INLINE = 2000  # passages; a smaller index answers faster than a thread could be asked
_SCHEMA = """
create table documents (number integer primary key, id text unique not null, title, source, date, body not null);
create table passages (number integer primary key, document integer not null, ordinal integer not null,
                       start integer not null, stop integer not null, title, body);
create index of_document on passages (document, ordinal);
create virtual table found using fts5(title, body, content='passages', content_rowid='number',
                                      tokenize='porter unicode61 remove_diacritics 2');
"""


class QueryError(AskesisError):
    """A query that cannot be answered as it stands; the message is for who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a corpus is made of. id: stable, unique. source: who says it. date: sortable as text (`2024-05-01`)."""

    id: str
    body: str
    title: str = ""
    source: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A part of a document, verbatim: `text == body[start:stop]`. number: from 1, `of` that many."""

    document: str
    number: int
    of: int
    start: int
    stop: int
    text: str
    title: str = ""
    source: str = ""
    date: str = ""

    @property
    def name(self) -> str:
        """How a passage is told from all others: `document:number`, then source, date and title where it has them."""
        title = "" if self.title == self.document else self.title
        return " ".join(filter(None, (f"{self.document}:{self.number}", self.source, self.date, title)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage that was found. excerpt: the part of it around what was looked for. score: greater is better."""

    passage: Passage
    excerpt: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The hits of one page, and how many there are on all pages."""

    hits: Sequence[Hit]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Where to look. source: this one alone; since, until: dates, both included. Empty: anywhere."""

    source: str = ""
    since: str = ""
    until: str = ""

    def clause(self) -> tuple[str, list[str]]:
        """As SQL, with its values."""
        given = (self.source, self.since, self.until)
        kept = [(part, value) for part, value in zip(_FILTERS, given, strict=True) if value]
        return "".join(f" and {part}" for part, _ in kept), [_clean(value) for _, value in kept]


_FILTERS = ("d.source = ? collate nocase", "d.date >= ?", "d.date <= ?")
ANYWHERE = Filter()


class Index:
    """A searchable corpus, read-only. Make one with `Index.of` (in memory) or `Index.cached` (a file, made once)."""

    def __init__(self, connection: sqlite3.Connection, *, name: str) -> None:
        self._db, self._lock, self.name = connection, threading.Lock(), name
        weakref.finalize(self, connection.close)
        self._deadline = float("inf")
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 20_000)
        (self.size,) = connection.execute("select count(*) from passages").fetchone()
        listed = connection.execute("select distinct source from documents where source != '' order by source limit 50")
        self.sources: tuple[str, ...] = tuple(source for (source,) in listed)

    # -- making one ----------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, documents: Sequence[Document], *, passage: int = 600, join: bool = True) -> Index:
        """An index in memory.

        passage: most characters of a passage. join: put paragraphs together that fit into one passage. Raises
        `ConfigError` for an empty corpus, and for two documents of one id.
        """
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill(connection, documents, passage=passage, join=join)
        return cls(connection, name=content_hash(documents, passage=passage, join=join))

    @classmethod
    def cached(
        cls, documents: Sequence[Document], *, folder: Path | None = None, passage: int = 600, join: bool = True
    ) -> Index:
        """The same, in a file that is made once: `folder/HASH.db`, by default in the user's cache.

        Several processes may make it at the same time: it appears whole. Raises as `of`, and `ConfigError` where the
        folder cannot be written.
        """
        folder = cache_folder() if folder is None else folder
        name = content_hash(documents, passage=passage, join=join)
        path = folder / f"{name}.db"
        if not path.is_file():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
                    made = Path(scratch) / "index.db"
                    connection = sqlite3.connect(made)
                    try:
                        _fill(connection, documents, passage=passage, join=join)
                    finally:
                        connection.close()
                    made.replace(path)
            except OSError as error:
                raise ConfigError(
                    f"cannot keep the search index in {folder}: {error.strerror}; set XDG_CACHE_HOME to a folder that "
                    "can be written"
                ) from error
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            return cls(connection, name=name)
        except sqlite3.Error as error:
            raise ToolError(
                f"the search index {path} cannot be read ({error}); delete it, and it is made anew"
            ) from error

    # -- asking it -----------------------------------------------------------------------------------------------------

    async def search(
        self, query: str, *, where: Filter = ANYWHERE, limit: int = 5, skip: int = 0, excerpt: int = 200
    ) -> Found:
        """The passages for `query`: those with all of its words, or, where there are none, those with any.

        Raises `QueryError` for a query without a word in it, and for one that takes too long. query: words, which
        match whatever their endings; "words in quotes" stand together; `title:word` looks at titles alone; `word*`
        begins so; `-word` must not be there. excerpt: most characters of one.
        """
        wanted, unwanted = _terms(query)
        return await self._ask(lambda: self._search(wanted, unwanted, where, limit, skip, excerpt))

    async def passages(self, document: str) -> Sequence[Passage]:
        """All passages of a document in order; none where there is no such document."""
        return await self._ask(lambda: self._passages("d.id = ? order by p.ordinal", document))

    async def passage(self, document: str, number: int) -> Passage | None:
        """One passage."""
        found = await self._ask(lambda: self._passages("d.id = ? and p.ordinal = ?", document, number))
        return found[0] if found else None

    async def like(self, document: str, *, limit: int = 3) -> Sequence[str]:
        """Documents whose ids are near `document`: for whoever misspelt one."""
        return await self._ask(lambda: self._like(document, limit))

    async def _ask(self, query: Callable[[], T]) -> T:
        """Run a query under the lock and the clock, in a thread where it may take time."""

        def run() -> T:
            with self._lock:
                self._deadline = time.monotonic() + SECONDS
                try:
                    return query()
                except sqlite3.OperationalError as error:
                    if "interrupted" in str(error):
                        raise QueryError(f"stopped after {SECONDS:g} s: ask for fewer or rarer words") from None
                    raise ToolError(f"search index {self.name}: {error}") from error
                except sqlite3.Error as error:
                    raise ToolError(f"search index {self.name}: {error}") from error
                finally:
                    self._deadline = float("inf")

        return run() if self.size < _INLINE else await asyncio.to_thread(run)

    def _search(
        self, wanted: Sequence[str], unwanted: Sequence[str], where: Filter, limit: int, skip: int, excerpt: int
    ) -> Found:
        clause, values = where.clause()
        tables = "found join passages p on p.number = found.rowid join documents d on d.number = p.document"
        total, match = 0, ""
        for joint in (" AND ", " OR "):
            match = f"({joint.join(wanted)})" + "".join(f" NOT {term}" for term in unwanted)
            counted = f"select count(*) from {tables} where found match ?{clause}"
            (total,) = self._db.execute(counted, (match, *values)).fetchone()
            if total:
                break
        rows = self._db.execute(
            f"select {_COLUMNS}, bm25(found, 4.0, 1.0) as rank, snippet(found, 1, '', '', '...', 32) from {tables} "
            f"where found match ?{clause} order by rank, p.number limit ? offset ?",
            (match, *values, limit, skip),
        ).fetchall()
        hits = []
        for row in rows:
            passage = _passage(row[: len(_FIELDS)])
            text = passage.text if len(passage.text) <= excerpt else row[-1]
            hits.append(Hit(passage=passage, excerpt=cut(text, excerpt), score=-row[-2]))
        return Found(hits=hits, total=total)

    def _passages(self, which: str, *values: str | int) -> list[Passage]:
        rows = self._db.execute(
            f"select {_COLUMNS} from passages p join documents d on d.number = p.document where {which}",
            [_clean(value) if isinstance(value, str) else value for value in values],
        )
        return [_passage(row) for row in rows]

    def _like(self, document: str, limit: int) -> list[str]:
        word = re.sub(r"[%_\\]", r"\\\g<0>", _clean(document))[:100]
        found = self._db.execute(
            "select id from documents where id like ? escape '\\' order by length(id), id limit ?", (f"%{word}%", limit)
        )
        return [id for (id,) in found]


_FIELDS = ("id", "ordinal", "of", "start", "stop", "text", "title", "source", "date")
_COLUMNS = (
    "d.id, p.ordinal, (select count(*) from passages q where q.document = p.document), p.start, p.stop, p.body, "
    "d.title, d.source, d.date"
)


def _passage(row: Sequence[Any]) -> Passage:
    document, number, of, start, stop, text, title, source, date = row
    return Passage(
        document=document,
        number=number,
        of=of,
        start=start,
        stop=stop,
        text=text,
        title=title,
        source=source,
        date=date,
    )


def _fill(connection: sqlite3.Connection, documents: Iterable[Document], *, passage: int, join: bool) -> None:
    """Write the tables and the index. Raises `ConfigError`."""
    if passage < 1:
        raise ConfigError(f"search index: passages of {passage} characters; expected 1 or more")
    known: dict[str, tuple[int, str, str, str, str, str]] = {}
    pieces: list[tuple[int, int, int, int, int, str, str]] = []
    for at, one in enumerate(documents, 1):
        if one.id in known:
            raise ConfigError(f"search index: two documents have the id {one.id!r}; ids must be unique")
        title, body = _clean(one.title), _clean(one.body)
        known[one.id] = at, _clean(one.id), title, _clean(one.source), _clean(one.date), body
        for ordinal, (start, stop) in enumerate(spans(body, passage, join=join), 1):
            pieces.append((len(pieces) + 1, at, ordinal, start, stop, title, body[start:stop]))
    if not pieces:
        raise ConfigError(f"search index: nothing to search in {len(known)} documents: expected some text")
    connection.executescript(_SCHEMA)
    connection.executemany("insert into documents values (?, ?, ?, ?, ?, ?)", known.values())
    connection.executemany("insert into passages values (?, ?, ?, ?, ?, ?, ?)", pieces)
    connection.execute("insert into found(found) values ('rebuild')")
    connection.commit()


def content_hash(documents: Iterable[Document], *, passage: int, join: bool) -> str:
    """32 hex digits over all that decides what an index finds."""
    digest = hashlib.sha256(repr((FORMAT, passage, join)).encode())
    for one in documents:
        for text in (one.id, one.title, one.source, one.date, one.body):
            data = text.encode("utf-8", "replace")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


def cache_folder() -> Path:
    """Where indexes are kept: `$XDG_CACHE_HOME/askesis/search`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "askesis" / "search"


def cut(text: str, most: int) -> str:
    """`text`, or its beginning and the number of characters that are missing."""
    return text if len(text) <= most else f"{text[:most]}... [{len(text) - most} more characters]"


def _clean(text: str) -> str:
    """What SQLite can hold: no half of a surrogate pair, no NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")


_TERM = re.compile(r'(?P<no>-)?(?:(?P<field>title|body):)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))', re.IGNORECASE)


def _terms(query: str) -> tuple[list[str], list[str]]:
    """What must be found and what must not, in FTS5's syntax: every word quoted, so that none is read as an operator.

    Raises `QueryError`.
    """
    if len(query) > MOST_QUERY:
        raise QueryError(f"the query has {len(query)} characters, at most {MOST_QUERY}: ask for fewer words")
    wanted: list[str] = []
    unwanted: list[str] = []
    for match in _TERM.finditer(_clean(query)):
        text = match["phrase"] if match["word"] is None else match["word"]
        if not any(character.isalnum() for character in text):
            continue
        prefix = " *" if match["word"] and text.endswith("*") else ""
        column = f"{match['field'].lower()} : " if match["field"] else ""
        (unwanted if match["no"] else wanted).append(f'{column}"{text.rstrip("*")}"{prefix}')
    if not wanted:
        raise QueryError("nothing to look for: give at least one word")
    if len(wanted) + len(unwanted) > MOST_TERMS:
        raise QueryError(f"the query has {len(wanted) + len(unwanted)} words, at most {MOST_TERMS}: give the rarest")
    return wanted, unwanted


# -- the tools ---------------------------------------------------------------------------------------------------------

_TEXT: Mapping[str, Any] = {"type": "string"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 1, "maximum": 100_000}
SEARCH_SPEC = ToolSpec(
    name="search",
    description="Search the corpus for words.",
    parameters={
        "type": "object",
        "properties": {
            "query": {**_TEXT, "description": 'words; "a phrase", title:word, word*, -word'},
            "source": {**_TEXT, "description": "only this source"},
            "since": {**_TEXT, "description": "earliest date"},
            "until": {**_TEXT, "description": "latest date"},
            "page": {**_COUNT, "description": "further hits"},
        },
        "required": ["query"],
    },
)
OPEN_SPEC = ToolSpec(
    name="open",
    description="Read a passage of a document.",
    parameters={
        "type": "object",
        "properties": {"document": _TEXT, "passage": _COUNT},
        "required": ["document"],
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTool:
    """`search(query, source, since, until, page)`: one line a hit. hits: of a page; excerpt: characters of a hit."""

    index: Index
    hits: int = 5
    excerpt: int = 200
    on_found: Callable[[Found], None] = lambda found: None
    spec: ToolSpec = field(default=SEARCH_SPEC)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        """Answers every query; what is wrong with one is said in the answer."""
        where = Filter(**{key: str(args.get(key, "")).strip() for key in ("source", "since", "until")})
        page = int(args.get("page", 1))
        skip = (page - 1) * self.hits
        try:
            found = await self.index.search(
                str(args["query"]), where=where, limit=self.hits, skip=skip, excerpt=self.excerpt
            )
        except QueryError as error:
            return ToolResult(text=f"error: {error}", error=True)
        self.on_found(found)
        return ToolResult(text=cut(self._shown(found, where, page), MOST_TEXT))

    def _shown(self, found: Found, where: Filter, page: int) -> str:
        if not found.hits:
            if found.total:
                return f"no page {page}: {found.total} found, {self.hits} on a page"
            known = self.index.sources
            if where.source and where.source.lower() not in [source.lower() for source in known]:
                return f"no source {where.source!r}{nearest(where.source, known)} (sources: {', '.join(known[:10])})"
            return "nothing found"
        lines = [f"{hit.passage.name}: {hit.excerpt}" for hit in found.hits]
        more = found.total - (page - 1) * self.hits - len(found.hits)
        if more > 0:
            lines.append(f"({more} more: page {page + 1})")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTool:
    """`open(document, passage)`: a passage as it stands, the first one unless another is asked for."""

    index: Index
    on_opened: Callable[[Passage], None] = lambda passage: None
    spec: ToolSpec = field(default=OPEN_SPEC)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        """Answers every call; what is wrong with one is said in the answer."""
        document = str(args["document"])
        name, colon, tail = document.rpartition(":")
        number = int(args.get("passage", 1))
        passage = await self.index.passage(document, number)
        if passage is None and colon and tail.isdecimal() and len(tail) < 7:  # `document:passage`, as hits are named
            passage = await self.index.passage(name, int(tail))
        if passage is not None:
            self.on_opened(passage)
            return ToolResult(text=cut(f"{passage.name} (of {passage.of}):\n{passage.text}", MOST_TEXT))
        known = await self.index.passages(document)
        if known:
            return ToolResult(text=f"{document} has no passage {number}: it has {len(known)}", error=True)
        near = await self.index.like(document)
        hint = f"; like it: {', '.join(near)}" if near else ""
        return ToolResult(text=f"no document {cut(document, 100)!r}{hint}", error=True)
