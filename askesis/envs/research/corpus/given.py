"""Questions that a user brings along: a JSON object a line, each checked against the corpus before anything runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from askesis.envs.research.corpus.entries import MOST_TEXT, names, normal, rank
from askesis.envs.research.corpus.questions import FEWEST, Hop, Passages, Question, dealt_out
from askesis.types import ConfigError, Split, nearest

_FAULTS = 5  # that are shown of a file


class Quote(BaseModel):
    """Words of a document."""

    model_config = ConfigDict(extra="forbid", strict=True)
    document: str
    quote: str = Field(min_length=1)


class Given(BaseModel):
    """One line of the file.

    answer: one or several ways to write it. quotes: what bears it, in the order in which one is led to it; the last one
    decides. weak: what contradicts and is not to be quoted. split: by default dealt out.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    question: str = Field(min_length=1)
    answer: str | list[str]
    quotes: list[Quote] = Field(min_length=1)
    weak: list[Quote] = []
    split: Literal["train", "heldout"] | None = None

    @property
    def answers(self) -> list[str]:
        """All ways to write it."""
        return [self.answer] if isinstance(self.answer, str) else self.answer


def load(path: Path, passages: Passages, files: Mapping[str, str]) -> dict[Split, list[Question]]:
    """The questions of a file by split. Raises `ConfigError` with the lines that are not in order, and why.

    files: of each document that can be asked about.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"research: questions={str(path)!r} cannot be read: {error}") from None
    faults: list[str] = []
    found: list[tuple[Given, Question]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = Given.model_validate(json.loads(line))
            first = seen.setdefault(normal(given.question), number)
            if first != number:
                raise ConfigError(f"the same question as in line {first}")
            found.append((given, _question(given, passages, list(files))))
        except ValidationError as error:
            one = error.errors()[0]
            faults.append(f"line {number}: {'.'.join(map(str, one['loc'])) or 'the line'}: {one['msg']}")
        except (ValueError, ConfigError) as error:
            faults.append(f"line {number}: {error}")
    if faults:
        more = f"\n  and {len(faults) - _FAULTS} more" if len(faults) > _FAULTS else ""
        raise ConfigError(
            f"research: {path}: {len(faults)} of {len(found) + len(faults)} questions are not in order; expected a "
            'line like {"question": "...", "answer": "...", "quotes": [{"document": "...", "quote": "..."}]}\n  '
            + "\n  ".join(faults[:_FAULTS])
            + more
        )
    if not found:
        raise ConfigError(f"research: {path} holds no question")
    return _split(found, files, path)


def _question(given: Given, passages: Passages, documents: Sequence[str]) -> Question:
    """A line as a question. Raises `ConfigError` where the corpus does not bear it."""
    for answer in given.answers:
        if not answer.strip():
            raise ConfigError("the answer is empty")
        if names(given.question, answer):
            raise ConfigError(f"the question tells the answer {answer!r}")
    if not given.answers:
        raise ConfigError("answer: an empty list")
    hops = [_hop(one, passages, documents) for one in given.quotes]
    if not any(names(normal(given.quotes[-1].quote), answer) for answer in given.answers):
        raise ConfigError(f"the last quote decides, but holds none of the answers {given.answers}")
    weak = [(hop.document, hop.text, "") for hop in (_hop(one, passages, documents) for one in given.weak)]
    return Question(
        level=min(3, len(hops)),
        kind="given",
        text=given.question,
        answers=given.answers,
        hops=hops,
        weak=weak,
        exact=False,
    )


def _hop(one: Quote, passages: Passages, documents: Sequence[str]) -> Hop:
    text = normal(one.quote)
    if one.document not in passages:
        raise ConfigError(f"the corpus has no document {one.document!r}{nearest(one.document, documents)}")
    if len(text) > MOST_TEXT:
        said = f"{text[:60]!r}..."
        raise ConfigError(f"a quote of {one.document!r} has {len(text)} characters, at most {MOST_TEXT}: {said}")
    held = [at for at, passage in enumerate(passages.of(one.document), 1) if text in passage]
    if not held:
        raise ConfigError(
            f"no passage of {one.document!r} has the words {text[:80]!r} (a quote is within one passage: quote less)"
        )
    words = [word for word in text.split() if any(letter.isalnum() for letter in word)]
    return Hop(query=" ".join(words[:8]) or one.document, document=one.document, text=text, passage=held[0])


def _split(
    found: Sequence[tuple[Given, Question]], files: Mapping[str, str], path: Path
) -> dict[Split, list[Question]]:
    """By what the lines say, else dealt out: questions that have a part of their ways in common are in one split."""
    parts = _parts([question for _, question in found], files)
    said: dict[str, Split] = {}
    for (given, _), (own, place) in zip(found, parts, strict=True):
        if given.split is not None and said.setdefault(place, given.split) != given.split:
            raise ConfigError(
                f"research: {path}: questions of both splits hang together: {given.question!r} is to be in "
                f"{given.split!r}, but others that go by {', '.join(own)}, or by what is met on the way, are not; what "
                "both splits need is learned by heart: keep such questions in one"
            )
    counts = Counter(place for _, place in parts)
    heldout = dealt_out({place: (place, count) for place, count in counts.items() if place not in said})
    by_split: dict[Split, list[Question]] = {"train": [], "heldout": []}
    placed = [(question, place) for (_, question), (_, place) in zip(found, parts, strict=True)]
    for question, place in sorted(placed, key=lambda one: rank("question", one[0].text)):
        by_split[said.get(place, "heldout" if place in heldout else "train")].append(question)
    return by_split


def _parts(questions: Sequence[Question], files: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Of each question the files on its way (documents, where files are few), and which of them stands for all that
    hang together with it.
    """
    ways = [sorted({hop.document for hop in question.hops}) for question in questions]
    if len({files[id] for way in ways for id in way}) >= FEWEST:
        ways = [sorted({files[id] for id in way}) for way in ways]
    above: dict[str, str] = {}

    def top(one: str) -> str:
        while (higher := above.get(one, one)) != one:
            one = higher
        return one

    for first, *others in ways:
        for other in others:
            low, high = sorted((top(first), top(other)))
            above[high] = low
    return [(way, top(way[0])) for way in ways]
