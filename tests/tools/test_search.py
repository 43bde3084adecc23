"""The search tool: what is found, in which words, and what queries that are none get to read."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.tools.search import Document, Filter, Index, OpenTool, QueryError, SearchTool
from askesis.types import ConfigError

LIBRARY = (
    Document(id="d1", title="Cats", source="register", date="2019", body="The cat sat.\n\nIt slept on the mat."),
    Document(id="d2", source="blog", date="2021", body="A cat never sleeps; a cat hunts."),
    Document(id="d3", source="forum", date="2016", body="Dogs bark at cats."),
)


@pytest.fixture(scope="module")
def index():
    return Index.of(LIBRARY, join=False)


def run(work):
    return asyncio.run(work)


def documents(found):
    return [hit.passage.document for hit in found.hits]


def test_words_fields_phrases_and_filters_find_what_they_say(index):
    assert set(documents(run(index.search("cat")))) >= {"d1", "d2"}
    assert documents(run(index.search('"sat" -hunts'))) == ["d1"]
    assert documents(run(index.search("title:cats"))) and set(documents(run(index.search("title:cats")))) == {"d1"}
    assert documents(run(index.search("cat", where=Filter(source="BLOG")))) == ["d2"]
    assert "d2" not in documents(run(index.search("cat*", where=Filter(until="2019"))))
    first, second = run(index.search("cat", limit=1)), run(index.search("cat", limit=1, skip=1))
    assert first.total == second.total and first.hits[0].passage != second.hits[0].passage


def test_passages_are_the_documents_own_words(index):
    for document in LIBRARY:
        passages = run(index.passages(document.id))
        assert [passage.number for passage in passages] == list(range(1, len(passages) + 1))
        assert all(document.body[one.start : one.stop] == one.text for one in passages)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet='"*-:()^ NEARORNOTtitlebdy', max_size=40))
def test_no_query_breaks_the_index(query):
    shared = Index.of(LIBRARY)
    before = run(shared.search("cat")).hits
    result = run(SearchTool(index=shared)({"query": query}, None))
    assert result.text and result.end is None
    assert run(shared.search("cat")).hits == before


def test_what_cannot_be_answered_is_said(index):
    with pytest.raises(QueryError, match="nothing to look for"):
        run(index.search("?!"))
    tool, read = SearchTool(index=index), OpenTool(index=index)
    assert run(tool({"query": "cat", "source": "blogs"}, None)).text.startswith("no source 'blogs'")
    assert run(tool({"query": "cat", "page": 9}, None)).text.startswith("no page 9")
    assert run(read({"document": "d9"}, None)).error
    assert run(read({"document": "d1", "passage": 7}, None)).text == "d1 has no passage 7: it has 2"
    assert run(read({"document": "d1:2"}, None)).text.endswith("It slept on the mat.")
    with pytest.raises(ConfigError):
        Index.of([LIBRARY[0], LIBRARY[0]])
    with pytest.raises(ConfigError):
        Index.of([])
