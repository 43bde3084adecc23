"""`research`: an agent looks facts up in a corpus where sources disagree, and answers with quotes.

The corpus is a small generated world, another one for each task, or what the user has (`corpus`). The tools only read:
they share an index, which no episode can change. What decides the reward stays in the task's data, and the quotes are
looked up in the index again when the episode is over.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.envs.research import world
from askesis.envs.research.corpus import Shelf, bare, normal, plain
from askesis.envs.research.policies import Habits, Oracle, Reader, Walker
from askesis.tools.search import Document, Found, Index, OpenTool, Passage, SearchTool
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Outcome,
    Policy,
    Reward,
    Session,
    Split,
    State,
    Task,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    nearest,
)

MOST_QUOTES, MOST_QUOTE, MOST_ANSWER = 4, 300, 200  # quotes, and characters of one and of an answer
ANSWER_SPEC = ToolSpec(
    name="answer",
    description="Give the answer, and quote what decides it, word for word.",
    parameters={
        "type": "object",
        "properties": {
            "quotes": {
                "type": "array",
                "maxItems": MOST_QUOTES,
                "items": {
                    "type": "object",
                    "properties": {
                        "document": {"type": "string", "maxLength": MOST_QUOTE},
                        "quote": {"type": "string", "maxLength": MOST_QUOTE},
                    },
                    "required": ["document", "quote"],
                },
            },
            "answer": {"type": "string", "maxLength": MOST_ANSWER},
        },
        "required": ["quotes", "answer"],
    },
)
WORLD_RULES = (
    "Answer from the corpus, and quote the sentence that decides. Registers are to be trusted, blogs and forums are "
    "not; of two registers the later one is."
)


@dataclass(slots=True)
class ResearchState:
    """One episode: what was searched and shown, and what was answered."""

    index: Index
    searches: int = 0
    shown: set[tuple[str, str]] = field(default_factory=set)  # documents, and the text of theirs that was read
    answer: str | None = None
    quotes: list[tuple[str, str]] = field(default_factory=list)

    def found(self, found: Found) -> None:
        """A search was answered."""
        self.searches += 1
        self.shown.update((hit.passage.document, normal(hit.excerpt)) for hit in found.hits)

    def opened(self, passage: Passage) -> None:
        """A passage was read."""
        self.shown.add((passage.document, normal(passage.text)))

    async def close(self) -> None:
        """Nothing of its own to free: the index is everybody's."""


@dataclass(frozen=True, slots=True)
class _Answer:
    state: ResearchState
    spec: ToolSpec = field(default=ANSWER_SPEC)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.answer = str(args["answer"])
        self.state.quotes = [(str(one["document"]), str(one["quote"])) for one in args["quotes"]]
        return ToolResult(text="answered", end=Outcome(by="policy", reason="submitted"))


class Research:
    """The environment. Options:

    corpus: what questions are asked of: a folder, `package:NAME`, or a list of them; empty: a generated world for each
    task. questions: a file of questions over the corpus, a JSON object a line; empty: they are made of it. levels:
    drawn evenly; see README.md; by default all that there are. hits: of one page of a search (2, in a corpus 5).
    max_turns, max_turn_tokens: of an episode (10 and 256, 16 and 1024). Raises `ConfigError` for senseless values, and
    for a corpus that is not there or cannot be asked about.
    """

    name = "research"

    def __init__(
        self,
        *,
        corpus: str | Sequence[str] = "",
        questions: str = "",
        levels: Sequence[int] | None = None,
        hits: int | None = None,
        max_turns: int | None = None,
        max_turn_tokens: int | None = None,
    ) -> None:
        if levels is not None and (not levels or set(levels) - set(world.LEVELS)):
            raise ConfigError(f"research: levels={list(levels)}: expected one or more of {list(world.LEVELS)}")
        if questions and not corpus:
            raise ConfigError(f"research: questions={questions!r} is given, and no corpus: expected corpus=FOLDER too")
        if questions and levels is not None:
            raise ConfigError("research: levels are of questions that are made, but questions=FILE is given")
        self._shelf = Shelf(corpus, questions=questions, levels=levels or ()) if corpus else None
        self._levels = tuple(levels or world.LEVELS)
        default_hits, turns, tokens = (5, 16, 1024) if corpus else (2, 10, 256)
        self._hits = default_hits if hits is None else hits
        self._limits = Limits(max_turns=max_turns or turns, max_turn_tokens=max_turn_tokens or tokens)
        self._worlds: weakref.WeakValueDictionary[str, Index] = weakref.WeakValueDictionary()

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000); of a corpus no more than can be made of it.

        The split of a world's task follows from a hash of its content; the files of a corpus are dealt out (documents,
        where files are few), and no question goes by those of both splits.
        """
        rng = random.Random(f"research/{split}/{seed}")
        most = 1000 if limit is None else limit
        if self._shelf is not None:
            return self._of_corpus(self._shelf, rng, split, most)
        found: dict[str, Task] = {}
        while len(found) < most:
            task = self._task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    def _of_corpus(self, shelf: Shelf, rng: random.Random, split: Split, most: int) -> list[Task]:
        found: dict[str, Task] = {}
        for question in shelf.questions(split, rng):
            if len(found) >= most:
                break
            task = Task(
                env=self.name,
                prompt=f"{shelf.rules}\n{question.text}",
                data={"corpus": shelf.index.name, **question.data()},
                limits=self._limits,
                split=split,
            )
            found.setdefault(task.id, task)
        return list(found.values())

    def _task(self, rng: random.Random, split: Split) -> Task:
        level = rng.choice(self._levels)
        drawn = world.draw(rng, level)
        data = {
            "level": level,
            "documents": [[one.id, one.source, one.date, one.body] for one in drawn.documents],
            "answer": drawn.answer,
            "hops": [{"query": hop.query, "accept": [[hop.document, hop.sentence]]} for hop in drawn.hops],
            "weak": [list(one) for one in drawn.weak],
        }
        prompt = f"{WORLD_RULES}\n{drawn.question}"
        return Task(env=self.name, prompt=prompt, data=data, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> ResearchState:
        """The index of the task's corpus; a world's is made by whoever comes first. Raises `EnvError` for a task of
        another corpus.
        """
        asked, shelf = task.data.get("corpus"), self._shelf
        if asked != (None if shelf is None else shelf.index.name):
            raise EnvError(f"research: task {task.id} is of another corpus than this environment was made with")
        if shelf is not None:
            return ResearchState(shelf.index)
        index = self._worlds.get(task.id)
        if index is None:
            documents = [
                Document(id=id, source=source, date=date, body=body)
                for id, source, date, body in task.data["documents"]
            ]
            index = self._worlds[task.id] = Index.of(documents, join=False)
        return ResearchState(index)

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """search, open, answer."""
        state = _research_state(state)
        return (
            SearchTool(index=state.index, hits=self._hits, on_found=state.found),
            OpenTool(index=state.index, on_opened=state.opened),
            _Answer(state),
        )

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0, and metrics of weight 0."""
        state = _research_state(state)
        data = trace.task.data
        same = bare if data.get("exact") else plain
        wanted = {same(str(one)) for one in (data["answer"], *data.get("also", ()))}
        right = state.answer is not None and same(state.answer) in wanted
        exist = [await _exists(state.index, document, quote) for document, quote in state.quotes]
        bear = [
            real and any(_bears(one, hop["accept"]) for hop in data["hops"])
            for real, one in zip(exist, state.quotes, strict=True)
        ]
        read = [one for one in data["hops"][-1]["accept"] if _seen(state, [one])]  # what is known by heart pays nothing
        decides = [real and _bears(one, read) for real, one in zip(exist, state.quotes, strict=True)]
        success = right and all(exist) and any(decides)
        rewards = [
            Reward(name="success", value=float(success)),
            Reward(name="right", value=float(right), weight=0.0),
            Reward(name="searches", value=float(state.searches), weight=0.0),
            Reward(name="found", value=_share(_seen(state, hop["accept"]) for hop in data["hops"]), weight=0.0),
        ]
        if state.quotes:
            rewards.append(Reward(name="quotes_exist", value=_share(exist), weight=0.0))
            rewards.append(Reward(name="quotes_bear", value=_share(bear), weight=0.0))
        weak = [one for one in data["weak"] if _seen(state, [one])]
        if weak and state.quotes:
            dropped = _share(not any(_bears(quote, [one]) for quote in state.quotes) for one in weak)
            rewards.append(Reward(name="dropped", value=dropped, weight=0.0))
        return rewards

    async def close(self) -> None:
        """Forget the worlds."""
        self._worlds.clear()

    # -- scripted policies ---------------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Answers every task."""
        return Oracle(task)

    def demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        """Looks things up: with `poor` habits for the cold start, `good` or `hasty` ones for comparison.

        In a generated world it goes by what it reads; in a corpus, whose language no script understands, it knows the
        way and errs as its habits have it.
        """
        habits = {"poor": Habits(), "good": Habits.good(), "hasty": Habits.hasty()}
        if quality not in habits:
            raise ConfigError(f"research: unknown demonstration quality {quality!r}{nearest(quality, habits)}")
        if self._shelf is not None:
            return Walker(task, seed=seed, habits=habits[quality])
        return Reader(task, seed=seed, habits=habits[quality])


async def _exists(index: Index, document: str, quote: str) -> bool:
    """Whether one passage of the document holds the quote, word for word."""
    text = normal(quote)
    if not text or len(text) > MOST_QUOTE:
        return False
    return any(text in normal(passage.text) for passage in await index.passages(document))


def _bears(quote: tuple[str, str], accept: Sequence[Sequence[str]]) -> bool:
    """Whether a quote is of one of these documents, and holds the text of it that decides."""
    return any(quote[0] == document and normal(text) in normal(quote[1]) for document, text in accept)


def _seen(state: ResearchState, accept: Sequence[Sequence[str]]) -> bool:
    """Whether a tool has shown one of these texts."""
    return any(document == d and normal(text) in shown for document, text in accept for d, shown in state.shown)


def _share(values: Any) -> float:
    found = list(values)
    return float(sum(found)) / max(1, len(found))


def _research_state(state: State) -> ResearchState:
    if not isinstance(state, ResearchState):
        raise EnvError(f"research: got a state of type {type(state).__name__}, expected the one from `Research.setup`")
    return state
