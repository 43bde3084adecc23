"""What a corpus is made into: documents that can be asked about, what they say, and what they lead to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from askesis.tools.search import Document

X, V = "\u27eax\u27eb", "\u27eav\u27eb"  # in a question and a claim: where the subject stands, and the value
MOST_TEXT = 280  # characters of what decides: less than a quote may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that a document says and that can be asked.

    kind: which sort of fact. question: with `X` where the subject stands, or without it where the subject is what is
    asked. claim: how somebody else would put it, with `X` and `V`. value: the answer; also: other ways to write it.
    text: what decides, as it stands in the document. pool: facts of one pool have values that could stand for each
    other.
    """

    kind: str
    question: str
    claim: str
    value: str
    text: str
    pool: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A document leads to another. phrase: how the other is called by it, with `X` for the one that leads.

    target: its id. text: what says so, as it stands in the document.
    """

    phrase: str
    target: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A document that can be asked about. group: the file that it comes from. subject: what a question calls it.

    described: what it says of itself in one sentence; empty where it does not.
    """

    document: Document
    group: str
    subject: str
    described: str = ""
    facts: Sequence[Fact] = ()
    links: Sequence[Link] = field(default=())


def normal(text: str) -> str:
    """A text with every run of white space as one space: what a quote is compared by."""
    return " ".join(text.split())


def bare(text: str) -> str:
    """An answer without what is no part of it: quotation marks around it, a full stop."""
    return normal(text).rstrip(".").strip("\"'` ")


def plain(text: str) -> str:
    """The same, whether letters are capitals or not."""
    return bare(text).casefold()


def names(text: str, value: str) -> bool:
    """Whether a value stands in a text, not as part of a longer word."""
    return bool(re.search(rf"(?<!\w){re.escape(plain(value))}(?!\w)", text.casefold()))


def rank(*parts: str) -> str:
    """An order without favour that is the same everywhere."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
