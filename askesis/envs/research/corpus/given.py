"""Questions that a user brings along: a JSON object a line, each checked against the corpus before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from askesis.envs.research.corpus.entries import MOST_TEXT, names, normal, rank
from askesis.envs.research.corpus.questions import Hop, Passages, Question, dealt_out
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
    decides. weak: what contradicts and is not to be quoted. split: by default dealt out by the document that decides.
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


def load(path: Path, passages: Passages, documents: Sequence[str]) -> dict[Split, list[Question]]:
    """The questions of a file by split. Raises `ConfigError` with the lines that are not in order, and why."""
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
            found.append((given, _question(given, passages, documents)))
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
    return _split(found, path)


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


def _split(found: Sequence[tuple[Given, Question]], path: Path) -> dict[Split, list[Question]]:
    """By what the lines say, else by documents that are dealt out: no document decides in both splits."""
    said: dict[str, Split] = {}
    for given, question in found:
        if given.split is not None:
            at = said.setdefault(question.hops[-1].document, given.split)
            if at != given.split:
                raise ConfigError(
                    f"research: {path}: {question.hops[-1].document!r} decides questions of both splits; a document "
                    "that does is learned by heart: keep it in one"
                )
    counts: dict[str, int] = {}
    for _, question in found:
        counts[question.hops[-1].document] = counts.get(question.hops[-1].document, 0) + 1
    free: Mapping[str, tuple[str, int]] = {id: (id, count) for id, count in counts.items() if id not in said}
    heldout = dealt_out(free)
    by_split: dict[Split, list[Question]] = {"train": [], "heldout": []}
    for _, question in sorted(found, key=lambda one: rank("question", one[1].text)):
        last = question.hops[-1].document
        by_split[said.get(last, "heldout" if last in heldout else "train")].append(question)
    return by_split
